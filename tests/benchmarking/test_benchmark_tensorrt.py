"""TensorRT engines in the benchmark: with an engine of Python, and on a GPU the real thing."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.engine_graphs import SIZE_PX
from tests.helpers.python_engine import (
    PROFILE,
    FakeEngine,
    answer,
    cpu_torch,
    images_of,
    runner_of,
)
from vl2v_deploy.benchmarking.worker import load_tensorrt
from vl2v_deploy.errors import ProviderError

__all__ = ["cpu_torch"]  # the fixture
SETTINGS = {"engine": "tensorrt", "plan": "student.fp16.plan", "image_size_px": SIZE_PX, "draft": False}


@pytest.fixture
def engines(cpu_torch: None, monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Every engine that the loader opens."""
    opened: list[FakeEngine] = []

    def open_engine(plan: Path) -> Any:
        opened.append(FakeEngine())
        return runner_of(opened[-1])

    monkeypatch.setattr(load_tensorrt, "open_engine", open_engine)
    return opened


def test_the_network_alone_runs_without_copies(engines: list[FakeEngine]) -> None:
    engine = load_tensorrt.load_tensorrt(SETTINGS)
    assert engine.place is not None
    images = images_of(3)
    run = engine.place(images)
    placed = engines[-1]
    logits = placed.contexts[0]._at("logits", np.float32)
    np.testing.assert_array_equal(logits, answer(images)[0])
    logits[...] = 0.0
    run()
    run()
    assert placed.launches == [3, 3, 3]  # one to put the images there, two that are timed
    np.testing.assert_array_equal(logits, answer(images)[0])
    engine.place(images_of(2))
    assert len(engines) == 2  # no plan is read again
    placed.executes = False
    with pytest.raises(ProviderError, match="failed"):
        run()


def test_batches_below_the_profile_are_filled_and_larger_ones_never_asked_for(
    engines: list[FakeEngine],
) -> None:
    engine = load_tensorrt.load_tensorrt(SETTINGS)
    assert engine.facts["most_images"] == PROFILE.max
    image = images_of(1)
    np.testing.assert_array_equal(engine.to_logits(image), answer(image)[0])
    assert engines[0].launches == [PROFILE.min]
    assert engine.place is not None
    engine.place(image)()
    assert engines[1].launches == [PROFILE.min] * 2


def test_every_thread_has_a_runner_of_its_own(
    engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_tensorrt.load_tensorrt(SETTINGS)
    together = threading.Barrier(3, timeout=30.0)
    filling = load_tensorrt.filling

    def held(runner: Any) -> Any:
        together.wait()  # all three are inside at once
        return filling(runner)

    monkeypatch.setattr(load_tensorrt, "filling", held)
    batches = [images_of(batch) for batch in (2, 3, 6)]
    answers: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        answers[number] = engine.to_logits(batches[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(engines) == 3
    for number, images in enumerate(batches):
        np.testing.assert_array_equal(answers[number], answer(images)[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_clock_waits_for_the_gpu() -> None:
    """Work that was only queued must not look like work that was done."""
    from vl2v_deploy.benchmarking.worker.load_torch import _placed

    matrix = torch.rand(8192, 8192, device="cuda")

    def work(x: torch.Tensor) -> torch.Tensor:
        for _ in range(20):
            x = x @ matrix
        return x

    run = _placed(work, matrix)
    run()
    start = time.perf_counter()
    run()
    taken_s = time.perf_counter() - start
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    events[0].record()
    work(matrix)
    events[1].record()
    torch.cuda.synchronize()
    assert taken_s * 1e3 >= 0.8 * events[0].elapsed_time(events[1])
