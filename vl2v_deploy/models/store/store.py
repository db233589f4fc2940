"""Teacher embeddings are bought once: a store on disk, keyed by teacher, image content and view, or text.

    STORE/<teacher>/<unique>.safetensors    a shard (see models.store.shards)
    STORE/<teacher>/<unique>.journal        answers that no shard holds yet (see models.store.journal)
    STORE/<teacher>/asked.jsonl             how many embeddings were asked for, and how many of them bought
    STORE/<teacher>/.lock-<n>               held by the process that buys the n-th part of all keys
    STORE/<teacher>/canaries/               of a vendor (see models.store.canaries)
    STORE/<teacher>/<part>.damaged          set aside (see models.store.damage)

Shards are only ever added, so readers need no lock. An answer is on disk before anything else happens: a
killed process loses only what was in flight. How processes share a purchase: see models.store.buying. A store
that cannot be written is read; only what it lacks is an error then.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from vl2v_deploy.bars import Bars
from vl2v_deploy.data.cache import kept_dir, say_not_written
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.ledger.booking import billed_to_all
from vl2v_deploy.models.store.asked import log_asked
from vl2v_deploy.models.store.asking import Question, ask_teacher, checked_answer
from vl2v_deploy.models.store.buying import Purchase
from vl2v_deploy.models.store.canaries import CANARIES, ask_canaries_again, take_canaries
from vl2v_deploy.models.store.damage import Damage, require_agreement
from vl2v_deploy.models.store.disk import DiskRefusal, on_disk
from vl2v_deploy.models.store.held import Held
from vl2v_deploy.models.store.journal import Journal
from vl2v_deploy.models.store.keys import content_key, folder_name, text_key, view_key, view_name
from vl2v_deploy.models.store.questions import about_files, about_texts, about_views
from vl2v_deploy.models.store.reading import map_in_parts
from vl2v_deploy.models.teacher.protocol import (
    FileTeacher,
    Teacher,
    Vendor,
    classifier_of_texts,
    embed_in_batches,
    embed_pixels,
)
from vl2v_deploy.recipe import AugmentationRecipe
from vl2v_deploy.terminal import say_once

# A shard is closed after so many embeddings or seconds.
SHARD_SIZE = 1024
SHARD_S = 30.0


def store_root() -> Path:
    """Where every teacher's embeddings are kept on this machine."""
    return kept_dir("embeddings")


