"""How near an engine comes to what the machine could do at best: the roofline, in images per second.

    compute limit  1 / sum over types of (FLOPs of an image in that type / the machine's peak in that type)
    memory limit   copy bandwidth / (weights / batch + the graph's own input and output)
    limit          the smaller of the two
    share          measured images per second, session only / limit

The memory limit counts what even perfect fusion must move: the weights once per batch, the input, the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from vl2v_deploy.benchmarking.judge.speed import cell_images_per_s
from vl2v_deploy.benchmarking.schema import EngineMeasurement, GraphWork, MachinePeaks, RooflineShare

# CPUs store fp16 but compute it in fp32; GPUs compute it, and have a peak for it.
COMPUTED_AS = {"fp16": "fp32"}
TOO_LOW = {
    "memory": "the weights stayed in the caches, which are faster than the memory that was measured",
    "compute": "the runtime multiplies faster than torch, or does less work (Winograd)",
}


def limit(work: GraphWork, peaks: MachinePeaks, batch: int) -> tuple[float, Literal["compute", "memory"]]:
    """The most images per second that the machine allows, and what bounds them.

    work:  of one image, in types that have a peak (see `missing_peaks`)
    batch: images for which the weights are read once

    >>> work = GraphWork(flops={"fp32": 100}, weight_bytes=60, input_output_bytes=10)
    >>> peaks = MachinePeaks(
    ...     device="cpu", threads=1, gemm_flops_per_s={"fp32": 1000.0}, copy_bytes_per_s=350.0, how={}
    ... )
    >>> limit(work, peaks, batch=1), limit(work, peaks, batch=6)
    ((5.0, 'memory'), (10.0, 'compute'))
    """
    measured = peaks.gemm_flops_per_s
    compute_s = sum(flops / measured[_counted_as(kind, peaks)] for kind, flops in work.flops.items())
    memory_s = (work.weight_bytes / batch + work.input_output_bytes) / peaks.copy_bytes_per_s
    return 1.0 / max(compute_s, memory_s), "compute" if compute_s >= memory_s else "memory"


def roofline_shares(engine: EngineMeasurement, machine: Sequence[MachinePeaks]) -> list[RooflineShare]:
    """An engine's share of the limit, for each cell that timed the session alone with one stream.

    machine: peaks by device and threads; cells without theirs have no share
    """
    by_threads = {peaks.threads: peaks for peaks in machine if peaks.device == device_of(engine)}
    shares = []
    for cell in engine.cells:
        peaks = by_threads.get(cell.threads)
        if cell.scope != "session" or cell.streams != 1 or not any(cell.rounds_s):
            continue
        if engine.work is None or peaks is None or missing_peaks(engine.work, peaks):
            continue
        (most, bound_by), measured = limit(engine.work, peaks, cell.batch), cell_images_per_s(cell)
        shares.append(
            RooflineShare(
                batch=cell.batch,
                threads=cell.threads,
                bound_by=bound_by,
                limit_images_per_s=most,
                images_per_s=measured,
                share=measured / most,
            )
        )
    return shares


def roofline_warnings(engine: EngineMeasurement, machine: Sequence[MachinePeaks]) -> list[str]:
    """Why an engine has no roofline, and where it exceeds its limit, which was then measured too low."""
    found = [
        f"{engine.name}: no roofline: the peak of {', '.join(missing)} was not measured on {peaks.device}"
        for peaks in machine
        if peaks.device == device_of(engine) and engine.work
        if (missing := missing_peaks(engine.work, peaks))
    ]
    return found + [
        f"{engine.name}, batch {share.batch}, {share.threads} thread(s): {share.share:.2f} of the limit, "
        f"which was measured too low: {TOO_LOW[share.bound_by]}"
        for share in roofline_shares(engine, machine)
        if share.share > 1
    ]


def missing_peaks(work: GraphWork, peaks: MachinePeaks) -> list[str]:
    """Types that the graph computes in and the machine has no peak for."""
    return [kind for kind in work.flops if _counted_as(kind, peaks) not in peaks.gemm_flops_per_s]


def device_of(engine: EngineMeasurement) -> str:
    """What an engine computes on: cpu or cuda."""
    on_gpu = engine.name.endswith(("@cuda", "@tensorrt")) or engine.runtime.startswith("tensorrt")
    return "cuda" if on_gpu else "cpu"


def _counted_as(kind: str, peaks: MachinePeaks) -> str:
    return COMPUTED_AS.get(kind, kind) if peaks.device == "cpu" else kind
