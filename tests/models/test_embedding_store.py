"""The teacher is asked once for each image and view, whoever asks, and whatever is killed meanwhile."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.buyer import DIM, WritingTeacher
from vl2v_deploy.data.augment import adjust_colours, colour_draws, crop, view_draw
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.store import held
from vl2v_deploy.models.store import store as embedding_store
from vl2v_deploy.models.store.stats import store_stats
from vl2v_deploy.models.store.store import EmbeddingStore
from vl2v_deploy.models.teacher.protocol import Price
from vl2v_deploy.recipe import AugmentationRecipe

BUYER = Path(__file__).parents[1] / "helpers" / "buyer.py"


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return make_images(tmp_path / "images", 30)


def make_images(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture
def teacher(tmp_path: Path) -> WritingTeacher:
    return WritingTeacher(tmp_path / "paid.txt")


def open_store(folder: Path, teacher: WritingTeacher) -> EmbeddingStore:
    return EmbeddingStore(folder / "store", teacher)


def paid(teacher: WritingTeacher) -> list[str]:
    return teacher.paid.read_text().split() if teacher.paid.exists() else []


def samples_of(paths: list[Path]) -> list[Sample]:
    return [
        Sample(path, "ink", 0, path.name, "train", sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        for path in paths
    ]


def test_each_image_is_bought_once_and_everything_asked_is_counted(
    images: list[Path], teacher: WritingTeacher, tmp_path: Path
) -> None:
    first, second = open_store(tmp_path, teacher), open_store(tmp_path, teacher)
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[3].read_bytes())  # the content counts, not the name
    rows = first.embed([*images[:10], copy, images[0]])
    assert rows.shape == (12, DIM)
    assert torch.equal(rows[10], rows[3]) and torch.equal(rows[11], rows[0])
    alone = [teacher.embed_images([Image.open(path)]) for path in images[:10]]
    assert torch.equal(rows[:10], torch.cat(alone))
    asked_by_the_test = 10
    # opened before the first one bought anything, the second one sees it all the same
    assert torch.equal(second.embed(images[4:12])[:6], rows[4:10])
    assert (first.queries, second.queries) == (10, 2)
    assert len(paid(teacher)) == 12 + asked_by_the_test
    [stats] = store_stats(tmp_path / "store")
    assert (stats.embeddings, stats.dim, stats.hits, stats.misses) == (12, DIM, 2 + 6, 12)
    assert stats.bytes >= 12 * (4 * DIM + 32)
    assert (stats.cost_usd(0.5), stats.saved_usd(0.5)) == pytest.approx((0.006, 0.004))


def test_another_teacher_is_another_store(
    images: list[Path], teacher: WritingTeacher, tmp_path: Path
) -> None:
    open_store(tmp_path, teacher).embed(images[:4])
    other = open_store(tmp_path, WritingTeacher(teacher.paid, identity="w@1+faithful(0.5;0.5;16)"))
    other.embed(images[:4])
    assert other.queries == 4
    assert len(store_stats(tmp_path / "store")) == 2


def test_a_view_is_bought_once_and_is_what_the_student_will_replay(
    images: list[Path], teacher: WritingTeacher, tmp_path: Path
) -> None:
    samples, augmentation = samples_of(images[:6]), AugmentationRecipe()
    store = open_store(tmp_path, teacher)
    rows = store.embed_views(samples, augmentation, views=3)
    assert rows.shape == (6, 3, DIM)
    assert len(set(paid(teacher))) == store.queries == 18  # every view is another picture

    oracle = WritingTeacher(tmp_path / "oracle.txt")
    for number, sample in enumerate(samples):
        for view in range(3):
            image = Image.open(sample.path).convert("RGB")
            draw = view_draw(augmentation, sample.sha256, view, image.width, image.height)
            pixels = torch.from_numpy(crop(image, draw, oracle.image_size_px).copy())[None]
            seen = adjust_colours(pixels, colour_draws([draw]))
            assert torch.equal(rows[number, view], oracle.embed_images([Image.fromarray(seen[0].numpy())])[0])

    again = open_store(tmp_path, teacher)
    assert torch.equal(again.embed_views(samples[::-1], augmentation, views=2), rows.flip(0)[:, :2])
    assert again.queries == 0
    again.embed([sample.path for sample in samples])  # un-augmented is no view
    assert again.queries == 6
    again.embed_views(samples, augmentation, views=4)  # one more view of each
    assert again.queries == 12
    again.embed_views(samples, AugmentationRecipe(grayscale=0.2), views=1)
    assert again.queries == 18
    teacher.image_size_px = 24
    again.embed_views(samples, augmentation, views=1)
    assert again.queries == 24


def test_online_images_are_counted_and_not_kept(teacher: WritingTeacher, tmp_path: Path) -> None:
    store = open_store(tmp_path, teacher)
    pixels = torch.randint(256, (4, 16, 16, 3), dtype=torch.uint8)
    assert torch.equal(store.ask_online(pixels), store.ask_online(pixels))
    assert store.queries == 8 == len(paid(teacher))
    [stats] = store_stats(tmp_path / "store")
    assert (stats.embeddings, stats.misses) == (0, 8)


def test_a_lookup_reads_only_the_shards_that_hold_what_is_wanted(
    images: list[Path], teacher: WritingTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_store, "SHARD_SIZE", 4)
    rows = open_store(tmp_path, teacher).embed(images)
    store = open_store(tmp_path, teacher)
    assert len(list(store.folder.glob("*.safetensors"))) > 7
    read: list[int] = []
    real = held.read_rows
    monkeypatch.setattr(held, "read_rows", lambda s, r: read.append(len(r)) or real(s, r))
    assert torch.equal(store.embed([images[17]])[0], rows[17])
    assert read == [1]


def test_a_shard_is_closed_by_the_clock_too(
    images: list[Path], teacher: WritingTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_store, "SHARD_S", 0.0)
    store = open_store(tmp_path, teacher)
    store.embed(images)
    shards = list(store.folder.glob("*.safetensors"))
    assert len(shards) == len(images) / teacher.batch_size + 0.5  # one a batch, and 30 is no multiple of 4


def test_what_was_paid_before_an_error_is_kept(
    images: list[Path], teacher: WritingTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unplugged(Exception):
        pass

    answer = teacher.embed_images

    def once(batch: object) -> torch.Tensor:
        monkeypatch.setattr(teacher, "embed_images", unplugged)
        return answer(batch)  # type: ignore[arg-type]

    def unplugged(batch: object) -> torch.Tensor:
        raise Unplugged

    monkeypatch.setattr(teacher, "embed_images", once)
    with pytest.raises(Unplugged):
        open_store(tmp_path, teacher).embed(images)
    monkeypatch.setattr(teacher, "embed_images", answer)
    store = open_store(tmp_path, teacher)
    store.embed(images)
    assert store.queries == 30 - 4


@pytest.mark.parametrize(
    "wrong",
    [torch.full((4, DIM), torch.nan), torch.ones(3, DIM), torch.ones(4, DIM + 1)],
    ids=["nan", "few", "of another dimension"],
)
def test_a_wrong_answer_is_not_kept(
    images: list[Path],
    teacher: WritingTeacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: torch.Tensor,
) -> None:
    monkeypatch.setattr(teacher, "embed_images", lambda batch: wrong)
    store = open_store(tmp_path, teacher)
    with pytest.raises(ModelError, match=r"expected 4 finite embeddings, got shape \(\d, [89]\)"):
        store.embed(images)
    assert not list(store.folder.glob("*.safetensors"))


def test_damage_is_named(images: list[Path], teacher: WritingTeacher, tmp_path: Path) -> None:
    teacher.price = Price(usd_per_1k_images=1.0)  # of one that costs nothing see store/test_damage.py
    store = open_store(tmp_path, teacher)
    store.embed(images)
    [shard] = store.folder.glob("*.safetensors")
    whole = shard.read_bytes()
    for damaged in (b"broken", whole[: len(whole) // 2], b""):
        shard.write_bytes(damaged)
        with pytest.raises(ModelError, match=f"{shard.name}: damaged embedding shard"):
            open_store(tmp_path, teacher)
    shard.write_bytes(whole)
    with (store.folder / "asked.jsonl").open("a") as log:
        log.write("{}\n")
    lines = len((store.folder / "asked.jsonl").read_text().splitlines())
    with pytest.raises(ModelError, match=rf"asked\.jsonl: line {lines}: is damaged"):
        store_stats(tmp_path / "store")


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_buyer() -> Iterator[Start]:
    """Starts a process that buys the images of a folder once the file `go` is there."""
    started = []

    def start(
        folder: Path, shard: int, seconds: float = 0.0, stalls_after: float = math.inf
    ) -> subprocess.Popen[str]:
        paths = [folder / name for name in ("store", "paid.txt", "go", "images")]
        settings = ["4", str(shard), str(seconds), str(stalls_after)]
        started.append(
            subprocess.Popen(
                [sys.executable, str(BUYER), *map(str, paths), *settings],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        assert started[-1].stdout is not None and started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for process in started:
        with process:  # none outlives a test that failed
            process.kill()


def test_two_processes_at_once_pay_once(tmp_path: Path, start_buyer: Start) -> None:
    make_images(tmp_path / "images", 60)
    buyers = [start_buyer(tmp_path, shard=8, seconds=0.02) for _ in range(2)]
    (tmp_path / "go").touch()
    answers = [buyer.communicate(timeout=60)[0].split() for buyer in buyers]
    assert answers[0][0] == answers[1][0]
    assert int(answers[0][1]) + int(answers[1][1]) == 60
    bought = (tmp_path / "paid.txt").read_text().split()
    assert len(bought) == len(set(bought)) == 60
    [stats] = store_stats(tmp_path / "store")
    assert (stats.embeddings, stats.misses, stats.hits) == (60, 60, 60)


def test_a_killed_buyer_loses_nothing_that_was_answered(tmp_path: Path, start_buyer: Start) -> None:
    paths = make_images(tmp_path / "images", 60)
    teacher = WritingTeacher(tmp_path / "paid.txt")
    # Two shards are written, half of the third is answered, and the next query waits, locks in its hands.
    mortal = start_buyer(tmp_path, shard=8, stalls_after=20)
    (tmp_path / "go").touch()
    log = tmp_path / "store" / "w@1" / "asked.jsonl"
    deadline = time.monotonic() + 60
    while (not log.exists() or misses(log) < 24) and time.monotonic() < deadline:
        time.sleep(0.01)
    mortal.send_signal(signal.SIGKILL)
    mortal.communicate()
    assert len(paid(teacher)) == 20
    heir = open_store(tmp_path, teacher)
    heir.embed(paths)
    assert heir.queries == 60 - 20
    assert len(set(paid(teacher))) == len(paid(teacher)) == 60
    # A query counts before it is sent: the one that was never answered is among them.
    assert misses(log) == 60 + 4
    assert not list(heir.folder.glob("*.journal")) and not list(heir.folder.glob(".*.writer"))


def misses(log: Path) -> int:
    return sum(json.loads(line)["misses"] for line in log.read_text().splitlines())
