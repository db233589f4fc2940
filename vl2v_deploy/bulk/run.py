"""Answers to any number of images, written to a file or a folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from vl2v_deploy.bulk.answering import ROWS_AT_ONCE, Rows, Work, rows_here, rows_of_processes
from vl2v_deploy.bulk.images import Image
from vl2v_deploy.bulk.inputs import STDIN, images_of, require_inputs
from vl2v_deploy.bulk.kept import Kept, is_there, require_replaceable, was_finished
from vl2v_deploy.bulk.parts import EVERYTHING, Part, items_of_part
from vl2v_deploy.bulk.progress import Show, Total, shown_progress
from vl2v_deploy.bulk.rows import Columns, Format, format_of
from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.client.images import DEFAULT_LIMITS, Limits
from vl2v_deploy.client.providers import CPU, Providers
from vl2v_deploy.client.session import AUTO
from vl2v_deploy.client.student import Student
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import DataError, RunError
from vl2v_deploy.folders import partial_of, remove_folder
from vl2v_deploy.names import listed

if TYPE_CHECKING:  # `predict` of a few images needs no rich
    from rich.console import Console

_FORMAT = 1  # of what is kept of an unfinished run


@dataclass(frozen=True)
class Settings:
    """How images are answered and what is written of it.

    precision, providers, limits: as of Student.load
    threads:    of an operator; None = all cores in one process, one thread in each of several
    workers:    processes; None = one a core on the CPU, else one
    top:        how many classes a row holds
    embeddings: whether it holds the image's embedding
    format:     parquet, csv or jsonl; None = by the output's ending, in a folder Parquet
    part:       which of the images
    """

    precision: str = AUTO
    providers: Providers = None
    threads: int | None = None
    workers: int | None = None
    top: int = 3
    embeddings: bool = False
    format: str | None = None
    part: Part = EVERYTHING
    limits: Limits = DEFAULT_LIMITS

    def load(self, bundle: Path) -> Student:
        """The student of this process; what it raises is Student.load's."""
        return Student.load(
            bundle,
            precision=self.precision,
            providers=self.providers,
            threads=self.threads,
            limits=self.limits,
        )


@dataclass(frozen=True)
class Outcome:
    """What a run has come to.

    images:  in the output; None = it was finished before, and nothing was done
    failed:  of them, those that cannot be used
    now:     of them, those that this attempt answered
    seconds: that it took
    """

    images: int | None
    failed: int = 0
    now: int = 0
    seconds: float = 0.0


def predict_to(
    bundle: Path,
    inputs: Sequence[str],
    out: Path,
    settings: Settings,
    console: Console,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Write the student's answers to images, one row each and in order, to a file or a folder of files.

    inputs:    as `images_of` takes them
    out:       a .parquet, .csv or .jsonl file; any other name is a folder
    console:   where progress is shown
    resume:    go on with an unfinished output; one that is finished is left as it is
    overwrite: begin anew, and replace a finished output in the end

    Raises RunError for an output that is in the way or belongs to another run, DataError for inputs that are
    not there or hold no image, MissingExtra for Parquet without pyarrow, and what loading a student raises.
    """
    format, is_folder = format_of(out, settings.format)
    require_inputs(inputs)
    with settings.load(bundle) as student:
        columns = Columns(min(settings.top, len(student.classes)), settings.embeddings)
        identity = _identity(student, settings, format, columns)
        kept = Kept(out, format, columns, identity, folder=is_folder)
        unfinished = partial_of(out)
        if resume and not unfinished.exists() and was_finished(out, format, identity, folder=is_folder):
            return Outcome(images=None)
        _require_free(out, unfinished, resume or overwrite, is_folder)
        images = items_of_part(_at_least_one(inputs), settings.part)
        if resume:
            kept.resume()
        else:
            kept.start()
        work = Work(
            bundle=bundle.absolute(),
            precision=student.precision,
            providers=student.provider if settings.providers == AUTO else settings.providers,
            threads=settings.threads,
            limits=settings.limits,
            format=format,
            columns=columns,
        )
        total = Total(None if STDIN in inputs else items_of_part(images_of(inputs), settings.part))
        try:
            with shown_progress(console, total, kept.progress.images) as show:
                return _answer_all(student, images, work, settings.workers, kept, show)
        except BaseException:
            if not kept.progress.images and unfinished.exists():
                remove_folder(unfinished)  # there is nothing in it to go on with
            raise


def _at_least_one(inputs: Sequence[str]) -> Iterator[Image]:
    """The images of the inputs; DataError at once where there are none."""
    images = images_of(inputs)
    first = next(images, None)
    if first is None:
        raise DataError(f"{listed(inputs)}: no image is there")
    return chain([first], images)


def _answer_all(
    student: Student, images: Iterator[Image], work: Work, workers: int | None, kept: Kept, show: Show
) -> Outcome:
    began, before = time.monotonic(), kept.progress.images
    kept.skip(images)
    with closing(_rows(student, images, work, workers)) as rows:
        for some in rows:
            kept.add(some)
            show(kept.progress.images, kept.progress.failed)
    kept.finish()
    done = kept.progress
    return Outcome(done.images, done.failed, done.images - before, time.monotonic() - began)


def _rows(
    student: Student, images: Iterator[Image], work: Work, workers: int | None
) -> Generator[Rows, None, None]:
    """By this process alone where there is one worker, or so few images that no other pays."""
    if workers is None:
        workers = default_threads().count if student.provider == CPU else 1
    few = list(islice(images, ROWS_AT_ONCE + 1))
    everything = chain(few, images)
    if workers == 1 or len(few) <= ROWS_AT_ONCE:
        return rows_here(student, everything, work)
    student.close()
    return rows_of_processes(everything, work, workers)


def _require_free(out: Path, unfinished: Path, overwrite: bool, is_folder: bool) -> None:
    """RunError when something is in the way."""
    require_replaceable(out, folder=is_folder)
    if overwrite:
        return
    if is_there(out):
        raise RunError(f"{out}: exists already; pass --overwrite to replace it")
    if unfinished.exists():
        raise RunError(f"{unfinished}: is unfinished; go on with --resume, or begin anew with --overwrite")


def _identity(student: Student, settings: Settings, format: Format, columns: Columns) -> str:
    """What makes the rows, as JSON: the same inputs give the same rows by the same identity."""
    return json.dumps(
        {
            "format": _FORMAT,
            "bundle": _digest(student.bundle),
            "precision": student.precision,
            "provider": student.provider,
            "part": f"{settings.part.number}/{settings.part.of}",
            "rows": format,
            "top": columns.top,
            "embeddings": columns.embeddings,
            "limits": [settings.limits.max_pixels, settings.limits.max_bytes, list(settings.limits.formats)],
        }
    )


def _digest(bundle: Bundle) -> str:
    return hashlib.sha256(json.dumps(sorted(bundle.sums.items())).encode()).hexdigest()
