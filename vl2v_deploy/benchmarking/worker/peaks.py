"""What a machine reaches at its best, by torch: large matrix products, and a copy larger than its caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from vl2v_deploy.errors import MissingExtra

# On a CPU: a product that fits one core's cache, one that fits a server's, one that fits neither.
SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # larger than the caches of either
SECONDS_EACH = 0.25  # long enough for the clock frequency to rise


def measure_peaks(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `schema.MachinePeaks`: the fastest of several products of each type, and of the copies.

    settings: device (cpu or cuda) and threads

    Raises MissingExtra without torch, ProviderError for a device that is not there.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "train") from error
    from vl2v_deploy.models.device import require_device

    device, threads = str(settings["device"]), int(settings["threads"])
    require_device(device)
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True  # as the CUDA provider of onnxruntime does by default
    peaks: dict[str, float] = {}
    how: dict[str, str] = {}
    for size in SIZES[device]:
        floats = torch.rand((size, size), device=device)
        halves, integers = floats.half(), (127 * floats).to(torch.int8)
        products: dict[str, Callable[[], object]] = {
            "fp32": lambda a=floats: torch.mm(a, a),  # type: ignore[misc]
            # cuBLAS wants the second operand column by column; oneDNN is faster so.
            "int8": lambda a=integers: torch._int_mm(a, a.T),  # type: ignore[misc]
        }
        if device == "cuda":  # CPUs store fp16 but compute it in fp32
            products["fp16"] = lambda a=halves: torch.mm(a, a)  # type: ignore[misc]
        for kind, product in products.items():
            reached = 2.0 * size**3 / _fastest_s(product, device)
            if reached > peaks.get(kind, 0.0):
                peaks[kind], how[kind] = reached, f"torch {torch.__version__}, {size} x {size} x {size}"
    source = torch.ones(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied_s = _fastest_s(lambda: target.copy_(source), device)
    how["copy"] = f"torch {torch.__version__}, {len(source) // 2**20} MiB, read and written"
    return {
        "device": device,
        "threads": threads,
        "gemm_flops_per_s": peaks,
        "copy_bytes_per_s": 2.0 * len(source) / copied_s,
        "how": how,
    }


def _fastest_s(run: Callable[[], object], device: str) -> float:
    """The shortest time of `run` in SECONDS_EACH, after one call that warms up; at least one is timed."""
    import torch

    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    run()
    wait()
    end, fastest = perf_counter() + SECONDS_EACH, float("inf")
    while fastest == float("inf") or perf_counter() < end:
        start = perf_counter()
        run()
        wait()
        fastest = min(fastest, perf_counter() - start)
    return fastest
