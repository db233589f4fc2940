"""What a report's user gives: prices, and what is asked of a cascade."""

from __future__ import annotations

from datetime import date

from pydantic import Field, model_validator

from vl2v_deploy.benchmarking.scenario import Strict


class Prices(Strict):
    """What things cost; None = not given, and nothing is computed from it.

    usd_per_hour:         of the machine that was measured
    teacher_usd_per_hour: of the machine that would host the teacher; None = the same
    usd_per_1k_queries:   of the teacher as a paid API
    utilisation:          share of the paid time in which there are images, in (0, 1]
    distillation_usd:     total cost of the distillation; None = computed from hours and queries
    distillation_hours:   machine hours; None = as the run recorded
    distillation_usd_per_hour: price of that machine; None = usd_per_hour
    source:               where the prices are from: a price file and its date, or the command line
    dated:                day of the price file, YYYY-MM-DD; None without one
    """

    usd_per_hour: float | None = Field(None, ge=0, allow_inf_nan=False)
    teacher_usd_per_hour: float | None = Field(None, ge=0, allow_inf_nan=False)
    usd_per_1k_queries: float | None = Field(None, ge=0, allow_inf_nan=False)
    utilisation: float = Field(1.0, gt=0, le=1)
    distillation_usd: float | None = Field(None, ge=0, allow_inf_nan=False)
    distillation_hours: float | None = Field(None, ge=0, allow_inf_nan=False)
    distillation_usd_per_hour: float | None = Field(None, ge=0, allow_inf_nan=False)
    source: str = "the command line"
    dated: date | None = None


class CascadeTerms(Strict):
    """What is asked of a cascade; None = nothing.

    max_usd_per_million: that a million images may cost, the student's own cost included
    min_ood_accuracy:    to be reached on the target, in (0, 1]
    teacher_p50_ms:      latency of the teacher's API; None = as measured here, where it was
    teacher_p99_ms:      the same; None = not known
    """

    max_usd_per_million: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    min_ood_accuracy: float | None = Field(default=None, gt=0, le=1)
    teacher_p50_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    teacher_p99_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _rising(self) -> CascadeTerms:
        if self.teacher_p99_ms is not None and self.teacher_p99_ms < (self.teacher_p50_ms or 0.0):
            raise ValueError("teacher_p99_ms: expected at least the p50")
        if self.teacher_p99_ms is not None and self.teacher_p50_ms is None:
            raise ValueError("teacher_p99_ms: needs the p50 too")
        return self
