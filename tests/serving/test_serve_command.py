"""`vl2v-deploy teacher serve` as a process: a recipe's teacher, SIGTERM, a busy port, no key printed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import spawn
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from tests.helpers.served import coloured_images, data_uri
from tests.helpers.tiny import write_recipe
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import decoding_processes
from vl2v_deploy.errors import ServingError
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.recipe import PrecomputedRecipe, load_recipe
from vl2v_deploy.serving.run import serve_recipe
from vl2v_deploy.serving.settings import ServeSettings

KEY = "a-key-of-the-test"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return write_recipe(folder, folder / "data")


@contextmanager
def serving(recipe: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "vl2v_deploy", "teacher", "serve", str(recipe), "--port", "0", *options]
    environment = os.environ | {"SERVE_KEY": KEY}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+:\d+", line)
            assert found, line + process.stdout.read()
            yield found[0], process
        finally:
            process.kill()


def test_a_recipes_teacher_is_served_until_sigterm_and_what_was_accepted_is_answered(recipe: Path) -> None:
    images = coloured_images(40)
    own = load_teacher(load_recipe(recipe).teacher)
    headers = {"Authorization": f"Bearer {KEY}"}
    wait = ("--max-delay-ms", "2000")  # for others to fill a batch: time to see that a request is in work
    with serving(recipe, "--key-env", "SERVE_KEY", "--max-batch", "64", *wait) as (url, process):

        def ask(at: int) -> httpx.Response:
            body = {"input": [data_uri(image) for image in images[at : at + 30]], "modality": "image"}
            return httpx.post(f"{url}/embeddings", json=body, headers=headers)

        rows = [row["embedding"] for row in ask(0).json()["data"]]
        np.testing.assert_allclose(rows, own.embed_images(images[:30]).numpy(), atol=1e-6)
        assert httpx.post(f"{url}/embeddings", json={"input": "a"}).status_code == 401
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, 10)
            while "vl2v_queue_items 0.0" in httpx.get(f"{url}/metrics", headers=headers).text:
                assert not answer.done()
            process.send_signal(signal.SIGTERM)  # while its images wait for others
            assert answer.result().status_code == 200 and len(answer.result().json()["data"]) == 30
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert process.stdout is not None
        printed = process.stdout.read()
    assert KEY not in printed and "Traceback" not in printed


def test_a_busy_port_is_one_line_before_any_model_is_loaded(recipe: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(cli, ["teacher", "serve", str(recipe), "--port", str(port)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ") and str(port) in result.output and "--port" in result.output
    assert len(result.output.splitlines()) == 1


def test_decoders_that_cannot_be_started_are_one_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding_processes, "_POOL", decoding_processes._Pool())
    monkeypatch.setattr(spawn, "get_executable", lambda: str(tmp_path / "missing"))
    result = CliRunner().invoke(cli, ["teacher", "serve", str(recipe), "--port", "0"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: no Python can be started to decode images: ")
    assert len(result.output.splitlines()) == 1


def test_a_key_that_is_not_set_is_one_line(recipe: Path) -> None:
    result = CliRunner().invoke(cli, ["teacher", "serve", str(recipe), "--key-env", "NOT_SET_ANYWHERE"])
    assert (result.exit_code, "NOT_SET_ANYWHERE" in result.output) == (1, True)


def test_a_teacher_of_files_is_refused(tmp_path: Path) -> None:
    recipe = PrecomputedRecipe(kind="precomputed", images="a.npz", texts="b.npz")
    with pytest.raises(ServingError, match="precomputed"):
        serve_recipe(recipe, ServeSettings(port=0))
