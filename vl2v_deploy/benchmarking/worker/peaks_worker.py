"""The process in which a machine's peaks are measured: one line of settings in, one line of peaks out.

Run as: python -m vl2v_deploy.benchmarking.worker.peaks_worker
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any

from vl2v_deploy.benchmarking.schema import MachinePeaks
from vl2v_deploy.benchmarking.worker.peaks_tried import Copy, Product
from vl2v_deploy.errors import BenchmarkError, VL2VError

# Of each product in each library and size: enough for a machine's clock to rise, some ten seconds in all.
SECONDS_EACH = 0.25
COPIES = 8


Attempts = tuple[Iterable[Product], Copy, dict[str, str]]


def main(attempts_of: Callable[[int, str], Attempts] | None = None) -> int:
    """Measure what the first line of stdin asks for; exit status.

    attempts_of: from threads and device to what is timed, and what is said of types that are not; another
                 one brings in a library of known speed
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not stand between the replies
    settings: Mapping[str, Any] = json.loads(sys.stdin.readline())
    threads, device = int(settings["threads"]), str(settings["device"])
    try:
        products, copy, absent = (attempts_of or attempts)(threads, device)
        peaks = best_of(products, copy, absent, threads, device)
        print(peaks.model_dump_json(), file=replies, flush=True)
    except VL2VError as error:
        print(json.dumps({"error": str(error)}), file=replies, flush=True)
        return 1
    return 0


def best_of(
    products: Iterable[Product], copy: Copy, absent: Mapping[str, str], threads: int, device: str
) -> MachinePeaks:
    """The fastest product of each type, and the copy.

    absent: type -> why it has no peak
    """
    peaks: dict[str, float] = {}
    best: dict[str, str] = {}
    tried: dict[str, dict[str, list[int]]] = {}
    for product in products:
        reached = product.flops / fastest_s(product.run, SECONDS_EACH)
        tried.setdefault(product.kind, {}).setdefault(product.library, []).append(product.size)
        if reached > peaks.get(product.kind, 0.0):
            peaks[product.kind] = reached
            best[product.kind] = f"{product.library}, {product.size} x {product.size} x {product.size}"
    how = {kind: f"{best[kind]}; tried: {_listed(tried[kind])}" for kind in peaks}
    copied_s = min(fastest_s(copy.run, 0.0) for _ in range(COPIES))
    return MachinePeaks(
        device=device,
        threads=threads,
        gemm_flops_per_s=peaks,
        copy_bytes_per_s=2.0 * copy.size_bytes / copied_s,
        how={**how, "copy": copy.how, **absent},
    )


def fastest_s(run: Callable[[], object], seconds: float) -> float:
    """The shortest of at least two times of `run`, so that the first, which warms up, is not the only one.

    seconds: go on for so long
    """
    end = perf_counter() + seconds
    times: list[float] = []
    while len(times) < 2 or perf_counter() < end:
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return min(times)


def _listed(sizes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{library} ({', '.join(map(str, each))})" for library, each in sizes.items())


def attempts(threads: int, device: str) -> Attempts:
    """What is timed on a device; BenchmarkError for one that is not known or not there."""
    match device:
        case "cpu":
            from vl2v_deploy.benchmarking.worker.peaks_cpu import cpu_copy, cpu_products

            return cpu_products(threads), cpu_copy(threads), {"fp16": "absent: computed in fp32 on a CPU"}
        case "cuda":
            from vl2v_deploy.benchmarking.worker.peaks_gpu import gpu_copy, gpu_products, require_gpu

            require_gpu()
            return gpu_products(), gpu_copy(), {}
    raise BenchmarkError(f"peaks: device {device}: expected cpu or cuda")


if __name__ == "__main__":
    sys.exit(main())
