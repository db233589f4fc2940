"""What is timed for a GPU's peaks, all by torch: products in fp32, fp16 and int8, a copy on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vl2v_deploy.benchmarking.worker.peaks_tried import Copy, Product, each_size
from vl2v_deploy.errors import BenchmarkError, MissingExtra

SIZES = (4096, 8192)
COPY_BYTES = 2**30  # far above any GPU's caches


def require_gpu() -> None:
    """BenchmarkError where torch finds no GPU, MissingExtra without torch."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "train") from error
    if not torch.cuda.is_available():
        raise BenchmarkError("peaks: device cuda: torch finds no GPU here; measure cpu, or mend the driver")


def gpu_products() -> Iterator[Product]:
    """fp32 with and without TF32, which onnxruntime's CUDA provider uses unless told not to; fp16; int8."""
    return each_size(SIZES, _float_products, _int8_product)


def gpu_copy() -> Copy:
    """A copy within the GPU's memory."""
    import torch

    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    how = f"torch copy_ of {COPY_BYTES // 2**20} MiB within the GPU's memory, read and written"
    return Copy(how, COPY_BYTES, _finished(lambda: target.copy_(source)))


def _float_products(size: int) -> Iterator[Product]:
    import torch

    for kind, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
        a, b = (torch.rand((size, size), dtype=dtype, device="cuda") for _ in range(2))
        out = torch.empty_like(a)
        multiply = _finished(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))  # type: ignore[misc]
        if kind == "fp16":
            yield Product(kind, "torch", size, multiply)
            continue
        for tf32 in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            yield Product(kind, f"torch {'with' if tf32 else 'without'} TF32", size, multiply)


def _int8_product(size: int) -> Iterator[Product]:
    import torch

    a, b = (torch.randint(-127, 127, (size, size), dtype=torch.int8, device="cuda") for _ in range(2))
    columns = b.T  # cuBLAS takes int8 only where the second operand lies column by column
    yield Product("int8", "torch _int_mm", size, _finished(lambda: torch._int_mm(a, columns)))


def _finished(run: Callable[[], object]) -> Callable[[], None]:
    """`run`, returning when the GPU has done it."""
    import torch

    def wait() -> None:
        run()
        torch.cuda.synchronize()

    return wait
