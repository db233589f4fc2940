"""Teacher embeddings are bought once: a store on disk, keyed by teacher, image content and view.

    STORE/<teacher>/<unique>.safetensors    a shard (see models.store.shards)
    STORE/<teacher>/asked.jsonl             how many embeddings were asked for, and how many of them bought
    STORE/<teacher>/.lock-<n>               held by the process that buys the n-th part of all keys

Shards are only ever added, so readers need no lock. To buy a shard, a process locks the parts of its keys and
looks again at what other processes have bought by then: processes that want the same images share the work
and pay once. The operating system releases the locks of a killed process, which loses at most the shard that
it was filling.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from vl2v_deploy.client.preprocess import open_image, to_rgb
from vl2v_deploy.data.augment import adjust_colours, colour_draws, crop, view_draw
from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.store.keys import content_key, part_of, view_key, view_name
from vl2v_deploy.models.store.shards import read_keys, read_rows, split_keys, write_shard
from vl2v_deploy.models.teacher.protocol import (
    FileTeacher,
    Teacher,
    device_of,
    embed_pixels,
)
from vl2v_deploy.recipe import AugmentationRecipe

# A shard is closed after so many embeddings or seconds: what a killed process can lose.
SHARD_SIZE = 1024
SHARD_S = 30.0
LOG = "asked.jsonl"

# Asks the teacher about some items, rows of the keys that are wanted; (n, D)
Ask = Callable[[Sequence[int]], Tensor]


def store_root() -> Path:
    """Where every teacher's embeddings are kept on this machine."""
    return cache_dir() / "embeddings"


