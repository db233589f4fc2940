"""What a benchmark measures: engines, batches, threads, streams, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.recipe.problems import problems_of
from vl2v_deploy.regular_files import read_text

Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A frozen model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SingleStream(Strict):
    """MLPerf-style: one image after the other, each sent when the last is answered.

    queries: at most this many, for at most `seconds`
    """

    queries: int = Field(200, ge=20)
    seconds: Seconds = 10.0


class Offline(Strict):
    """MLPerf-style: all images available at once; throughput with the best batch, threads and streams."""

    seconds: Seconds = 3.0


class Server(Strict):
    """MLPerf-style: images arrive by a Poisson process; the highest rate whose latency is within the bound.

    percentile: of the latency that must stay within `latency_bound_ms`
    seconds:    of each rate that is tried; longer where the percentile needs more samples
    rates:      how many rates are tried
    """

    latency_bound_ms: float = Field(100.0, gt=0, allow_inf_nan=False)
    percentile: Literal[50, 90, 99] = 99
    seconds: Seconds = 5.0
    rates: int = Field(6, ge=1)
    seed: int = 0


class Scenario(Strict):
    """One benchmark; every field has a default.

    engines:           runtime:precision[@provider] each; 'files' = every ONNX file of the bundle in
                       onnxruntime, 'all' = whatever runs on this machine; one that is named and cannot run
                       here is an error, one of 'files' or 'all' is reported with the reason
    teacher:           measure the teacher too
    device:            of the teacher, and of the engines whose name has no @provider
    threads:           of every engine, each number in its own process; empty = as many as affinity, CPU quota
                       and physical cores allow
    batches:           batch sizes
    streams:           calls in flight at once; more than one is timed from encoded bytes to label only, for
                       throughput
    rounds:            in which engines take turns
    samples_per_round: the most samples of one engine, scope and batch in a round
    seconds:           of the interleaved timing, after at most half as long for warm-up; slow engines still
                       get their fewest samples and two calls of warm-up
    fresh_processes:   load every engine again for its loads, after all others have ended; False keeps the
                       processes of the timing, which idle meanwhile, where the number of threads is the same
    limit_s:           of everything together; loads of the slowest engines and the roofline are left out, and
                       the report names them, where they would not fit; None = no limit
    timeout_s:         an engine silent for longer counts as stalled
    max_images:        the most images per domain for accuracy; None = all
    roofline:          measure the machine's peaks and count each graph's work
    energy:            measure joules where there is a meter
    buy_validation:    send a vendor the source validation images of a cascade that it has not answered yet
    """

    engines: tuple[str, ...] = Field(("files",), min_length=1)
    teacher: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    threads: tuple[Annotated[int, Field(ge=1)], ...] = ()
    batches: Counts = (1, 8, 32)
    streams: Counts = (1,)
    rounds: int = Field(10, ge=1)
    samples_per_round: int = Field(100, ge=1)
    seconds: Seconds = 20.0
    fresh_processes: bool = True
    limit_s: Seconds | None = None
    timeout_s: Seconds = 120.0
    max_images: int | None = Field(None, ge=1)
    single_stream: SingleStream | None = None
    offline: Offline | None = None
    server: Server | None = None
    roofline: bool = False
    energy: bool = False
    buy_validation: bool = False

    @model_validator(mode="after")
    def _different(self) -> Scenario:
        for name in ("engines", "threads", "batches", "streams"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"{name}: expected different values, got {', '.join(map(str, given))}")
        return self


def load_scenario(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """The scenario in a YAML file, or the default one, with `overrides` (field: value) put in.

    Raises BenchmarkError with one line for each problem: file, field, what was expected.
    """
    tree = {} if path is None else read_fields(path, such_as="engines:")
    return validated(Scenario, {**tree, **(overrides or {})}, source=str(path or "scenario"))


def read_fields(path: Path, such_as: str) -> dict[str, Any]:
    """The fields of a YAML file; none for an empty one.

    such_as: a field that an error names as an example

    Raises BenchmarkError for a file that is missing, is not YAML, or holds no fields.
    """
    try:
        tree = yaml.safe_load(read_text(path))
    except OSError as error:
        raise BenchmarkError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BenchmarkError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if tree is not None and not isinstance(tree, dict):
        raise BenchmarkError(f"{path}: expected fields such as {such_as}, got {type(tree).__name__}")
    return tree or {}


def validated(model: type[Model], tree: Mapping[str, Any], source: str) -> Model:
    """The model of plain values; BenchmarkError with one line for each problem.

    source: what the errors name, usually a file
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = problems_of(error, model)
        lines = [f"{source}: {f'{field}: ' if field else ''}{what}" for field, what in problems.items()]
        raise BenchmarkError("\n".join(lines)) from error
