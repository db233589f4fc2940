"""Teacher embeddings are bought once: a store on disk, keyed by teacher, image content and view.

    STORE/<teacher>/<unique>.safetensors    a shard (see models.store.shards)
    STORE/<teacher>/asked.jsonl             how many embeddings were asked for, and how many of them bought
    STORE/<teacher>/.lock-<n>               held by the process that buys of the n-th part of all keys

Shards are only ever added, so whoever reads needs no lock. Whoever buys a shard first locks the parts that
its keys are of and reads what others have bought meanwhile: processes that want the same images share the
work and pay once. The locks are the operating system's, which takes them back from a killed process; that
loses at most the shard it was filling.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

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
from vl2v_deploy.models.store.shards import KEY_BYTES, read_keys, read_rows, write_shard
from vl2v_deploy.recipe import AugmentationRecipe

if TYPE_CHECKING:  # open_clip takes seconds to import; who only looks into the store need not wait for it
    from vl2v_deploy.models.teacher.open_clip import Teacher

# A shard is closed after so many embeddings or seconds: what a killed process can lose.
SHARD_SIZE = 1024
SHARD_S = 30.0
LOG = "asked.jsonl"

Show = Callable[[Sequence[int]], Tensor]


def store_root() -> Path:
    """Where every teacher's embeddings are kept on this machine."""
    return cache_dir() / "embeddings"


