"""The processes that decode images: how they start, why one cannot, and what a fork leaves of them."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import spawn
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vl2v_deploy.client import Limits, decoding_process, decoding_processes, pixels_from_source
from vl2v_deploy.client.decoding_process import DecodingProcess
from vl2v_deploy.client.decoding_processes import start_decoding_processes
from vl2v_deploy.errors import DecodingError

HANG_S = 60.0


@pytest.fixture(autouse=True)
def _own_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pool of three processes that ends with the test."""
    pool = decoding_processes._Pool()
    pool.count = 3
    monkeypatch.setattr(decoding_processes, "_POOL", pool)
    yield
    assert not pool.busy
    pool.end_idle()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "image.png"
    Image.linear_gradient("L").convert("RGB").save(file)
    return file


def test_all_decoders_start_before_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Recorded(DecodingProcess):
        def __init__(self) -> None:
            events.append("start")
            super().__init__()

        def wait_until_ready(self) -> None:
            events.append("wait")
            super().wait_until_ready()

    monkeypatch.setattr(decoding_processes, "DecodingProcess", Recorded)
    start_decoding_processes()
    assert events == ["start"] * 3 + ["wait"] * 3
    assert len({process._process.pid for process in decoding_processes._POOL.idle}) == 3
    start_decoding_processes()  # none is missing
    assert len(events) == 6


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """multiprocessing's interpreter may be named anew in a test."""
    before = spawn.get_executable()
    yield monkeypatch
    multiprocessing.set_executable(before)


def refused(image: Path) -> str:
    """Why no decoder starts, for an image and for a service."""
    with pytest.raises(DecodingError) as of_image:
        pixels_from_source(image, 16, Limits(decode_deadline_s=HANG_S))
    with pytest.raises(DecodingError) as of_service:
        start_decoding_processes()
    assert str(of_image.value) == str(of_service.value)
    message = str(of_image.value)
    assert "\n" not in message
    assert "multiprocessing.set_executable" in message and "Limits(decode_deadline_s=None)" in message
    return message


@pytest.mark.parametrize("executable", [None, ""])
def test_an_application_that_knows_no_python_says_what_to_do(
    executable: str | None, named: pytest.MonkeyPatch, image: Path
) -> None:
    multiprocessing.set_executable(executable)  # type: ignore[arg-type]  # as it is when sys.executable is None
    assert "sys.executable is empty" in refused(image)


def test_a_frozen_application_is_not_started_once_more(named: pytest.MonkeyPatch, image: Path) -> None:
    named.setattr(sys, "frozen", True, raising=False)
    assert f"{sys.executable} is a frozen application" in refused(image)
    real, named_python = sys.executable, Path(sys.executable)
    named.setattr(sys, "executable", "/opt/application")
    multiprocessing.set_executable(str(named_python))  # as the message says
    pixels = pixels_from_source(image, 16, Limits(decode_deadline_s=HANG_S))
    assert np.array_equal(pixels, pixels_from_source(image, 16))
    named.setattr(sys, "executable", real)


def test_what_is_no_python_is_told(named: pytest.MonkeyPatch, image: Path, tmp_path: Path) -> None:
    multiprocessing.set_executable(str(tmp_path / "missing"))
    assert "FileNotFoundError" in refused(image)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 'this is: another\n program'\nexit 1\n")
    program.chmod(0o755)
    multiprocessing.set_executable(str(program))
    assert "his is: another" in refused(image)
    program.write_text("#!/bin/sh\nexit 7\n")
    assert "it ended (exit code 7)" in refused(image)


def test_a_decoder_that_cannot_import_says_why(named: pytest.MonkeyPatch, image: Path) -> None:
    broken = decoding_process._PROGRAM.replace("decoding_worker", "no_such_module")
    named.setattr(decoding_process, "_PROGRAM", broken)
    assert "ModuleNotFoundError: No module named 'vl2v_deploy.client.no_such_module'" in refused(image)


def test_a_fork_while_an_image_is_decoded_leaves_the_decoder_to_the_parent(tmp_path: Path) -> None:
    """A child that held its pipes would keep the decoder alive after the parent is killed."""
    (tmp_path / "slow").write_bytes(b"P3 1800 1800 254\n" + b"1 " * (1800 * 1800 * 3))
    program = """
import gc, os, sys, threading, time, warnings
from pathlib import Path
warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forking with threads
from vl2v_deploy.client import Limits, decoding_processes, pixels_from_source
from vl2v_deploy.client.images import FORMATS
pool = decoding_processes._POOL
limits = Limits(formats=FORMATS, decode_deadline_s=50)
thread = threading.Thread(target=pixels_from_source, args=(sys.argv[1], 16, limits))
thread.start()
while not pool.busy:
    time.sleep(0.01)
time.sleep(0.5)  # it is sent its image, or decodes
[process] = pool.busy
pipes = [process._questions.fileno(), process._answers.fileno()]
child = os.fork()
if not child:
    held = [os.readlink(f"/proc/self/fd/{pipe}") for pipe in pipes]
    del pool, process
    gc.collect()
    print(*held, flush=True)
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
thread.join()
assert len(decoding_processes._POOL.idle) == 1  # it has answered the parent
"""
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", program, str(tmp_path / "slow")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["/dev/null"] * 2
