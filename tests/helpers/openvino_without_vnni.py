"""OpenVINO as it computes on a processor without VNNI, on any x86 processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

_CODE = """
import sys, numpy as np, openvino
model, images, answers = sys.argv[1:]
compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.savez(answers, *compiled(np.load(images)).values())
"""


def openvino_without_vnni(model: onnx.ModelProto, inputs: np.ndarray, folder: Path) -> list[np.ndarray]:
    """The outputs of a graph, in their order, by OpenVINO's kernels for AVX2.

    oneDNN, its library of kernels, reads the limit when it loads: hence a process of its own.

    folder: for the files that go there and back
    """
    pytest.importorskip("openvino", reason="pip install openvino")
    files = [folder / name for name in ("model.onnx", "inputs.npy", "answers.npz")]
    onnx.save(model, files[0])
    np.save(files[1], inputs)
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", _CODE, *map(str, files)], check=True, env=environment)
    with np.load(files[2]) as answers:
        return [answers[f"arr_{number}"] for number in range(len(answers.files))]