class EmbeddingStore:
    """The embeddings that one teacher has given so far, to this process or another.

    A teacher that knows files has its answers already: they are looked up, and nothing is bought or kept.

    queries: how many images this object sent to the teacher
    """

    def __init__(self, root: Path, teacher: Teacher) -> None:
        self.teacher = teacher
        self.folder = root / re.sub(r"[^A-Za-z0-9._#@-]+", "_", teacher.identity)
        self.queries = 0
        self._keys: dict[Path, bytes] = {}  # of each shard, as read_keys gives them
        self._read_new_shards()  # a damaged one is found before anything is paid

    def embed(self, paths: Sequence[Path], description: str = "Teacher embeddings") -> Tensor:
        """I(x) of each image file as it is, un-augmented; float32 (N, D), L2-normalised.

        An image whose bytes the teacher has seen before is not sent again.
        """
        with ThreadPoolExecutor() as pool:
            keys = list(pool.map(content_key, paths))
        return self._embed_files(keys, paths, description)

    def embed_samples(self, samples: Sequence[Sample], description: str = "Teacher embeddings") -> Tensor:
        """I(x) of each sample's image as it is; the same as `embed`, without reading the files again."""
        keys = [bytes.fromhex(sample.sha256) for sample in samples]
        return self._embed_files(keys, [sample.path for sample in samples], description)

    def require_answers(self, samples: Sequence[Sample]) -> None:
        """ModelError that names the samples of which a teacher that only knows files knows nothing."""
        if isinstance(self.teacher, FileTeacher):
            self.embed_samples(samples)

    def missing(
        self, samples: Sequence[Sample], augmentation: AugmentationRecipe | None = None, views: int = 0
    ) -> list[Sample]:
        """The samples about which the teacher would have to be asked; nothing is bought.

        augmentation, views: the fixed views that are wanted of each image, of which one that is missing is
        enough; 0 views = the image as it is
        """
        if isinstance(self.teacher, FileTeacher):
            return [sample for sample in samples if not self._is_known_file(sample)]
        keys_of = {sample.sha256: [bytes.fromhex(sample.sha256)] for sample in samples}
        if augmentation is not None and views:
            names = [view_name(augmentation, view, self.teacher.image_size_px) for view in range(views)]
            keys_of = {sha256: [view_key(sha256, name) for name in names] for sha256 in keys_of}
        self._read_new_shards()
        lacking = {key: 0 for keys in keys_of.values() for key in keys}
        self._drop_held(lacking, self._keys)
        return [sample for sample in samples if any(key in lacking for key in keys_of[sample.sha256])]

    def _is_known_file(self, sample: Sample) -> bool:
        assert isinstance(self.teacher, FileTeacher)
        try:
            self.teacher.embed_files([sample.path], [sample.sha256])
        except ModelError:
            return False
        return True

    def _embed_files(self, keys: Sequence[bytes], paths: Sequence[Path], description: str) -> Tensor:
        if isinstance(self.teacher, FileTeacher):
            return self.teacher.embed_files(paths, [key.hex() for key in keys])
        with ThreadPoolExecutor() as pool:

            def ask(items: Sequence[int]) -> Tensor:
                return self.teacher.embed_images(list(pool.map(open_image, (paths[item] for item in items))))

            return self._embed(keys, ask, description)

    def embed_views(
        self,
        samples: Sequence[Sample],
        augmentation: AugmentationRecipe,
        views: int,
        description: str = "Teacher sees the training views",
    ) -> Tensor:
        """I(x) of the fixed augmented views of each image; float32 (N, views, D), L2-normalised.

        The teacher gets view k as data.augment.view_draw draws it: cropped straight to the teacher's own
        input size, so that nothing is lost, then its colours, then the teacher's preprocessing.
        """
        names = [view_name(augmentation, view, self.teacher.image_size_px) for view in range(views)]
        keys = [view_key(sample.sha256, name) for sample in samples for name in names]
        with ThreadPoolExecutor() as pool:

            def ask(items: Sequence[int]) -> Tensor:
                wanted = [(samples[item // views], item % views) for item in items]
                return embed_pixels(self.teacher, self._views(wanted, augmentation, pool))

            rows = self._embed(keys, ask, description)
        return rows.view(len(samples), views, -1)  # (N, views, D)

    def ask_online(self, images: Tensor) -> Tensor:
        """I(x) of augmented images that no other step will see again: asked, counted, not kept; (B, D).

        images: uint8 (B, S, S, 3) RGB; the answer is on their device
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        answers = []
        for query in images.split(self.teacher.batch_size):
            self._log(hits=0, misses=len(query))
            self.queries += len(query)
            answers.append(embed_pixels(self.teacher, query))
        return torch.cat(answers)

    def _views(
        self, wanted: Sequence[tuple[Sample, int]], augmentation: AugmentationRecipe, pool: ThreadPoolExecutor
    ) -> Tensor:
        """The views as pixels, at the teacher's size; uint8 (B, S, S, 3)."""
        paths = list(dict.fromkeys(sample.path for sample, _ in wanted))  # views of one image come together
        images = dict(zip(paths, pool.map(lambda path: to_rgb(open_image(path)), paths), strict=True))
        draws = [
            view_draw(augmentation, sample.sha256, view, *images[sample.path].size) for sample, view in wanted
        ]
        size_px, device = self.teacher.image_size_px, device_of(self.teacher)
        crops = pool.map(lambda item, draw: crop(images[item[0].path], draw, size_px), wanted, draws)
        pixels = torch.from_numpy(np.stack(list(crops))).to(device)  # (B, S, S, 3)
        return adjust_colours(pixels, colour_draws(draws).to(device))

    def _embed(self, keys: Sequence[bytes], ask: Ask, description: str) -> Tensor:
        """The embeddings of these keys, float32 (N, D): those that no shard holds are bought first."""
        if not keys:
            return torch.empty(0, self.teacher.embedding_dim)
        self._read_new_shards()
        missing: dict[bytes, int] = {}  # key -> an item that wants it
        for item, key in enumerate(keys):
            missing.setdefault(key, item)
        self._drop_held(missing, self._keys)
        bought = self._buy(missing, ask, description) if missing else 0
        if bought < len(keys):
            self._log(hits=len(keys) - bought, misses=0)
        return self._read(keys)

    def _buy(self, missing: dict[bytes, int], ask: Ask, description: str) -> int:
        """Buys, shard by shard, until nothing is missing; how many embeddings this process paid for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        bought = 0
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(description, total=len(missing))
            while missing:
                with self._locked(missing) as parts:
                    before = len(missing)
                    self._drop_held(
                        missing, self._read_new_shards()
                    )  # bought by others until we had the lock
                    progress.advance(task, before - len(missing))
                    wanted = ((key, item) for key, item in missing.items() if part_of(key) in parts)
                    paid = self._buy_shard(
                        list(islice(wanted, SHARD_SIZE)), ask, lambda count: progress.advance(task, count)
                    )
                for key in paid:
                    del missing[key]
                bought += len(paid)
        return bought

    @contextmanager
    def _locked(self, missing: Iterable[bytes]) -> Iterator[set[int]]:
        """Locks parts with missing keys, enough for a shard; waits only where all are taken."""
        count = Counter(map(part_of, missing))
        locks = {part: FileLock(self.folder / f".lock-{part}") for part in count}
        parts: set[int] = set()
        with ExitStack() as held:
            for part, lock in locks.items():
                with suppress(Timeout):
                    held.enter_context(lock.acquire(timeout=0))
                    parts.add(part)
                if sum(count[part] for part in parts) >= SHARD_SIZE:
                    break
            if not parts:  # holding none, so two processes never wait for each other
                part, lock = next(iter(locks.items()))
                held.enter_context(lock)
                parts.add(part)
            yield parts

    def _buy_shard(
        self, wanted: Sequence[tuple[bytes, int]], ask: Ask, advance: Callable[[int], None]
    ) -> list[bytes]:
        """Asks the teacher about some keys and their items, and writes a shard; the keys that it holds.

        What was paid for is written also when the teacher fails on the way, or on Ctrl-C.
        """
        started, size = time.monotonic(), self.teacher.batch_size
        keys: list[bytes] = []
        answers: list[Tensor] = []
        try:
            for start in range(0, len(wanted), size):
                if keys and time.monotonic() - started > SHARD_S:
                    break
                batch = wanted[start : start + size]
                self._log(hits=0, misses=len(batch))  # before it is sent: it is paid whatever comes then
                answers.append(self._checked(ask([item for _, item in batch]), len(batch)))
                keys += [key for key, _ in batch]
                self.queries += len(batch)
                advance(len(batch))
        finally:
            if keys:
                shard = write_shard(self.folder, keys, torch.cat(answers))
                self._keys[shard] = b"".join(keys)
        return keys

    def _checked(self, answer: Tensor, images: int) -> Tensor:
        """The teacher's answer on the CPU: one finite embedding for each image, or nothing is kept of it."""
        answer, expected = answer.float().cpu(), (images, self.teacher.embedding_dim)
        if answer.shape != expected or not bool(answer.isfinite().all()):
            raise ModelError(
                f"teacher: expected {images} finite embeddings, got shape {tuple(answer.shape)} where "
                f"{expected} was due, with {int((~answer.isfinite()).sum())} values that are not finite; "
                "they were not kept"
            )
        return answer

    def _read(self, keys: Sequence[bytes]) -> Tensor:
        """The embeddings of keys that the shards hold; float32 (N, D). Reads only shards that hold some."""
        slots = {key: slot for slot, key in enumerate(dict.fromkeys(keys))}
        rows: Tensor | None = None  # (unique N, D)
        unread = set(slots)
        for shard, joined in self._keys.items():
            if not unread:
                break
            held = {key: row for row, key in enumerate(split_keys(joined)) if key in unread}
            if held:
                found = read_rows(shard, list(held.values()))
                rows = found.new_empty(len(slots), found.shape[1]) if rows is None else rows
                rows[[slots[key] for key in held]] = found
                unread -= held.keys()
        assert rows is not None and not unread
        return rows if len(keys) == len(slots) else rows[[slots[key] for key in keys]]

    def _drop_held(self, missing: dict[bytes, int], shards: Iterable[Path]) -> None:
        for shard in shards:
            if not missing:
                return
            for key in split_keys(self._keys[shard]):
                missing.pop(key, None)

    def _read_new_shards(self) -> list[Path]:
        """The keys of shards that are not known yet; those shards."""
        new = sorted(set(self.folder.glob("*.safetensors")) - self._keys.keys())
        for shard in new:
            self._keys[shard] = read_keys(shard)
        return new

    def _log(self, *, hits: int, misses: int) -> None:
        line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "hits": hits, "misses": misses}
        # One write in append mode: lines of several processes do not mix.
        with (self.folder / LOG).open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")
