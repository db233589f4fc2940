"""What a cascade keeps: images as they came, with their answers, within limits of bytes and days."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.cascades import UNSURE, ScriptedTeacher
from tests.helpers.colour_bundle import make_colour_bundle, make_data
from vl2v_deploy.client import Cascade, KeptFolder, Student, TeacherAnswers
from vl2v_deploy.client.cascade.kept import ANSWERS, KeptAnswer, KeptLabel, embedding_from_text
from vl2v_deploy.client.typed_json import from_json

DAY = "2026-11-28"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Student]:
    with Student.load(make_colour_bundle(tmp_path_factory.mktemp("bundle") / "colours", data)) as student:
        yield student


class EmbeddingTeacher:
    """Says red of everything, with an embedding that names the call's image."""

    identity = "colours/of-a-test#1"

    def __call__(self, images: list[Any]) -> TeacherAnswers:
        rows = np.eye(4, dtype=np.float32)[: len(images)]
        return TeacherAnswers(np.tile([0.25, 0.75], (len(images), 1)), rows, version="v1")


def lines_of(folder: Path, day: str = DAY) -> list[KeptAnswer]:
    text = (folder / day / ANSWERS).read_text(encoding="utf-8")
    return [from_json(KeptAnswer, json.loads(line)) for line in text.splitlines()]


def line(at: str, image: str, sha256: str) -> KeptAnswer:
    label = KeptLabel("red", {"red": 1.0})
    return KeptAnswer(at, "id", image, sha256, "unsure", label, label)


def picture(number: int) -> bytes:
    """A PNG of about 1,300 bytes, each another."""
    import io

    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_images_are_kept_as_they_came_with_both_answers(student: Student, data: Path, tmp_path: Path) -> None:
    path = data / "photo" / "green" / "00.png"
    pixels = np.full((9, 7, 3), (20, 200, 30), np.uint8)
    kept = KeptFolder(tmp_path / "kept", today=lambda: DAY)
    with Cascade(student, EmbeddingTeacher(), threshold=0.0, keep=kept, timeout_s=60.0) as cascade:
        answers = [cascade.predict(image) for image in (path, path.read_bytes(), pixels, path)]
    lines = lines_of(tmp_path / "kept")
    assert [one.request_id for one in lines] == [one.request_id for one in answers]
    first, third = lines[0], lines[2]
    file = tmp_path / "kept" / DAY / first.image
    assert file.read_bytes() == path.read_bytes() and file.suffix == ".png"
    assert first.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == lines[1].sha256 == lines[3].sha256
    assert len(list((tmp_path / "kept" / DAY).iterdir())) == 3  # two images and the lines
    with Image.open(tmp_path / "kept" / DAY / third.image) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert (first.student.label, first.teacher.label, first.reason) == ("green", "red", "unsure")
    assert first.teacher.probabilities == {"red": 0.75, "green": 0.25}
    assert (first.identity, first.version) == ("colours/of-a-test#1", "v1")
    assert first.embedding is not None
    np.testing.assert_array_equal(embedding_from_text(first.embedding), [1, 0, 0, 0])


def test_nothing_is_kept_unless_asked_for(student: Student, data: Path, tmp_path: Path) -> None:
    with Cascade(student, EmbeddingTeacher(), threshold=0.0, timeout_s=60.0) as cascade:
        cascade.predict(data / "photo" / "green" / "00.png")
    assert list(tmp_path.iterdir()) == []


def test_confident_images_that_were_not_asked_about_are_not_kept(tmp_path: Path) -> None:
    from tests.helpers.cascades import SURE, TextStudent

    with Cascade(TextStudent(), ScriptedTeacher(), threshold=0.3, keep=tmp_path / "kept") as cascade:  # type: ignore[arg-type]
        cascade.predict(SURE)
        assert not (tmp_path / "kept").exists()
        found = cascade.predict(
            UNSURE
        )  # which is no picture: it cannot be kept, and is answered all the same
        assert found.by == "teacher"
        said = cascade.summary()
    assert said.not_kept == 1 and "identify" in said.problem


def test_old_days_go_and_other_folders_stay(tmp_path: Path) -> None:
    day = ["2026-11-01"]
    kept = KeptFolder(tmp_path, max_days=3, today=lambda: day[0])
    (tmp_path / "mine").mkdir()
    for day[0] in ("2026-11-01", "2026-11-02", "2026-11-03"):
        kept.keep(picture(1), line)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "2026-11-01", "2026-11-02", "2026-11-03"}
    day[0] = "2026-11-04"
    kept.keep(picture(2), line)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "2026-11-02", "2026-11-03", "2026-11-04"}


def test_bytes_are_limited_the_oldest_day_goes_first_and_today_never(tmp_path: Path) -> None:
    limit = 6000
    for restart, day in enumerate(("2026-11-01", "2026-11-02", "2026-11-03")):
        kept = KeptFolder(tmp_path, max_bytes=limit, today=lambda day=day: day)
        kept.keep(picture(restart), line)
    for number in range(10, 20):
        kept.keep(picture(number), line)
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= limit
    assert {path.name for path in tmp_path.iterdir()} == {"2026-11-03"}
    held = len(lines_of(tmp_path, "2026-11-03"))
    assert 2 <= held < 11 and kept.not_kept == 11 - held
    assert "of at most 6,000" in kept.problem


def test_a_disk_that_fails_is_counted_and_the_answer_is_given(
    student: Student, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    with Cascade(
        student, EmbeddingTeacher(), threshold=0.0, keep=tmp_path / "kept", timeout_s=60.0
    ) as cascade:
        assert cascade.predict(data / "photo" / "green" / "00.png").by == "teacher"
        said = cascade.summary()
    assert said.not_kept == 1 and str(tmp_path / "kept") in said.problem


@pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"max_days": 0}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        KeptFolder(tmp_path, **limits)
