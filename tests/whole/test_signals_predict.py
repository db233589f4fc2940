"""A signal to `vl2v-deploy predict`: what was printed is whole lines, and the exit code says it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.colour_bundle import make_colour_bundle, make_data

IMAGES = 4000  # their lines are longer than a pipe holds: it cannot be at its end when the signal comes


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_predict_leaves_whole_lines(tmp_path: Path, number: signal.Signals) -> None:
    data = make_data(tmp_path / "data")
    bundle = make_colour_bundle(tmp_path / "bundle", data)
    images = [str(next((data / "photo" / "red").iterdir()))] * IMAGES
    command = [sys.executable, "-m", "vl2v_deploy", "predict", str(bundle), *images, "--json"]
    said = tmp_path / "stderr"
    with (
        said.open("wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == 128 + number
    lines = (first + rest).splitlines(keepends=True)
    assert 1 <= len(lines) < IMAGES
    assert [line for line in lines if not (line.startswith("{") and line.endswith("}\n"))] == []
    assert {json.loads(line)["label"] for line in lines} == {"red"}
    assert "Traceback" not in said.read_text()
    assert len(said.read_text()) < 1000 + len(str(bundle)) + 4 * len(images[0])  # not the whole command
