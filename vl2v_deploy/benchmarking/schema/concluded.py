"""The concluded half of a report: a pure function of the raw half and of what its user gave."""

from __future__ import annotations

from typing import Literal, TypeAlias

from vl2v_deploy.benchmarking.scenario import Strict
from vl2v_deploy.benchmarking.schema.cascade import CascadeResult
from vl2v_deploy.benchmarking.schema.measured import Role, Scope

YesNo: TypeAlias = Literal["yes", "no", "unclear"]


class ClassAccuracy(Strict):
    """One class in one domain: images, and how many were right."""

    n: int
    correct: int


class DomainAccuracy(Strict):
    """Accuracy of one engine in one domain; shares in [0, 1].

    low, high:         95 % interval of `accuracy`; `interval` says how it was found
    ece:               expected calibration error, 15 bins
    agreement_torch:   share of images with the torch student's label; None where that was not measured
    agreement_teacher: the same of the teacher
    """

    role: Role
    n: int
    of: int
    correct: int
    accuracy: float
    low: float
    high: float
    interval: str
    ece: float
    agreement_torch: float | None
    agreement_teacher: float | None
    per_class: dict[str, ClassAccuracy]


class Timing(Strict):
    """Statistics of one cell; a percentile with fewer than ten samples beyond it is None."""

    scope: Scope
    batch: int
    threads: int
    streams: int
    n: int
    mean_ms: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    images_per_s: float
    steady: bool


class ServerResult(Strict):
    """The highest arrival rate held within the bound; None when even the lowest tried was not."""

    latency_bound_ms: float
    percentile: int
    rate_per_s: float | None
    why: str | None


class RooflineShare(Strict):
    """How near an engine comes to the machine's limit, session only, at one batch size and thread count.

    limit_images_per_s: see judge/roofline.py
    share:              measured / limit
    """

    batch: int
    threads: int
    bound_by: Literal["compute", "memory"]
    limit_images_per_s: float
    images_per_s: float
    share: float


class EngineResult(Strict, frozen=False):
    """What follows from the measurements of one engine.

    id_accuracy:      mean over the source domains; ood is the target's entry in `domains`
    worst_domain:     the name of the domain with the lowest accuracy
    latency:          encoded image to label at the smallest batch and one stream
    best:             the setting with the most images per second, encoded image to label
    joules_per_image: above idle where idle is known; None without a meter
    pareto:           whether no other engine beats it; set once all results are known
    """

    domains: dict[str, DomainAccuracy]
    id_accuracy: float
    worst_domain: str
    timings: list[Timing]
    latency: Timing
    best: Timing
    server: ServerResult | None
    joules_per_image: float | None
    roofline: list[RooflineShare]
    usd_per_million: float | None
    priced_as: str | None
    pareto: bool = False


class BreakEven(Strict):
    """Inferences after which `engine` has paid for the distillation, against one way to run the teacher."""

    engine: str
    against: Literal["teacher API", "teacher hosted"]
    inferences: float | None


class Sensitivity(Strict):
    """USD per million of every priced engine at another utilisation."""

    utilisation: float
    usd_per_million: dict[str, float]


class Economics(Strict):
    """Costs in US dollars; formulas are in benchmarking/judge/cost.py.

    distillation: how distillation_usd was computed, in words
    """

    teacher_api_usd_per_million: float | None
    teacher_hosted_usd_per_million: float | None
    distillation_usd: float | None
    distillation: str | None
    break_even: list[BreakEven]
    sensitivity: list[Sensitivity]


class Verdict(Strict):
    """The answer to one question of the reader.

    about:     identifies the question: accuracy, saving, break-even, pareto, fp16, int8, parity, failed or
               unavailable
    question:  short, and such that yes is the good answer
    answer:    unclear = more rounds or images are needed
    text:      the reason for the answer, with its numbers
    threshold: what decided the answer
    numbers:   those of `text` and `threshold`, unrounded
    """

    about: str
    question: str
    answer: YesNo
    text: str
    threshold: str
    numbers: dict[str, float | str | None]


class Results(Strict):
    """The concluded half of a report.

    primary: the student's engine that the headline is about; None when none was measured
    cascade: of that engine and the teacher; None without the answers of both
    """

    primary: str | None
    headline: str
    engines: dict[str, EngineResult]
    economics: Economics
    verdicts: list[Verdict]
    warnings: list[str]
    cascade: CascadeResult | None = None
