"""What tests of bulk prediction share: a bundle whose answers are known, images, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from tests.helpers.colour_bundle import make_colour_bundle, make_data
from vl2v_deploy.cli.main import cli

ROOT = Path(__file__).parents[2]


def make_place(folder: Path) -> None:
    """folder/bundle tells green from red; folder/data/domain/class/image, 120 images; folder/many.txt."""
    data = make_data(folder / "data")
    make_colour_bundle(folder / "bundle", data)
    images = sorted(data.rglob("*.png"))
    bad = data / "bad.jpg"
    bad.write_bytes(b"no image")
    # the bad image among them: a batch is then smaller than its block
    (folder / "many.txt").write_text("".join(f"{path}\n" for path in islice(cycle([bad, *images]), 2500)))


def predict(place: Path, *words: object, stdin: str | None = None) -> Result:
    """`vl2v-deploy predict` in this process."""
    return CliRunner().invoke(cli, ["predict", str(place / "bundle"), *map(str, words)], input=stdin)


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@contextmanager
def started_predict(place: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    """The same in a process of its own, which reads a list from a pipe; killed at the end."""
    command = [sys.executable, "-m", "vl2v_deploy", "predict", str(place / "bundle"), "-", *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
