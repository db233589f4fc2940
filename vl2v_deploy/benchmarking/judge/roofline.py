"""How near an engine comes to what the machine could do at best: the roofline, in images a second.

    compute limit  1 / sum over types of (FLOPs of an image in that type / the machine's peak in that type)
    memory limit   copy bandwidth / (weights / batch + the graph's own input and output)
    limit          the smaller of the two
    share          measured images a second, session only / limit

The memory limit counts what even perfect fusion must move: weights once a batch, and the way in and out.
Machine and work are measured and counted in the same report: `peaks` and `work`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from vl2v_deploy.benchmarking.judge.speed import cell_images_per_s
from vl2v_deploy.benchmarking.schema import EngineMeasurement, GraphWork, MachinePeaks, RooflineShare
from vl2v_deploy.errors import BenchmarkError

# Processors hold fp16 but compute it in fp32 (see export.fp16); GPUs compute it, and have a peak of its own.
COMPUTED_AS = {"fp16": "fp32"}


class Limit(NamedTuple):
    """The most images a second that the machine allows, and by what."""

    images_per_s: float
    bound_by: Literal["compute", "memory"]


def limit(work: GraphWork, peaks: MachinePeaks, batch: int) -> Limit:
    """The roofline of one graph at one batch size.

    work:  of one image
    batch: images whose weights are read once

    Raises BenchmarkError when the graph computes in a type that has no peak (see `missing_peaks`).

    >>> work = GraphWork(flops={"fp32": 100}, weight_bytes=60, activation_bytes=0, input_output_bytes=10)
    >>> peaks = MachinePeaks(
    ...     device="cpu", threads=1, gemm_flops_per_s={"fp32": 1000.0}, copy_bytes_per_s=350.0, how={}
    ... )
    >>> limit(work, peaks, batch=1)
    Limit(images_per_s=5.0, bound_by='memory')
    >>> limit(work, peaks, batch=6)
    Limit(images_per_s=10.0, bound_by='compute')
    """
    if missing := missing_peaks(work, peaks):
        raise BenchmarkError(
            f"roofline: the graph computes in {', '.join(missing)}: no peak was measured on {peaks.device}; "
            f"measured: {', '.join(peaks.gemm_flops_per_s) or 'none'}"
        )
    measured = peaks.gemm_flops_per_s
    compute_s = sum(flops / measured[_counted_as(kind, peaks)] for kind, flops in work.flops.items())
    memory_s = (work.weight_bytes / batch + work.input_output_bytes) / peaks.copy_bytes_per_s
    return Limit(1.0 / max(compute_s, memory_s), "compute" if compute_s >= memory_s else "memory")


def roofline_shares(engine: EngineMeasurement, machine: Sequence[MachinePeaks]) -> list[RooflineShare]:
    """An engine's share of the limit, for each of its cells that timed the session alone with one stream.

    machine: peaks by device and threads; without those of the engine's there is no share
    """
    shares = []
    for cell in engine.cells:
        peaks = _peaks_for(engine, machine, cell.threads)
        if cell.scope != "session" or cell.streams != 1 or not any(cell.rounds_s):
            continue
        if engine.work is None or peaks is None or missing_peaks(engine.work, peaks):
            continue
        most, measured = limit(engine.work, peaks, cell.batch), cell_images_per_s(cell)
        shares.append(
            RooflineShare(
                batch=cell.batch,
                threads=cell.threads,
                bound_by=most.bound_by,
                limit_images_per_s=most.images_per_s,
                images_per_s=measured,
                share=measured / most.images_per_s,
            )
        )
    return shares


def roofline_warnings(engine: EngineMeasurement, machine: Sequence[MachinePeaks]) -> list[str]:
    """What a reader must know of an engine's roofline: no limit, or one that the engine went beyond.

    No engine can do more than the machine: a share above 1 says that the limit was taken too low.
    """
    said = [
        f"{engine.name}: no roofline: the peak of {', '.join(missing)} was not measured on {peaks.device}"
        for peaks in machine
        if peaks.device == device_of(engine) and engine.work
        if (missing := missing_peaks(engine.work, peaks))
    ]
    for share in roofline_shares(engine, machine):
        if share.share > 1:
            why = (
                "the weights stayed in the caches, which are faster than the memory that was measured"
                if share.bound_by == "memory"
                else "the runtime multiplies faster than the libraries tried here, or saves work (Winograd)"
            )
            said.append(
                f"{engine.name}, batch {share.batch}, {share.threads} thread(s): {share.share:.2f} of the "
                f"roofline's limit, which is thus too low: {why}"
            )
    return said


def missing_peaks(work: GraphWork, peaks: MachinePeaks) -> list[str]:
    """Types that the graph computes in and the machine has no peak for."""
    return [kind for kind in work.flops if _counted_as(kind, peaks) not in peaks.gemm_flops_per_s]


def device_of(engine: EngineMeasurement) -> str:
    """What an engine computes on, as peaks name it: cpu or cuda."""
    on_gpu = engine.name.endswith(("@cuda", "@tensorrt")) or engine.runtime.startswith("tensorrt")
    return "cuda" if on_gpu else "cpu"


def _peaks_for(
    engine: EngineMeasurement, machine: Sequence[MachinePeaks], threads: int
) -> MachinePeaks | None:
    device = device_of(engine)
    return next((peaks for peaks in machine if (peaks.device, peaks.threads) == (device, threads)), None)


def _counted_as(kind: str, peaks: MachinePeaks) -> str:
    if kind not in peaks.gemm_flops_per_s and peaks.device == "cpu":
        return COMPUTED_AS.get(kind, kind)
    return kind