class EmbeddingStore:
    """The embeddings that one teacher has given so far, to this process or another.

    A teacher that knows files has its answers already: they are looked up, and nothing is bought or kept.

    queries:  how many images this object sent to the teacher
    stopping: once set, by another thread than the one that buys, nothing new is asked; what is in flight is
              kept, and the purchase ends with a ModelError unless that was all
    """

    def __init__(self, root: Path, teacher: Teacher) -> None:
        self.teacher = teacher
        self.folder = root / folder_name(teacher.identity)
        self.queries = 0
        self.stopping = threading.Event()
        self._asked_canaries = False
        self._held = Held(self.folder, teacher.embedding_dim, self._tell)

    def embed(self, files: Sequence[Path | bytes], description: str = "Teacher embeddings") -> Tensor:
        """I(x) of each image file, or of its bytes, un-augmented; float32 (N, D), L2-normalised.

        An image whose bytes the teacher has seen before is not sent again.
        """
        with ThreadPoolExecutor() as pool:
            keys = list(map_in_parts(pool, content_key, files))
        return self._embed_files(keys, files, description)

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
        lacking = self._lacking([key for keys in keys_of.values() for key in keys])
        return [sample for sample in samples if any(key in lacking for key in keys_of[sample.sha256])]

    def _is_known_file(self, sample: Sample) -> bool:
        assert isinstance(self.teacher, FileTeacher)
        try:
            self.teacher.embed_files([sample.path], [sample.sha256])
        except ModelError:
            return False
        return True

    def _embed_files(self, keys: Sequence[bytes], files: Sequence[Path | bytes], description: str) -> Tensor:
        if isinstance(self.teacher, FileTeacher):
            paths = [file for file in files if isinstance(file, Path)]
            if len(paths) < len(files):
                raise ModelError(f"teacher: {self.teacher.identity} knows files by their paths, not by bytes")
            return self.teacher.embed_files(paths, [key.hex() for key in keys])
        with ThreadPoolExecutor() as pool:
            return self._embed(keys, about_files(self.teacher, files, keys, pool), description)

    def embed_texts(self, texts: Sequence[str], description: str = "Teacher reads the prompts") -> Tensor:
        """T(c) of each text; float32 (len(texts), D), L2-normalised.

        A vendor is asked once about each text. Another teacher is asked again: it costs nothing.
        """
        if not isinstance(self.teacher, Vendor):
            return embed_in_batches(self.teacher, texts)
        return self._embed([text_key(text) for text in texts], about_texts(self.teacher, texts), description)

    def missing_texts(self, texts: Sequence[str]) -> list[str]:
        """The texts about which the teacher would have to be asked; nothing is bought."""
        if not isinstance(self.teacher, Vendor):
            return list(texts)
        lacking = self._lacking([text_key(text) for text in texts])
        return [text for text in texts if text_key(text) in lacking]

    def prompt_classifier(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        """T: one text embedding for each class, averaged over its own prompts; float32 (K, D), L2-normalised.

        prompts: for each of K classes one or more whole texts
        """
        return classifier_of_texts(prompts, self.embed_texts)

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
            question = about_views(self.teacher, samples, augmentation, views, pool)
            rows = self._embed(keys, question, description)
        return rows.view(len(samples), views, -1)  # (N, views, D)

    def ask_online(self, images: Tensor) -> Tensor:
        """I(x) of augmented images that no other step will see again: asked, counted, not kept; (B, D).

        images: uint8 (B, S, S, 3) RGB; the answer is on their device
        """
        self._make_folder()
        answers = []
        for query in images.split(self.teacher.batch_size):
            log_asked(self.folder, hits=0, misses=len(query))
            self.queries += len(query)
            answers.append(embed_pixels(self.teacher, query))
        return torch.cat(answers)

    def _embed(self, keys: Sequence[bytes], question: Question, description: str) -> Tensor:
        """The embeddings of these keys, float32 (N, D): those that no shard holds are bought first."""
        if not keys:
            return torch.empty(0, self.teacher.embedding_dim)
        bought, rows = 0, None
        while rows is None:  # again where a shard turned out damaged, and its answers cost nothing
            missing = self._lacking(keys)
            bought += self._buy(missing, question, description) if missing else 0
            rows = self._held.rows(keys)
        if bought < len(keys) and question.kind == "image":
            try:
                log_asked(self.folder, hits=len(keys) - bought, misses=0)
            except DiskRefusal as refusal:  # a statistic that nothing depends on
                say_not_written(self.folder.parent.parent, refusal.__cause__ or refusal)
        return rows

    def _lacking(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Key -> an item that wants it, of those that are not held."""
        self._held.refresh()
        missing: dict[bytes, int] = {}
        for item, key in enumerate(keys):
            missing.setdefault(key, item)
        self._held.drop(missing)
        return missing

    def _tell(self, damage: Damage) -> None:
        """Stops where answers were paid for; of another teacher they are asked for again."""
        if self._is_paid:
            raise damage
        say_once(f"{damage.what}. The teacher costs nothing: it is asked again about what that held.")

    @property
    def _is_paid(self) -> bool:
        return isinstance(self.teacher, Vendor) or self.teacher.price is not None

    def _make_folder(self) -> None:
        with on_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def _buy(self, missing: dict[bytes, int], question: Question, description: str) -> int:
        """Buys until nothing is missing; how many embeddings this process paid for.

        description: of the progress bar; empty = none
        """
        if self._is_paid:
            require_agreement(self.folder)
        self._make_folder()
        self._held.recover(to_buy=True)
        self._ask_canaries(missing, question)
        bought = 0
        with Bars(disable=not description) as progress:
            task = progress.add_task(description, total=len(missing))

            def drop_held() -> None:
                before = len(missing)
                self._held.recover(to_buy=True)
                self._held.drop(missing, self._held.refresh())
                progress.advance(task, before - len(missing))

            while missing:
                purchase = Purchase(
                    self.folder,
                    self.teacher.embedding_dim,
                    missing,
                    drop_held,
                    shard_rows=SHARD_SIZE,
                    shard_s=SHARD_S,
                )

                def keep(positions: Sequence[int], rows: Tensor, to: Purchase = purchase) -> None:
                    to.keep(positions, checked_answer(self.teacher, rows, len(positions)))
                    if question.kind == "image":
                        self.queries += len(positions)
                        if isinstance(self.teacher, Vendor):
                            log_asked(self.folder, hits=0, misses=len(positions))
                    progress.advance(task, len(positions))

                try:
                    ask_teacher(self.teacher, question, self._counted(question, purchase.items()), keep)
                    if purchase.unanswered:
                        raise ModelError(f"teacher: no answer came to {purchase.unanswered} queries")
                finally:  # what was paid for is kept also when the teacher fails on the way, or on Ctrl-C
                    purchase.finish()
                    bought += purchase.kept
                if missing and self.stopping.is_set():
                    raise ModelError(f"teacher: stopped; {len(missing)} embeddings were not asked for")
            self._held.refresh()
        return bought

    def _counted(self, question: Question, items: Iterator[int]) -> Iterator[list[int]]:
        """The items in batches, each counted before it is sent: it is paid whatever comes then.

        A vendor's are pulled before they are sent, if ever: its ledger has what was, and answers count here.
        """
        while not self.stopping.is_set() and (batch := list(islice(items, self.teacher.batch_size))):
            if question.kind == "image" and not isinstance(self.teacher, Vendor):
                log_asked(self.folder, hits=0, misses=len(batch))
            yield batch

    def _ask_canaries(self, missing: dict[bytes, int], question: Question) -> None:
        if not isinstance(self.teacher, Vendor):
            return
        first = list(islice(missing.values(), CANARIES))
        with billed_to_all():
            if not self._asked_canaries:
                # Before they are paid for: is there room for what they are asked for?
                Journal(self.folder, self.teacher.embedding_dim, min(len(missing), SHARD_SIZE)).fold()
                ask_canaries_again(self.folder, self.teacher)
                self._asked_canaries = True
            take_canaries(self.folder, self.teacher, question.kind, lambda: list(question.things(first)))
