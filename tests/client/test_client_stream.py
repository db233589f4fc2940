"""Streams of images: order, look-ahead, errors, endings; a fake session answers with the grey it sees."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.helpers.manifests import made_up_manifest
from vl2v_deploy.client import Bundle, Limits, Prediction, Runtime, Student
from vl2v_deploy.client.images import Pixels
from vl2v_deploy.client.manifest import Confidence
from vl2v_deploy.client.stream import default_workers
from vl2v_deploy.errors import ClosedError, ImageError

CLASSES = 256
BAD = b"no image"


class GreySession:
    """Logits that are largest at the grey of the image; the batch sizes that it was given."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, names: list[str], inputs: dict[str, Pixels]) -> list[npt.NDArray[np.float32]]:
        assert names == ["logits", "embedding"]
        images = inputs["images"]
        self.batches.append(len(images))
        grey = images[:, 0, 0, 0].astype(np.float32)
        return [-np.abs(np.arange(CLASSES, dtype=np.float32) - grey[:, None]), grey[:, None]]


@pytest.fixture
def student() -> Student:
    classes, confidence = tuple(map(str, range(CLASSES))), Confidence(1.0, abstain_below=0.1)
    bundle = Bundle(
        Path("fake"),
        made_up_manifest(classes=classes, image_size_px=4, embedding_dim=1, confidence=confidence),
    )
    runtime = Runtime("CPUExecutionProvider", "fp32", None, "0", "a test")
    return Student(bundle, GreySession(), runtime, Limits(), lambda: None)  # type: ignore[arg-type, return-value]


def image(grey: int) -> Pixels:
    return np.full((6, 5, 3), grey, np.uint8)


def batches_of(student: Student) -> list[int]:
    session: GreySession = student._session
    return session.batches


@pytest.mark.parametrize("workers", [1, 2, 7, None])
@pytest.mark.parametrize(("count", "batch_size"), [(0, 4), (1, 4), (8, 4), (30, 7), (3, 1)])
def test_answers_come_in_order(student: Student, workers: int | None, count: int, batch_size: int) -> None:
    predictions = student.predict_batch(map(image, range(count)), batch_size=batch_size, workers=workers)
    assert [p.index for p in predictions] == list(range(count))
    assert all(p.runtime == student.runtime and p.logits is None for p in predictions)
    whole, rest = divmod(count, batch_size)
    assert batches_of(student) == [batch_size] * whole + [rest] * bool(rest)
    embeddings = student.embed_batch(map(image, range(count)), batch_size=batch_size, workers=workers)
    assert embeddings.shape == (count, 1) and embeddings.dtype == np.float32
    assert embeddings[:, 0].tolist() == list(range(count))


def test_top_and_logits_are_passed_on(student: Student) -> None:
    [first] = student.predict_batch([image(9)], top=2, logits=True)
    assert first == student.predict(image(9), top=2, logits=True)
    assert first.top[0][0] == "9" and len(first.top) == 2
    assert first.logits is not None and len(first.logits) == CLASSES and first.logits[9] == 0.0


@pytest.mark.parametrize("workers", [1, 3])
def test_an_endless_iterator_is_read_two_batches_ahead_at_most(student: Student, workers: int) -> None:
    read = itertools.count()
    threads = set()

    def endless() -> Iterator[Pixels]:
        for number in read:
            threads.add(threading.current_thread())
            yield image(number % CLASSES)

    before = threading.active_count()
    stream = student.stream(endless(), batch_size=5, workers=workers)
    for number, prediction in enumerate(itertools.islice(stream, 600)):
        assert prediction.index == number % CLASSES
    assert next(read) <= 600 + 3 * 5  # two batches ahead, of which one was run
    assert threads == {threading.current_thread()}
    stream.close()
    assert threading.active_count() == before


def test_whoever_stops_reading_stops_it(student: Student) -> None:
    before = threading.active_count()
    for prediction in student.stream(map(image, itertools.cycle(range(9))), batch_size=2, workers=3):
        assert isinstance(prediction, Prediction)
        break
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("position", [0, 1, 3, 4, 10])
def test_a_bad_image_is_raised_at_its_turn(student: Student, workers: int, position: int) -> None:
    images: list[Any] = [*map(image, range(11))]
    images[position] = BAD
    answered = []
    with pytest.raises(ImageError, match=f"^image {position}: <8 bytes>: is not an image"):
        for prediction in student.stream(images, batch_size=4, workers=workers):
            answered.append(prediction.index)
    assert answered == list(range(position))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_stream_survives_bad_images(student: Student, workers: int, tmp_path: Path) -> None:
    images: list[Any] = [BAD, image(1), tmp_path / "none.png", BAD, image(4), 5, BAD]
    answers = list(student.stream(images, batch_size=2, workers=workers, on_error="yield"))
    assert [a.index if isinstance(a, Prediction) else None for a in answers] == [
        None,
        1,
        None,
        None,
        4,
        None,
        None,
    ]
    errors = [str(a) for a in answers if isinstance(a, ImageError)]
    assert errors[1] == f"{tmp_path / 'none.png'}: cannot be read: No such file or directory"
    assert errors[2].startswith("image 3: <8 bytes>") and errors[3].startswith("image 5: expected a path")
    # neither traceback nor cause: their frames would keep the images of a long stream's errors in memory
    assert all(a.__traceback__ is None and a.__cause__ is None for a in answers if isinstance(a, ImageError))
    assert batches_of(student) == [1, 1]  # nothing is run for a batch without an image


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_of_the_iterator_comes_after_all_answers_before_it(student: Student, workers: int) -> None:
    def broken() -> Iterator[Pixels]:
        yield from map(image, range(7))
        raise OSError("camera unplugged")

    answered = []
    with pytest.raises(OSError, match="camera unplugged"):
        for prediction in student.stream(broken(), batch_size=4, workers=workers):
            answered.append(prediction.index)
    assert answered == list(range(7))


def test_arguments_are_checked_before_anything_is_read(student: Student) -> None:
    for options in ({"batch_size": 0}, {"workers": 0}, {"on_error": "skip"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} .*expected"):
            student.stream([], **options)


def test_closing_in_mid_stream_is_an_error(student: Student) -> None:
    stream = student.stream(map(image, itertools.cycle([1])), batch_size=2)
    assert next(stream).index == 1
    student.close()
    with pytest.raises(ClosedError, match="student of fake is closed: load it again"):
        list(stream)
    for ask in (student.predict, student.embed, lambda one: student.predict_batch([one])):
        with pytest.raises(ClosedError):
            ask(image(1))
    student.close()  # twice does no harm


def test_threads_get_their_own_answers(student: Student) -> None:
    def ask(seed: int) -> bool:
        greys = np.random.default_rng(seed).integers(0, CLASSES, 40).tolist()
        streamed = student.predict_batch(map(image, greys), batch_size=3, workers=2)
        alone = [student.predict(image(grey)) for grey in greys]
        return bool([p.index for p in streamed] == [p.index for p in alone] == greys)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(12)))


def test_workers_follow_the_threads_of_the_session() -> None:
    assert default_workers(1) == 1
    assert default_workers(3) == 3
    assert default_workers(64) == 8
    assert 1 <= default_workers(None) <= 8
