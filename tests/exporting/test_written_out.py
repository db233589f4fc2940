"""Operators written out for runtimes to fuse: onnxruntime fuses them, and they compute what torch's do."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.onnx_students import SIZE_PX, graph_of, pictures, student_graph
from vl2v_deploy.exporting.graph.written_out import attention, gelu
from vl2v_deploy.exporting.precision.calibration import tensor_ranges
from vl2v_deploy.exporting.precision.qdq import quantized
from vl2v_deploy.exporting.precision.sessions import answers
from vl2v_deploy.models.student import Student

HEADS, TOKENS, WIDTH = 4, 6, 8
MASK = torch.randn(1, HEADS, TOKENS, TOKENS, generator=torch.Generator().manual_seed(2))
VARIANTS = {
    "plain": {},
    "scale": {"scale": 0.7},
    "float mask": {"attn_mask": 3 * MASK},
    "bool mask": {"attn_mask": (MASK > 0) | torch.eye(TOKENS, dtype=torch.bool)},
    "causal": {"is_causal": True},
    "shared heads": {"enable_gqa": True},
}


def operators_run(model: onnx.ModelProto) -> Counter[str]:
    """How many of each operator onnxruntime's CPU provider runs, after its own fusions."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it warns that the file holds what only this machine may run
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize(("backbone", "gelus"), [("test_vit", 6), ("convnext_atto", 12)])
def test_onnxruntime_fuses_every_gelu(backbone: str, gelus: int) -> None:
    _, model = student_graph(backbone)
    assert Counter(node.op_type for node in model.graph.node)["Erf"] == gelus
    run = operators_run(model)
    assert run["Erf"] == 0
    assert run["BiasGelu"] + run["Gelu"] == gelus


def test_onnxruntime_fuses_every_gelu_of_a_vit_in_int8() -> None:
    _, model = student_graph("test_vit")
    ranges = tensor_ranges(model, pictures(8), "minmax")
    assert operators_run(quantized(model, ranges, symmetric=False, weights="pairwise"))["Erf"] == 0


def test_attention_computes_no_shapes() -> None:
    _, model = student_graph("test_vit")
    assert Counter(node.op_type for node in model.graph.node)["Shape"] == 1  # to repeat the class token


class Blocks(nn.Module):
    """A backbone of one operator."""

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator
        self.tokens = nn.Conv2d(3, HEADS * TOKENS * WIDTH, SIZE_PX)
        if operator in VARIANTS and "attn_mask" in VARIANTS[operator]:
            self.register_buffer("mask", VARIANTS[operator]["attn_mask"])

    def forward(self, images: Tensor) -> Tensor:
        x = 3 * self.tokens(images).reshape(-1, HEADS, TOKENS, WIDTH)
        if self.operator == "tanh":
            return F.gelu(x, approximate="tanh").flatten(1)
        options = dict(VARIANTS[self.operator])
        if "attn_mask" in options:
            options["attn_mask"] = self.mask
        other = x.flip(-1)[:, : 2 if "enable_gqa" in options else HEADS]
        return F.scaled_dot_product_attention(x, other, other, **options).flatten(1)


@pytest.mark.parametrize("operator", [*VARIANTS, "tanh"])
def test_a_graph_answers_as_torch_does(operator: str) -> None:
    torch.manual_seed(0)
    images = pictures(3)
    student = Student(Blocks(operator), nn.Linear(HEADS * TOKENS * WIDTH, 16), None, (0.5,) * 3, (0.25,) * 3)
    deployed, model = graph_of(student.eval())
    with torch.inference_mode():
        logits, embedding = deployed(torch.from_numpy(images))
    found_logits, found_embedding = answers(model, images)
    np.testing.assert_allclose(found_embedding, embedding.numpy(), atol=1e-5)
    np.testing.assert_allclose(found_logits, logits.numpy(), atol=2e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_is_torchs(variant: str) -> None:
    torch.manual_seed(1)
    options = VARIANTS[variant]
    query = torch.randn(2, HEADS, TOKENS, WIDTH, dtype=torch.float64)
    key, value = torch.randn(
        2, 2, 2 if "enable_gqa" in options else HEADS, TOKENS, WIDTH, dtype=torch.float64
    )
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(attention(query, key, value, **options), expected)


def test_gelu_is_torchs() -> None:
    x = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    torch.testing.assert_close(gelu(x), F.gelu(x), rtol=1e-12, atol=1e-15)
