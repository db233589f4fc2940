"""A stream of images -> a stream of rows, in order: in this process, or in several with one thread each."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vl2v_deploy.bulk.images import Image, source_of
from vl2v_deploy.bulk.parts import BLOCK
from vl2v_deploy.bulk.rows import Columns, Format, raw_rows
from vl2v_deploy.client.answers import Prediction
from vl2v_deploy.client.images import Limits, Pixels, source_name
from vl2v_deploy.client.providers import Providers
from vl2v_deploy.client.stream import chunks, default_workers, in_order
from vl2v_deploy.client.student import Student
from vl2v_deploy.errors import ImageError, RunError
from vl2v_deploy.signals import SIGNALS

# Rows that are answered, encoded and kept together: what a kill can cost each process.
ROWS_AT_ONCE = 8 * BLOCK
# Blocks under way: enough to keep all processes busy while the first of them takes longer than the others.
_BLOCKS_OF_A_PROCESS = 3


class Rows(NamedTuple):
    """Some answers, encoded.

    images: those they answer, in order
    failed: how many cannot be used
    raw:    rows, as `raw_rows` makes them
    """

    images: list[Image]
    failed: int
    raw: bytes


@dataclass(frozen=True)
class Work:
    """What each process does: the student it loads, and how it writes answers."""

    bundle: Path
    precision: str
    providers: Providers
    threads: int | None
    limits: Limits
    format: Format
    columns: Columns

    def load(self, threads: int | None) -> Student:
        """The student; what it raises is Student.load's."""
        return Student.load(
            self.bundle,
            precision=self.precision,
            providers=self.providers,
            threads=threads,
            limits=self.limits,
        )


def answered(
    student: Student, images: Iterable[Image], columns: Columns, *, workers: int
) -> Generator[tuple[Image, Prediction | ImageError], None, None]:
    """Each image with its answer, in order; batches are 32 neighbours of the stream, without the bad ones.

    workers: threads that decode, a little ahead; 1 = in the calling thread
    """

    def decoded(image: Image) -> tuple[Image, Pixels | ImageError]:
        source: Path | bytes | None = None
        try:
            source = source_of(image, student.limits)
            return image, student.pixels(source)
        except ImageError as error:  # a new one, without the traceback, whose frames hold the image
            said = str(error)
            if isinstance(source, bytes):
                said = f"{image.name}{said.removeprefix(source_name(source))}"
            return image, ImageError(said)

    items = in_order(images, decoded, workers=workers, ahead=2 * BLOCK)
    with closing(items):
        for chunk in chunks(items, BLOCK):
            good = [item for _, item in chunk if not isinstance(item, ImageError)]
            answers = zip(*student.run(np.stack(good)), strict=True) if good else iter(())
            for image, item in chunk:
                if isinstance(item, ImageError):
                    yield image, item
                    continue
                logits, embedding = next(answers)
                yield (
                    image,
                    student.prediction_from_logits(
                        logits, top=columns.top, embedding=embedding if columns.embeddings else None
                    ),
                )


def rows_here(student: Student, images: Iterable[Image], work: Work) -> Generator[Rows, None, None]:
    """The rows of a stream, some hundred at a time, by a student of this process."""
    workers = default_workers(student.runtime.threads)
    with closing(answered(student, images, work.columns, workers=workers)) as answers:
        for some in chunks(answers, ROWS_AT_ONCE):
            yield _encoded(some, work)


def rows_of_processes(images: Iterable[Image], work: Work, processes: int) -> Generator[Rows, None, None]:
    """The rows of a stream, some hundred at a time, by processes that each load a student of one thread.

    At most 768 images a process are read ahead. Closing ends the processes after the batch that each is at;
    they end by themselves when this process is killed.

    Raises RunError when a process ends unexpectedly, and what loading and running a student raise.
    """
    context = get_context("spawn")  # threads of onnxruntime are not forked
    # Closing one end is seen at the other. An Event has a lock, which a process may hold when it is killed.
    stop, not_stopped = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(work, stop))
    pending: deque[tuple[Image, Future[Rows]]] = deque()  # with the first image of each block
    try:
        for block in chunks(images, ROWS_AT_ONCE):
            pending.append((block[0], pool.submit(_answer, block)))
            while pending and (pending[0][1].done() or len(pending) >= _BLOCKS_OF_A_PROCESS * processes):
                yield pending[0][1].result()
                pending.popleft()
        while pending:
            yield pending[0][1].result()
            pending.popleft()
    except BrokenProcessPool as error:
        _kill(pool)
        near = f" at {pending[0][0].name} or soon after it" if pending else ""
        raise RunError(
            f"a worker process was killed or crashed{near}: too little memory, or an image that crashes its "
            "decoder; go on with --resume and fewer --workers, or with --decode-deadline 60, which survives "
            "crashes"
        ) from error
    finally:
        not_stopped.close()
        pool.shutdown(cancel_futures=True)
        stop.close()


def _kill(pool: ProcessPoolExecutor) -> None:
    """Ends the processes of a broken pool, which waits for them.

    They ignore the signal that it sends them, and one that was sending its rows does so for ever.
    """
    if sys.version_info >= (3, 14):
        pool.kill_workers()
        return
    for process in list((pool._processes or {}).values()):
        process.kill()


def _encoded(answers: list[tuple[Image, Prediction | ImageError]], work: Work) -> Rows:
    failed = sum(isinstance(answer, ImageError) for _, answer in answers)
    return Rows([image for image, _ in answers], failed, raw_rows(answers, work.format, work.columns))


class _Process:
    """What a worker process holds: it is told once, and loads the student with its first images."""

    work: Work
    stop: Connection
    student: Student | None = None


def _start(work: Work, stop: Connection) -> None:
    for number in SIGNALS:  # a terminal signals the whole group; the process that started this one decides
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    _Process.work, _Process.stop = work, stop


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(images: list[Image]) -> Rows:
    work = _Process.work
    if _Process.student is None:
        _Process.student = work.load(work.threads or 1)
    answers = []
    for number, answer in enumerate(answered(_Process.student, images, work.columns, workers=1)):
        if number % BLOCK == 0 and _Process.stop.poll():
            break  # nobody waits for it
        answers.append(answer)
    return _encoded(answers, work)
