"""How the fake vendor behaves; every field can be changed while it runs, by POST /control."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Refused before anything is billed, each with its status.
Refusal = Literal[
    "bad_request",  # 400
    "unauthorized",  # 401
    "payment_required",  # 402
    "forbidden",  # 403
    "timeout",  # 408
    "rate_limited",  # 429 with Retry-After as the settings say
    "quota",  # 429 whose words say that money is the reason
    "low_credit",  # 400 whose words say so
    "server_error",  # 500
    "overloaded",  # 503
]
# Billed, then answered in a way that no client may trust. `shuffled` alone is right: rows in another order,
# as their index says (APIs without an index answer in order then).
Distortion = Literal[
    "shuffled",
    "swapped",  # two embeddings changed places, and nothing says so
    "duplicate_index",
    "missing_index",
    "wrong_count",
    "nan",
    "zero",
    "other_dimension",
    "garbage",  # 200 with an HTML page
    "truncated",  # 200 with half of the JSON
    "server_error_billed",  # 500 after the work was done
]
# The connection ends: before anything is billed, after it, or within the answer. `late` answers after late_s.
Cut = Literal["cut_before", "cut_after", "cut_midway", "late"]
Fault = Refusal | Distortion | Cut


class Settings(BaseModel):
    """Limits, answers and faults.

    script: what happens to the next requests, one each, before `faults` are drawn again
    faults: probability of each; their sum is at most 1
    """

    model_config = ConfigDict(extra="forbid")

    dimensions: Annotated[int, Field(ge=2)] = 16
    model: str | None = None  # None = any name is served
    model_version: str = "1"
    moved: float = 0.0  # angle in radians between the embeddings of the old model and this one
    text_trap: bool = False  # an image's data URL is embedded as if it were a text
    requests_per_minute: Annotated[float | None, Field(gt=0)] = None
    images_per_minute: Annotated[float | None, Field(gt=0)] = None
    burst_s: Annotated[float, Field(gt=0)] = 1.0  # of the limits: so much may come at once
    retry_after: Literal["seconds", "date", "ms", "none"] = "seconds"
    retry_after_s: float | None = None  # what it says; None = the truth
    latency_s: Annotated[float, Field(ge=0)] = 0.0
    late_s: Annotated[float, Field(ge=0)] = 2.0
    script: list[Fault | Literal["none"]] = []
    faults: dict[Fault, Annotated[float, Field(ge=0, le=1)]] = {}
    seed: int = 0  # of which requests `faults` strike

    @model_validator(mode="after")
    def _at_most_certain(self) -> Settings:
        if sum(self.faults.values()) > 1:
            raise ValueError(f"faults: their probabilities add up to {sum(self.faults.values()):g}, above 1")
        return self
