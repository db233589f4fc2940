"""Engine inspector JSON in the layouts of TensorRT 10 and 11, written after their documentation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vl2v_deploy.errors import ExportError
from vl2v_deploy.exporting.tensorrt.proof import layer_types, shares_of


def tensor10(name: str, kind: str) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": [8, 64, 56, 56], "Format/Datatype": kind}


def tensor11(name: str, kind: str, field: str = "DataType") -> dict[str, Any]:
    layout = "Row major linear format (kLINEAR)"
    return {"Name": name, "Location": "Device", "Dimensions": [8, 64, 56, 56], "Format": layout, field: kind}


def layer(name: str, kind: str, inputs: list[Any], **more: Any) -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "Inputs": inputs, "Outputs": [], "StreamId": 0} | more


TENSORRT_10 = {
    "Layers": [
        layer("cast", "kgen", [tensor10("images", "UInt8")]),
        layer(
            "conv1 + relu1",
            "CaskConvolution",
            [tensor10("a", "Thirty-two wide channel vectorized row major Int8 format.")],
            ParameterType="Convolution",
            Weights={"Type": "Int8", "Count": 131072},
            TacticName="sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs",
        ),
        layer(
            "conv2", "CaskConvolution", [tensor10("b", "Channel major FP16 format where channel % 8 == 0")]
        ),
        layer("qkv", "gemm", [tensor10("c", "Half"), tensor10("w", "Half")]),
        layer("head", "gemm", [tensor10("d", "Float")], TacticName="sm80_xmma_gemm_f32f32_f32f32_f32_nn_n"),
        layer("norm", "kgen", [tensor10("e", "Row major linear FP32")]),
        layer("shape", "shape_call", [tensor10("f", "Int64")]),
        layer("reformat", "Reformat", [tensor10("g", "Row major linear FP16 format")]),
    ],
    "Bindings": ["images", "logits", "embedding"],
}
TENSORRT_11 = {
    "Layers": [
        layer("cast", "kgen", [tensor11("images", "UInt8")]),
        layer("conv1", "CaskConvolution", [tensor11("a", "Int8"), tensor11("w", "Int8")]),
        layer("conv2", "CaskConvolution", [tensor11("b", "Half", field="Datatype")]),
        layer("qkv", "gemm", [tensor11("c", "Half"), tensor11("w", "Half")]),
        layer("head", "gemm", [tensor11("d", "Float")], TacticName="sm80_xmma_gemm_f32f32_f32f32_f32_nn_n"),
        layer("norm", "kgen", [tensor11("e", "Float")]),
        layer("shape", "shape_call", [tensor11("f", "Int64")]),
        layer("reformat", "Reformat", [tensor11("g", "Half")]),
    ],
    "I/O Tensors": [
        {"Name": "images", "IOMode": "Input", "DataType": "UInt8", "Dimensions": [-1, 224, 224, 3]}
    ],
}


@pytest.mark.parametrize("document", [TENSORRT_10, TENSORRT_11], ids=["10", "11"])
def test_both_layouts_give_the_same_counts(document: dict[str, Any]) -> None:
    every, heavy = layer_types(json.dumps(document))
    assert every == {"other": 2, "int8": 1, "fp16": 3, "fp32": 2}
    assert heavy == {"int8": 1, "fp16": 2, "fp32": 1}
    assert shares_of(heavy) == {"int8": 0.25, "fp16": 0.5, "fp32": 0.25}


def one(**changed: Any) -> str:
    made = layer("x", "gemm", [tensor10("a", "Float")]) | changed
    [kind] = layer_types(json.dumps({"Layers": [made]}))[1]
    return kind


def test_a_tf32_kernel_is_not_counted_as_fp32() -> None:
    assert one() == "fp32"
    assert one(TacticName="sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize32x32x64") == "tf32"
    assert one(Inputs=[tensor10("a", "Half")], TacticName="something_tf32") == "fp16"


def test_weights_that_are_only_stored_as_int8_compute_in_the_type_of_the_activation() -> None:
    assert one(Inputs=[tensor10("a", "Half"), tensor10("w", "Int8")]) == "fp16"
    assert one(Inputs=[tensor10("index", "Int32"), tensor10("a", "Int8")]) == "int8"


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("BFloat16", "bf16"),
        ("Row major linear BF16 format", "bf16"),
        ("FP8", "fp8"),
        ("FP8E4M3", "fp8"),
        ("UInt8", "other"),
        ("Bool", "other"),
        ("INT8", "int8"),
        ("Two wide channel vectorized row major FP16 format", "fp16"),
        ("N/A due to dynamic shapes", "unknown"),
        ("", "unknown"),
    ],
)
def test_types_by_their_names(told: str, kind: str) -> None:
    assert one(Inputs=[tensor10("a", told)]) == kind


def test_a_layer_without_types_is_unknown_and_leaves_no_share() -> None:
    layers = [layer("x", "gemm", []), layer("y", "gemm", ["a name"])]
    _, heavy = layer_types(json.dumps({"Layers": layers}))
    assert heavy == {"unknown": 2}
    assert shares_of(heavy) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a JSON object with Layers"),
        ("[]", "expected a JSON object with Layers"),
        ("{}", "expected a JSON object with Layers"),
        (json.dumps({"Layers": ["conv1 + relu1", "gemm"]}), "layer names only"),
        (json.dumps({"Layers": []}), "layer names only"),
    ],
)
def test_what_proves_nothing_says_so(text: str, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        layer_types(text)