class EmbeddingStore:
    """The embeddings that one teacher has given so far, to this process or another.

    queries: how many images this object sent to the teacher
    """

    def __init__(self, root: Path, teacher: Teacher) -> None:
        self.teacher = teacher
        self.folder = root / re.sub(r"[^A-Za-z0-9._#@-]+", "_", teacher.identity)
        self.queries = 0
        self._keys: dict[Path, bytes] = {}
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

    def _embed_files(self, keys: Sequence[bytes], paths: Sequence[Path], description: str) -> Tensor:
        with ThreadPoolExecutor() as pool:

            def show(items: Sequence[int]) -> Tensor:
                return self.teacher.embed_images(list(pool.map(open_image, (paths[item] for item in items))))

            return self._embed(keys, show, description)

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

            def show(items: Sequence[int]) -> Tensor:
                wanted = [(samples[item // views], item % views) for item in items]
                return self.teacher.embed_pixels(self._views(wanted, augmentation, pool))

            rows = self._embed(keys, show, description)
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
            answers.append(self.teacher.embed_pixels(query))
        return torch.cat(answers)

    def _views(
        self, wanted: Sequence[tuple[Sample, int]], augmentation: AugmentationRecipe, pool: ThreadPoolExecutor
    ) -> Tensor:
        """The views as pixels on the teacher's device; uint8 (B, S, S, 3)."""
        paths = list(dict.fromkeys(sample.path for sample, _ in wanted))  # views of one image come together
        images = dict(zip(paths, pool.map(lambda path: to_rgb(open_image(path)), paths), strict=True))
        draws = [
            view_draw(augmentation, sample.sha256, view, *images[sample.path].size) for sample, view in wanted
        ]
        size_px = self.teacher.image_size_px
        crops = pool.map(lambda item, draw: crop(images[item[0].path], draw, size_px), wanted, draws)
        pixels = torch.from_numpy(np.stack(list(crops))).to(self.teacher.device)  # (B, S, S, 3)
        return adjust_colours(pixels, colour_draws(draws).to(self.teacher.device))

    def _embed(self, keys: Sequence[bytes], show: Show, description: str) -> Tensor:
        """The embeddings of these keys, from the shards or bought; float32 (N, D).

        show: items (rows of keys) -> what the teacher says of them, (n, D)
        """
        if not keys:
            return torch.empty(0, self.teacher.embedding_dim)
        found = _Found(keys)
        self._take(found)
        bought = self._buy_missing(found, show, description) if found.missing else 0
        if bought < len(keys):
            self._log(hits=len(keys) - bought, misses=0)
        return found.rows_of(keys)

    def _buy_missing(self, found: _Found, show: Show, description: str) -> int:
        """Buys until nothing is missing; how many embeddings this process paid for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        bought = 0
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(description, total=len(found.missing))
            while found.missing:
                with self._claimed(found) as parts:
                    missing = len(found.missing)
                    self._take(found)  # what others bought before this process got the locks
                    progress.advance(task, missing - len(found.missing))
                    mine = ((key, item) for key, item in found.missing.items() if part_of(key) in parts)
                    todo = list(islice(mine, SHARD_SIZE))
                    bought += self._buy_shard(found, todo, show, lambda n: progress.advance(task, n))
        return bought

    @contextmanager
    def _claimed(self, found: _Found) -> Iterator[set[int]]:
        """Holds the locks of parts with missing keys, enough for a shard; waits only where all are taken."""
        missing = Counter(map(part_of, found.missing))
        locks = {part: FileLock(self.folder / f".lock-{part}") for part in missing}
        parts: set[int] = set()
        with ExitStack() as held:
            for part, lock in locks.items():
                with suppress(Timeout):
                    held.enter_context(lock.acquire(timeout=0))
                    parts.add(part)
                if sum(missing[part] for part in parts) >= SHARD_SIZE:
                    break
            if not parts:  # holding none, so two processes never wait for each other
                part, lock = next(iter(locks.items()))
                held.enter_context(lock)
                parts.add(part)
            yield parts

    def _buy_shard(
        self, found: _Found, todo: Sequence[tuple[bytes, int]], show: Show, advance: Callable[[int], None]
    ) -> int:
        """Sends images to the teacher and writes a shard of the answers; how many it holds.

        todo: key and item of each
        """
        started, size = time.monotonic(), self.teacher.batch_size
        keys: list[bytes] = []
        answers: list[Tensor] = []
        try:
            for start in range(0, len(todo), size):
                if keys and time.monotonic() - started > SHARD_S:
                    break
                batch = todo[start : start + size]
                self._log(hits=0, misses=len(batch))  # before it is sent: it is paid whatever comes then
                answers.append(_checked(show([item for _, item in batch]), len(batch)))
                keys += [key for key, _ in batch]
                self.queries += len(batch)
                advance(len(batch))
        finally:  # what was paid for is kept, also on Ctrl-C
            if keys:
                rows = torch.cat(answers)
                shard = write_shard(self.folder, keys, rows)
                self._keys[shard] = b"".join(keys)
                found.put(keys, rows)
                found.scanned.add(shard)
        return len(keys)

    def _take(self, found: _Found) -> None:
        """Takes from the shards what is missing; reads only shards that hold some of it."""
        self._read_new_shards()
        for shard, joined in self._keys.items():
            if shard in found.scanned or not found.missing:
                continue
            found.scanned.add(shard)
            keys = (joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES))
            held = {key: row for row, key in enumerate(keys) if key in found.missing}
            if held:
                found.put(list(held), read_rows(shard, list(held.values())))

    def _read_new_shards(self) -> None:
        for shard in sorted(set(self.folder.glob("*.safetensors")) - self._keys.keys()):
            self._keys[shard] = read_keys(shard)

    def _log(self, *, hits: int, misses: int) -> None:
        line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "hits": hits, "misses": misses}
        # One write in append mode: lines of several processes do not mix.
        with (self.folder / LOG).open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")


class _Found:
    """Embeddings as they turn up.

    missing: key -> an item that wants it, for those that have not
    scanned: shards that were looked through
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.missing: dict[bytes, int] = {}
        for item, key in enumerate(keys):
            self.missing.setdefault(key, item)
        self.scanned: set[Path] = set()
        self._slot_of = {key: slot for slot, key in enumerate(self.missing)}
        self._rows: Tensor | None = None

    def put(self, keys: Sequence[bytes], rows: Tensor) -> None:
        if self._rows is None:
            self._rows = rows.new_empty(len(self._slot_of), rows.shape[1])  # (unique N, D)
        self._rows[[self._slot_of[key] for key in keys]] = rows
        for key in keys:
            del self.missing[key]

    def rows_of(self, keys: Sequence[bytes]) -> Tensor:
        assert self._rows is not None and not self.missing
        if len(keys) == len(self._slot_of):  # none twice: they stand in this order already
            return self._rows
        return self._rows[[self._slot_of[key] for key in keys]]


def _checked(answer: Tensor, images: int) -> Tensor:
    """The teacher's answer on the CPU, fit to be kept for good: one finite embedding an image."""
    answer = answer.float().cpu()
    if answer.ndim != 2 or len(answer) != images or not bool(answer.isfinite().all()):
        raise ModelError(
            f"teacher: expected {images} finite embeddings, got shape {tuple(answer.shape)} with "
            f"{int((~answer.isfinite()).sum())} values that are not finite; they were not kept"
        )
    return answer
