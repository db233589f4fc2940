"""How far answers may be from what they are compared with; read by the benchmark too, so without torch."""

from __future__ import annotations

from vl2v_deploy.client.bundle import numeric
from vl2v_deploy.client.onnx_file import Tolerance

# The one table of tolerances, keyed by engine and precision.
TOLERANCES = {
    # Both compute in fp32 and differ in the order of sums and in fused BatchNorm: some 1e-6 a component.
    # Fifty times that is still far below what moves a label that is not a tie.
    ("onnxruntime", "fp32"): Tolerance(1e-4, 1e-4, cosine=0.99999, agreement=1.0, ties=True),
    # One rounding to fp16 is 5e-4 of a value, and a hundred layers round one after the other: 1e-3 of an
    # embedding whose components are some 0.1. onnxruntime's CPU kernels round less than a GPU does, so the
    # same bounds hold for the file there and for the emulation that rounds after every operation.
    ("onnxruntime", "fp16"): Tolerance(2e-2, 2e-2, cosine=0.999, agreement=1.0, ties=True),
    # Eight bits per tensor: the embedding turns by ten to twenty degrees, and labels near a boundary move.
    # What that costs is measured (accuracy by domain); here only a broken file must be caught.
    ("onnxruntime", "int8"): Tolerance(0.5, 0.5, cosine=0.7, agreement=0.85, ties=False),
    # One file, one runtime, another machine: what is fp32 sums in another order. int8 kernels are exact and
    # no weights saturate them: a CNN and a ViT answer the same, bit for bit, by the kernels for VNNI, AVX-512
    # without it, and for AVX2. Where fp32 has no fused multiply-add (SSE4), a value that falls on the other
    # side of a rounding moves all after it: the embedding by 0.07, logits by 0.07, a cosine of 0.987.
    ("elsewhere", "fp32"): Tolerance(1e-4, 1e-4, cosine=0.99999, agreement=1.0, ties=True),
    ("elsewhere", "fp16"): Tolerance(2e-2, 2e-2, cosine=0.999, agreement=1.0, ties=True),
    ("elsewhere", "int8"): Tolerance(0.1, 0.1, cosine=0.97, agreement=0.9, ties=False),
    # Not measured yet: we had no GPU. fp32 without TF32 differs by the order of sums, in longer chains
    # than on a CPU; the others are the bounds of onnxruntime, whose fp16 emulation rounds as a GPU does.
    ("tensorrt", "fp32"): Tolerance(1e-3, 1e-3, cosine=0.9999, agreement=1.0, ties=True),
    ("tensorrt", "fp16"): Tolerance(2e-2, 2e-2, cosine=0.999, agreement=1.0, ties=True),
    ("tensorrt", "int8"): Tolerance(0.5, 0.5, cosine=0.7, agreement=0.85, ties=False),
    # Other runtimes with the same files, measured on a CNN and a ViT. fp32 and fp16 against torch: off
    # by 2e-6 and 4e-3 in both, as onnxruntime is. For OpenVINO that holds only where it is set to compute in
    # float32 (INFERENCE_PRECISION_HINT): left alone it takes bfloat16 where the CPU has it, off by 4e-2.
    ("openvino", "fp32"): Tolerance(1e-4, 1e-4, cosine=0.99999, agreement=1.0, ties=True),
    ("openvino", "fp16"): Tolerance(2e-2, 2e-2, cosine=0.999, agreement=1.0, ties=True),
    ("onnxruntime-web", "fp32"): Tolerance(1e-4, 1e-4, cosine=0.99999, agreement=1.0, ties=True),
    ("onnxruntime-web", "fp16"): Tolerance(2e-2, 2e-2, cosine=0.999, agreement=1.0, ties=True),
    # int8 against onnxruntime's answers to the same file, as against torch the file's own error would hide
    # the runtime's. onnxruntime-web has the same integer kernels, but no fused multiply-add: off by 0.08 at
    # most, a cosine of 0.965 at least. OpenVINO fuses otherwise: 0.17 and 0.913, with VNNI and, held to its
    # kernels for AVX2, without.
    ("openvino", "int8"): Tolerance(0.2, 0.3, cosine=0.9, agreement=0.95, ties=False),
    ("onnxruntime-web", "int8"): Tolerance(0.15, 0.3, cosine=0.95, agreement=0.95, ties=False),
}

# Where logits are not at hand, ties and errors look the same: this share of images may differ.
SHARE_OF_TIES = {"fp32": 0.005, "fp16": 0.02}


def least_agreement(precision: str) -> float:
    """Least share of images on which two runtimes give the same label, where only labels are known.

    >>> least_agreement("int8-symmetric"), least_agreement("fp32")
    (0.85, 0.995)
    """
    arithmetic = numeric(precision)
    return TOLERANCES["onnxruntime", arithmetic].agreement - SHARE_OF_TIES.get(arithmetic, 0.0)
