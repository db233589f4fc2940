"""The soak test catches what it is for: mixed-up and lost answers, leaks; and a good student passes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import soak_client
from benchmarks.soak_client import main, questions_for, soak, verdicts
from tests.helpers.tiny_bundle import make_bundle
from vl2v_deploy.client import MicroBatcher, Student

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
SECONDS = 6.0
CALLERS = 5


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("soak"))


@pytest.fixture
def student(bundle: Path) -> Iterator[Student]:
    with Student.load(bundle, threads=1) as student:
        yield student


def under_load(student: Student, **change: Callable[..., Any]) -> dict[str, Any]:
    """What the soak saw of a student that changes its ways when the load begins."""
    with pytest.MonkeyPatch.context() as patch:
        answered = questions_for(student)
        patch.setattr(soak_client, "questions_for", lambda _: answered)
        for name, method in change.items():
            patch.setattr(student, name, method)
        report = soak(student, SECONDS, CALLERS, progress=False)
    report["wrong"] = verdicts(report)
    return report


def without_memory(report: dict[str, Any]) -> list[str]:
    """What is wrong besides memory: warm-up may take longer than this short soak."""
    return [line for line in report["wrong"] if not line.startswith("memory")]


def test_a_good_student_passes(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "soak.json"
    code = main(
        ["--minutes", str(SECONDS / 60), "--threads", "6", "--bundle", str(bundle), "--out", str(out)]
    )
    report = json.loads(out.read_text())
    assert without_memory(report) == []
    assert code == (1 if report["wrong"] else 0)
    assert report["answered"] > 100
    assert report["refused"] > 10
    assert report["mean_batch"] > 1
    assert report["asked"] == report["answered"] + report["refused"] + report["left"]
    assert report["versions"].keys() == {"vl2v-deploy", "numpy", "pillow", "onnxruntime"}
    assert report["command"].startswith("python benchmarks/soak_client.py --minutes")
    said = capsys.readouterr()
    assert f"{report['answered']} answered as alone" in said.out
    assert "asked" in said.err  # the progress line


def test_mixed_up_answers_are_caught(student: Student) -> None:
    run = student.run

    def rolled(images: Any) -> Any:
        logits, embedding = run(images)
        return np.roll(logits, 1, axis=0), embedding

    wrong = without_memory(under_load(student, run=rolled))
    for way in ("MicroBatcher", "predict_async", "predict_batch", "stream"):
        assert any(line.startswith(way) and "another image's answer?" in line for line in wrong), way


def test_a_student_that_takes_hostile_images_is_caught(student: Student) -> None:
    size = student.bundle.image_size_px
    wrong = without_memory(under_load(student, pixels=lambda image: np.zeros((size, size, 3), np.uint8)))
    assert any("must be refused" in line for line in wrong)


def test_a_session_that_fails_is_caught(student: Student) -> None:
    def failing(images: Any) -> Any:
        raise RuntimeError("out of memory")

    wrong = without_memory(under_load(student, run=failing))
    assert wrong
    assert all("out of memory" in line for line in wrong)  # each way says what it met


def test_an_answer_that_never_comes_is_caught(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_client, "STUCK_S", 2.0)
    released = threading.Event()
    run = student.run

    def stuck(images: Any) -> Any:
        released.wait(60)
        return run(images)

    made: list[MicroBatcher] = []

    def recorded(*arguments: Any, **options: Any) -> MicroBatcher:
        made.append(MicroBatcher(*arguments, **options))
        return made[0]

    monkeypatch.setattr(soak_client, "MicroBatcher", recorded)
    before = set(threading.enumerate())
    wrong = without_memory(under_load(student, run=stuck))
    released.set()
    made[0].close()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert any("callers still wait for an answer" in line for line in wrong)


def test_a_leak_of_memory_is_caught(student: Student) -> None:
    pixels, kept = student.pixels, []

    def leaking(image: Any) -> Any:
        kept.append(os.urandom(200_000))
        return pixels(image)

    report = under_load(student, pixels=leaking)
    assert any(line.startswith("memory grew") for line in report["wrong"])


def test_leaks_of_threads_and_files_are_caught(student: Student) -> None:
    pixels, kept, stop = student.pixels, [], threading.Event()

    def leaking(image: Any) -> Any:
        if not kept:
            kept.append(os.open(os.devnull, os.O_RDONLY))
            thread = threading.Thread(target=stop.wait)
            thread.start()
        return pixels(image)

    wrong = without_memory(under_load(student, pixels=leaking))
    stop.set()
    for file in kept:
        os.close(file)
    assert any(line.startswith("threads: ") for line in wrong)
    assert any(line.startswith("files: ") for line in wrong)


def facts(**changed: Any) -> dict[str, Any]:
    same = {"threads": 1, "files": 9}
    sound = {"asked": 10, "answered": 7, "refused": 2, "left": 1, "wrong": [], "before": same, "after": same}
    return sound | {"rss_bytes": [100_000_000] * 90} | changed


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, None),
        ({"answered": 6}, "10 images were asked for, 9 came back"),
        ({"rss_bytes": [50_000_000] * 30 + [100_000_000] * 60}, None),  # warm-up may grow
        ({"rss_bytes": [100_000_000] * 60 + [119_000_000] * 30}, None),
        ({"rss_bytes": [100_000_000] * 60 + [121_000_000] * 30}, "memory grew: 100.0 MB"),
        ({"rss_bytes": [100_000_000] * 89 + [900_000_000]}, None),  # one peak is no leak
        ({"rss_bytes": [1] * 29}, "too few to judge"),
        ({"after": {"threads": 2, "files": 9}}, "threads: 1 before, 2 after"),
    ],
)
def test_the_rules(changed: dict[str, Any], expected: str | None) -> None:
    wrong = verdicts(facts(**changed))
    assert [expected is not None and expected in line for line in wrong] == [True] * (expected is not None)


def test_a_student_that_says_the_same_of_all_images_cannot_be_judged(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = student.run
    monkeypatch.setattr(student, "run", lambda images: run(np.zeros_like(images)))
    with pytest.raises(SystemExit, match="mixed-up answers would not show"):
        questions_for(student)


def test_a_missing_bundle_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.startswith("Error: ")
