"""report.json: what was measured, raw, and what was concluded from it. Format 3.

`measurements` holds raw samples and answers; `results` is a pure function of them and of `prices`
(`judge.judge`), so that every figure can be computed again.
"""

from __future__ import annotations

from datetime import date
from typing import Literal, TypeAlias

from pydantic import Field

from vl2v_deploy.benchmarking.scenario import Scenario, Strict
from vl2v_deploy.client.manifest import RunAccuracy, RunFacts

FORMAT: Literal[3] = 3
Role: TypeAlias = Literal["source", "target"]
YesNo: TypeAlias = Literal["yes", "no", "unclear"]
Kind: TypeAlias = Literal["student", "teacher"]
Status: TypeAlias = Literal["measured", "failed", "unavailable"]
# What lies between the clock's two readings.
#   session           the network only: input and output stay where it computes
#   tensor_to_logits  preprocessed tensor in host memory to logits in host memory
#   bytes_to_label    encoded image bytes to label, as an application calls it
Scope: TypeAlias = Literal["session", "tensor_to_logits", "bytes_to_label"]


class DomainImages(Strict):
    """The images of one domain that accuracy was measured on.

    of:     how many the protocol has; more than len(names) where it was subsampled
    names:  paths below the data root; predictions are in this order
    labels: class index of each
    groups: group of each; images of one group stand or fall together
    """

    role: Role
    of: int
    names: list[str]
    labels: list[int]
    groups: list[str]


class ImageSet(Strict):
    """All images that accuracy was measured on; `target` is the domain that the student never saw.

    notices: what is odd about the folder: files not used, images left out, copies; none in older reports
    """

    root: str
    target: str
    domains: dict[str, DomainImages]
    skipped: list[str]
    notices: list[str] = Field(default_factory=list)


class BundleFacts(Strict):
    """Which bundle was measured; `recorded_accuracy` and `run` are copied from its manifest."""

    name: str
    classes: list[str]
    image_size_px: int
    recorded_accuracy: RunAccuracy | None
    run: RunFacts | None


class Provenance(Strict):
    """What the student was distilled from, beside what it was measured with; None where not known.

    teacher_queries: images that had to be sent to the teacher for this benchmark
    """

    distilled_teacher: str | None
    teacher: str | None
    teacher_queries: int | None
    distilled_data: str | None
    data: str


class ProcessFacts(Strict):
    """One worker process, of one engine at one number of threads.

    peak_rss_bytes:   the most resident memory; None where the system does not report it
    gpu_memory_bytes: the most GPU memory of this process; None without a GPU or where it is not reported
    """

    threads: int
    provider: str
    load_s: float
    peak_rss_bytes: int | None
    gpu_memory_bytes: int | None = None
    versions: dict[str, str]


class Predictions(Strict):
    """An engine's answers on one domain, in the order of the images.

    labels:     class index of each image
    confidence: its largest softmax probability, four decimals
    """

    labels: list[int]
    confidence: list[float]


class TimingCell(Strict):
    """Raw times in seconds of one engine at one scope, batch size, number of threads and of streams.

    streams:   calls in flight at once; a sample is then the time from one call's start to its end
    warm_up_s: iterations until steady, not counted; the first is the cold start
    steady:    whether warm-up ended because times had become steady, not because of its time limit
    rounds_s:  the samples of each round; each round began with one more call, not counted
    wall_s:    of each round: from its first start to its last end
    """

    scope: Scope
    batch: int
    threads: int
    streams: int
    warm_up_s: list[float]
    steady: bool
    rounds_s: list[list[float]]
    wall_s: list[float]


class SingleStreamRun(Strict):
    """Latencies of single images in seconds, encoded bytes to label, one after the other."""

    threads: int
    samples_s: list[float]


class OfflineRun(Strict):
    """All images available at once: how many were labelled in what time."""

    threads: int
    batch: int
    streams: int
    images: int
    wall_s: float


class ServerTrial(Strict):
    """One arrival rate: latencies from the planned arrival (not from when it was taken up) to the label.

    dropped: arrivals that were not answered: the time limit was reached, or more answers were late than the
             percentile allows, which ends the trial; with any, the rate was not held
    """

    rate_per_s: float
    samples_s: list[float]
    dropped: int


class ServerRun(Strict):
    """Poisson arrivals of single images at several rates."""

    threads: int
    trials: list[ServerTrial]


class Energy(Strict):
    """Energy of a stretch of offline work; joules are None where no meter could be read.

    meter:      rapl (whole processor package) or nvml (whole GPU board); None = none could be read
    reason:     why none could
    idle_watts: power of the idle machine, measured before
    """

    meter: Literal["rapl", "nvml"] | None
    reason: str | None
    joules: float | None
    images: int
    wall_s: float
    idle_watts: float | None


class GraphWork(Strict):
    """Work for one image, counted from the ONNX graph.

    flops:              2 x multiply-accumulates, by the type they are done in
    weight_bytes:       read once per batch
    input_output_bytes: of the graph itself
    """

    flops: dict[str, int]
    weight_bytes: int
    input_output_bytes: int


class MachinePeaks(Strict):
    """The best that the machine reached in this run, on this device with this many threads.

    gemm_flops_per_s:  by type, of large matrix products; a type that could not be measured is absent
    copy_bytes_per_s:  bytes read plus bytes written of a copy larger than the caches
    how:               library and size of each figure
    """

    device: str
    threads: int
    gemm_flops_per_s: dict[str, float]
    copy_bytes_per_s: float
    how: dict[str, str]


class EngineMeasurement(Strict, frozen=False):
    """Everything measured of one engine; filled in while it is measured, as far as it gets.

    name:    runtime:precision[@provider], or teacher
    status:  failed = it died, stalled or raised an error; unavailable = this machine cannot run it
    reason:  why it failed or is unavailable
    """

    name: str
    kind: Kind
    runtime: str
    precision: str
    status: Status
    reason: str | None = None
    file: str | None = None
    sha256: str | None = None
    model_bytes: int | None = None
    processes: list[ProcessFacts] = Field(default_factory=list)
    predictions: dict[str, Predictions] = Field(default_factory=dict)
    cells: list[TimingCell] = Field(default_factory=list)
    single_stream: SingleStreamRun | None = None
    offline: OfflineRun | None = None
    server: ServerRun | None = None
    energy: Energy | None = None
    work: GraphWork | None = None


class Measurements(Strict):
    """The raw half of a report.

    notes: what was asked for and could not be measured of the machine
    """

    created: str
    command: str
    bundle: BundleFacts
    recipe_sha256: str
    device: dict[str, str | int]
    versions: dict[str, str]
    scenario: Scenario
    images: ImageSet
    provenance: Provenance
    engines: list[EngineMeasurement]
    machine: list[MachinePeaks] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


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
    """

    primary: str | None
    headline: str
    engines: dict[str, EngineResult]
    economics: Economics
    verdicts: list[Verdict]
    warnings: list[str]


class Report(Strict):
    """report.json."""

    format: Literal[3] = FORMAT
    measurements: Measurements
    prices: Prices
    results: Results
