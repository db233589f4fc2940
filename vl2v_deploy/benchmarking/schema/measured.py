"""The raw half of a report: samples, answers, and what they were taken of."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import ConfigDict, Field

from vl2v_deploy.benchmarking.answers import Answers
from vl2v_deploy.benchmarking.scenario import Scenario, Strict
from vl2v_deploy.client.manifest import RunAccuracy
from vl2v_deploy.client.run_facts import RunFacts
from vl2v_deploy.client.target_words import TargetWords

Role: TypeAlias = Literal["source", "target"]
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
    """All images that accuracy was measured on; `target` is the domain that engines are judged by.

    ood_unknown: why no domain was kept unseen, where none was: `target` is then the one domain that there is
    notices: what is odd about the folder: files not used, images left out, copies; none in older reports
    validation: of each source domain, the images that a cascade is chosen on; empty without a cascade
    """

    root: str
    target: str
    domains: dict[str, DomainImages]
    skipped: list[str]
    notices: list[str] = Field(default_factory=list)
    validation: dict[str, DomainImages] = Field(default_factory=dict)
    ood_unknown: str | None = None


class BundleFacts(Strict):
    """Which bundle was measured; `recorded_accuracy` and `run` are copied from its manifest.

    onnx_sha256: of its student.onnx; None in reports of earlier versions
    """

    name: str
    classes: list[str]
    image_size_px: int
    recorded_accuracy: RunAccuracy | None
    run: RunFacts | None
    onnx_sha256: str | None = None


class Provenance(Strict):
    """What the student was distilled from, beside what it was measured with; None where not known.

    teacher_queries: images that had to be sent to the teacher for this benchmark, those of source validation
                     among them
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

    notes:          what was asked for and could not be measured
    answers_sha256: of the logits that a cascade is judged from; None where none were taken
    answers:        these logits, which lie in answers.npz beside the report; None where that was not read
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

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
    answers_sha256: str | None = None
    answers: Answers | None = Field(None, exclude=True, repr=False)

    @property
    def target_words(self) -> TargetWords:
        """What the target and accuracy on it are called; without facts of the run it counts as unseen."""
        if self.images.ood_unknown:
            return TargetWords(is_source=True)
        return self.bundle.run.target_words if self.bundle.run else TargetWords()
