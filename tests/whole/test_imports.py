"""What a command does not import: each of the heavy packages costs seconds in every process that takes it."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "torchvision", "timm", "open_clip", "transformers", "onnx", "matplotlib", "pandas", "scipy")
# In this order: what one imports, the next has too.
STEPS = {
    "vl2v_deploy.cli.main": set[str](),  # --help
    "vl2v_deploy.client.student": set(),  # predict
    "vl2v_deploy.benchmarking.worker.load_onnxruntime": set(),
    "vl2v_deploy.benchmarking.run": {"onnx"},
    "vl2v_deploy.benchmarking.report.files": {"onnx"},
    "vl2v_deploy.benchmarking.judge.judge": {"onnx", "torch"},
    # timm needs torchvision.
    "vl2v_deploy.benchmarking.worker.load_torch": {"onnx", "torch", "torchvision", "timm"},
    "vl2v_deploy.exporting.run": {"onnx", "torch", "torchvision", "timm"},
    # The picture of the training is drawn in the same process; the teacher's packages come with the teacher.
    "vl2v_deploy.distillation.run": {"onnx", "torch", "torchvision", "timm", "matplotlib"},
}


def test_commands_import_no_more_than_they_use() -> None:
    program = (
        "import importlib, json, sys\n"
        f"for module in {list(STEPS)}:\n"
        "    importlib.import_module(module)\n"
        f"    print(json.dumps([module, [name for name in {HEAVY} if name in sys.modules]]))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = {module: set(heavy) for module, heavy in map(json.loads, ran.stdout.splitlines())}
    assert found == STEPS
