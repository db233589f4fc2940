"""What export is asked for, checked where it is said: from Python as from the command line."""

from __future__ import annotations

from typing import Any

import pytest

from vl2v_deploy.client.passport import Profile
from vl2v_deploy.errors import ExportError
from vl2v_deploy.exporting.options import (
    EngineRequest,
    ExportOptions,
    precisions_from_text,
    profile_from_text,
)

RTX = EngineRequest("tensorrt_rtx", compute_capabilities=("8.6",))


@pytest.mark.parametrize(
    ("asked", "engines", "files", "built"),
    [
        (("int8",), (), ("fp32", "int8"), ("int8",)),
        (("fp16", "fp32"), (), ("fp32", "fp16"), ("fp16", "fp32")),
        (("int8",), (RTX,), ("fp32", "int8", "int8-symmetric"), ("int8",)),
        (("int8-symmetric",), (RTX,), ("fp32", "int8-symmetric"), ("int8",)),
    ],
)
def test_files_come_in_their_order_with_all_that_is_needed(
    asked: Any, engines: Any, files: Any, built: Any
) -> None:
    options = ExportOptions(asked, engines=engines)
    assert (options.files, options.engine_precisions) == (files, built)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"precisions": ()}, "precisions"),
        ({"precisions": ("fp32", "int4")}, "precisions int4"),
        ({"max_accuracy_drop": float("nan")}, "max_accuracy_drop nan"),
        ({"max_accuracy_drop": -0.1}, "max_accuracy_drop -0.1"),
        ({"max_fp32_share": 1.5}, "max_fp32_share 1.5"),
        ({"max_fp32_share": float("nan")}, "max_fp32_share nan"),
        ({"coverage": 0.0}, "coverage 0.0"),
        ({"coverage": float("inf")}, "coverage inf"),
        ({"calibration_images": 0}, "calibration_images 0"),
        ({"max_images": 0}, "max_images 0"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_at_once(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ExportError) as raised:
        ExportOptions(**options)
    assert str(raised.value).startswith(field)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"flavour": "rtx"}, "flavour rtx"),
        ({"builder_level": 6}, "builder_level 6"),
        ({"builder_level": -1}, "builder_level -1"),
        ({"workspace_bytes": 0}, "workspace_bytes 0"),
        ({"hardware_compatible": "all"}, "hardware_compatible all"),
        ({"profile": Profile(0, 1, 2)}, "profile 0:1:2"),
        ({"profile": Profile(4, 2, 8)}, "profile 4:2:8"),
        ({"compute_capabilities": ("8.6",)}, "compute_capabilities"),
        ({"flavour": "tensorrt_rtx", "compute_capabilities": ("8.6", "8.6")}, "compute_capabilities"),
        # what TensorRT-RTX would ignore, or fail at after minutes
        ({"flavour": "tensorrt_rtx", "version_compatible": True}, "version_compatible"),
        (
            {"flavour": "tensorrt_rtx", "hardware_compatible": "ampere-plus"},
            "hardware_compatible ampere-plus",
        ),
        ({"flavour": "tensorrt_rtx", "timing_cache": True}, "timing_cache"),
    ],
)
def test_an_engine_that_cannot_be_is_refused_at_once(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ExportError) as raised:
        EngineRequest(**{"flavour": "tensorrt"} | options)
    assert str(raised.value).startswith(field)


def test_texts() -> None:
    assert precisions_from_text(" int8, fp32,,int8") == ("fp32", "int8")
    with pytest.raises(ExportError, match="precisions fp8: expected fp32, fp16, int8, int8-symmetric"):
        precisions_from_text("fp8")
    assert profile_from_text("1:2:4") == Profile(1, 2, 4)
    for text in ("8", "a:b:c", "1:2:3:4", ""):
        with pytest.raises(ExportError, match="expected MIN:OPT:MAX"):
            profile_from_text(text)
