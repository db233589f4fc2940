"""The examples, run as a user would: a script, and a real server asked by a real HTTP client."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.hostile_images import encoded, hostile_images, ordinary_images, unusual_images
from tests.helpers.slow_clients import status_of, unfinished_request
from tests.helpers.tiny_bundle import make_bundle
from vl2v_deploy.client import Student
from vl2v_deploy.client.monitor.exposition import CONTENT_TYPE

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("examples"))


@contextmanager
def server(bundle: Path, log: Path, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process of the service and its address; killed at the end if it still runs."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "examples"), "--port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "serve_fastapi:app"],
            env=os.environ | {"VL2V_BUNDLE": str(bundle), "PYTHONPATH": str(ROOT)} | env,
            stdout=output,
            stderr=output,
        )
        try:
            yield process, address_in(log, process)
        finally:
            process.kill()
            process.wait()


def address_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Where the server says that it listens."""
    for _ in range(int(PATIENCE_S / 0.05)):
        if found := re.search(r"running on (http://\S+)", log.read_text()):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def stop(process: subprocess.Popen[bytes], log: Path) -> None:
    """End it as a container runtime does, and see that it went by itself."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM)  # uvicorn passes the signal on when it is done
    said = log.read_text()
    assert "Application shutdown complete" in said
    assert "Traceback" not in said


async def ask_all(address: str, bodies: list[bytes], at_once: int = 24) -> list[httpx.Response]:
    """The answers to all bodies, in order, so many asked at a time."""
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_S, limits=limits) as client:
        return await asyncio.gather(*(client.post("/predict", content=body) for body in bodies))


def get(address: str, path: str) -> Any:
    answer = httpx.get(f"{address}{path}", timeout=PATIENCE_S)
    assert answer.status_code == 200
    return answer.json()


def test_every_answer_of_the_service_is_the_students_own(bundle: Path, tmp_path: Path) -> None:
    good = [*ordinary_images(60).values(), *unusual_images().values()] * 2
    bad = list(hostile_images().values()) * 3
    bodies = good + bad
    order = np.random.default_rng(0).permutation(len(bodies))
    log = tmp_path / "server.log"
    with Student.load(bundle) as student, server(bundle, log) as (process, address):
        assert get(address, "/health") == {
            "status": "ok",
            "precision": student.precision,
            "provider": student.provider,
        }
        answers = asyncio.run(ask_all(address, [bodies[i] for i in order]))
        for i, answer in zip(order, answers, strict=True):
            said = answer.json()
            if i >= len(good):
                assert answer.status_code == 400, said
                assert f"<{len(bodies[i])} bytes>" in said["detail"]
                continue
            assert answer.status_code == 200, said
            expected = student.predict(bodies[i])
            assert said["label"] == expected.label
            assert said["probability"] == pytest.approx(expected.probability, abs=1e-5)
            assert [label for label, _ in said["top"]] == [label for label, _ in expected.top]
        stats = get(address, "/stats")
        assert (stats["answered"], stats["refused"]) == (len(good), len(bad))
        assert stats["mean_batch"] > 1
        assert (stats["in_flight"], stats["rejected"], stats["failed"]) == (0, 0, 0)
        found = metrics_of(address, predictions=len(good))
        assert found["vl2v_request_seconds_count",] == len(good)
        assert found["vl2v_errors_total", "ImageError"] == len(bad)
        assert found["vl2v_batch_images_count",] == stats["batches"]
        stop(process, log)


def metrics_of(address: str, predictions: int) -> dict[tuple[str, ...], float]:
    """What Prometheus reads, once so many predictions are observed: shortly after their callers have them."""
    until = time.monotonic() + PATIENCE_S
    while True:
        answer = httpx.get(f"{address}/metrics")
        assert answer.headers["content-type"] == CONTENT_TYPE
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        if found["vl2v_predictions_total",] == predictions:
            return found
        assert time.monotonic() < until, found
        time.sleep(0.01)


def test_the_service_refuses_what_is_too_much(bundle: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    slow = encoded(Image.fromarray(noise), "PNG", compress_level=0)
    log = tmp_path / "server.log"
    env = {"VL2V_MAX_QUEUE": "1", "VL2V_MAX_BYTES": str(len(slow))}
    with server(bundle, log, **env) as (process, address):
        [large] = asyncio.run(ask_all(address, [slow + b"\0"]))
        assert (large.status_code, large.json()["detail"]) == (
            413,
            f"the body is larger than {len(slow)} bytes",
        )
        answers = asyncio.run(ask_all(address, [slow] * 16, at_once=16))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 503}
        busy = answers[codes.index(503)]
        assert int(busy.headers["retry-after"]) >= 1
        assert "try again later" in busy.json()["detail"]
        stats = get(address, "/stats")
        assert (stats["answered"], stats["rejected"]) == (codes.count(200), codes.count(503))
        stop(process, log)


def test_hostile_clients_fill_no_memory_and_no_log(bundle: Path, tmp_path: Path) -> None:
    """Forty that begin 2 MB and never end, twenty that hang up within it, and good ones in between."""
    log = tmp_path / "server.log"
    good = next(iter(ordinary_images(1).values()))
    env = {"VL2V_MAX_HELD_BYTES": "10000000", "VL2V_MAX_BYTES": "2000000", "VL2V_READ_TIMEOUT_S": "2"}
    with server(bundle, log, **env) as (process, address):
        stuck = [unfinished_request(address, "/predict", bytes(1_900_000)) for _ in range(40)]
        for gone in [unfinished_request(address, "/predict", bytes(70_000)) for _ in range(20)]:
            gone.close()
        statuses = [status_of(connection) for connection in stuck]
        assert set(statuses) == {408, 503} and statuses.count(408) <= 5
        answers = asyncio.run(ask_all(address, [good] * 8))
        assert [answer.status_code for answer in answers] == [200] * 8
        assert get(address, "/stats")["in_flight"] == 0
        stop(process, log)


def test_sigterm_answers_what_was_accepted(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    slow = encoded(Image.fromarray(noise), "PNG", compress_level=0)

    async def main(process: subprocess.Popen[bytes], address: str) -> list[httpx.Response]:
        asking = asyncio.create_task(ask_all(address, [slow] * 6, at_once=6))
        async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_S) as client:
            while (stats := (await client.get("/stats")).json())["in_flight"] + stats["answered"] < 6:
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        return await asking

    with server(bundle, log) as (process, address):
        answers = asyncio.run(main(process, address))
        assert [answer.status_code for answer in answers] == [200] * 6
        stop(process, log)


def test_the_service_without_a_bundle_says_so(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with (
        pytest.raises(AssertionError, match="no such bundle"),
        server(tmp_path / "nothing", log),
    ):
        pass


def test_the_script_labels_what_it_can(bundle: Path, tmp_path: Path) -> None:
    image = tmp_path / "good.png"
    image.write_bytes(next(iter(ordinary_images(1).values())))
    (tmp_path / "bad.png").write_text("no picture")

    def run(*arguments: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, ROOT / "examples/predict.py", *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    ran = run(bundle, image, tmp_path / "bad.png", image)
    with Student.load(bundle) as student:
        expected = student.predict(image)
    line = f"{image}: {expected.label} {expected.probability:.2f}"
    assert [said.partition("  (")[0] for said in ran.stdout.splitlines()] == [line, line]
    assert (ran.returncode, "bad.png" in ran.stderr, "Traceback" in ran.stderr) == (1, True, False)
    assert run(bundle, image).returncode == 0
    missing = run(tmp_path / "nothing", image)
    assert (missing.returncode, missing.stderr[:7]) == (1, "Error: ")
    assert "bundles/quickstart photo.jpg" in run(bundle).stderr
