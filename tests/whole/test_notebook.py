"""examples/quickstart.ipynb: run from top to bottom in a kernel, on a part of EmojiDG, with real weights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.helpers.quickstart import PART, ROOT, part_of_emojidg

NOTEBOOK = ROOT / "examples/quickstart.ipynb"
# Real weights and data, but little of everything.
LESS = (
    *("align.steps=60", "align.evaluate_every=20", "distill.steps=20", "distill.evaluate_every=10"),
    *("data.unlabelled=[]", "distill.unlabelled_per_step=0", "student.image_size_px=64"),
)
# In a process of its own: a kernel's client starts an event loop and threads.
PROGRAM = """
import sys
import nbformat
from nbclient import NotebookClient
source, out, folder = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
resources = {"metadata": {"path": folder}}
try:
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
finally:
    nbformat.write(notebook, out)
"""


def test_it_is_a_notebook_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < 500_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert all(len(cell.source.splitlines()) <= 32 for cell in notebook.cells)


@pytest.mark.long
def test_it_runs_from_the_recipe_to_the_cascade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, images in {"train": 4, "val": 2, "test": 2}.items():
        monkeypatch.setitem(PART, split, images)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "examples").mkdir()
    data = part_of_emojidg(tmp_path / "data")
    environment = {
        "VL2V_NOTEBOOK_SETTINGS": " ".join([*LESS, f"data.root={data}"]),
        "VL2V_NOTEBOOK_SECONDS": "1",
        "VL2V_DEPLOY_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, NOTEBOOK, tmp_path / "out.ipynb", tmp_path / "examples"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    shown = {cell.id: _outputs(cell) for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells}
    everything = "\n".join(shown.values())
    assert "image/png" in everything  # the curve, and the cascade's picture
    look = next(text for text in shown.values() if "reports/notebook/look.html" in text)
    assert len(re.findall(r'<img src="data:image/webp', look)) >= 4 and "teacher, " in look
    cascade = next(text for text in shown.values() if "| answered by |" in text)
    assert cascade.count("\n| ") >= 4 and re.search(r"\| (teacher|joined|student) \|", cascade)
    for made in (
        "runs/notebook/run.json",
        "bundles/notebook/student.int8.onnx",
        "reports/notebook/look.html",
    ):
        assert (tmp_path / made).is_file()


def _outputs(cell: Any) -> str:
    texts = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {"text/plain": output.get("text", "")})
        texts += [f"{kind}\n{value}" for kind, value in data.items()]
    return "\n".join(texts)
