"""From a run or bundle to a page of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vl2v_deploy.bulk.images import Image
from vl2v_deploy.client.images import DEFAULT_LIMITS, TRUSTED, Limits
from vl2v_deploy.errors import DataError
from vl2v_deploy.looking.answering import answered
from vl2v_deploy.looking.answers import NOBODY, Answers, Look, Subject, two_best
from vl2v_deploy.looking.images import labelled_images, unlabelled_images
from vl2v_deploy.looking.student import opened_subject
from vl2v_deploy.looking.teacher import teacher_answers

MOST_IMAGES = 1000  # of a domain, or of a folder without labels


@dataclass(frozen=True)
class Options:
    """What is looked at, and who is asked.

    images:      folder, pattern, list or archive of images without labels; None = the student's own data
    data:        where the student's data is now; None = as its recipe says
    precision:   of a bundle, as Student.load takes it
    max_images:  of a domain, or of `images`; None = all
    skip_bad:    leave out images of the data that do not decode
    ask_teacher: send the teacher what it has not been asked yet, which may cost money
    """

    images: str | None = None
    data: Path | None = None
    precision: str = "auto"
    max_images: int | None = MOST_IMAGES
    skip_bad: bool = False
    ask_teacher: bool = False


def look_at(path: Path, options: Options) -> Look:
    """The student's answers, and the teacher's as far as they are known.

    path: run directory, bundle directory or zip file of a bundle

    Raises RunError, BundleError and DataError for what cannot be used; with `ask_teacher` what asking raises.
    """
    with opened_subject(path, options.precision) as subject:
        if options.images is not None:
            if options.ask_teacher or options.data:
                other = "ask_teacher" if options.ask_teacher else "data"
                raise DataError(f"images: does not go with {other}, which is about the student's own data")
            return _unlabelled(subject, options.images, options)
        return _labelled(subject, options)


def write_page(html: str, out: Path) -> None:
    """Write the page whole, or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.partial")
    unfinished.write_text(html, encoding="utf-8")
    unfinished.replace(out)


def _labelled(subject: Subject, options: Options) -> Look:
    found = labelled_images(subject, options.data, options.max_images, skip_bad=options.skip_bad)
    samples = found.samples
    said = teacher_answers(subject, found.all_domains, samples, ask=options.ask_teacher)
    answers, failed = _answers(
        subject,
        [Image(str(sample.path)) for sample in samples],
        TRUSTED,
        domain=[found.domains.index(sample.domain) for sample in samples],
        label=[sample.label for sample in samples],
        teacher=(said.index, said.confidence),
    )
    notes = (*found.notes, *([said.note] if said.note else []))
    return Look(
        subject=subject,
        labelled=True,
        domains=found.domains,
        of=found.of,
        answers=answers,
        limits=TRUSTED,
        teacher=said.identity,
        notes=notes,
        failed=failed,
    )


def _unlabelled(subject: Subject, words: str, options: Options) -> Look:
    images, count = unlabelled_images(words, options.max_images)
    answers, failed = _answers(
        subject,
        images,
        DEFAULT_LIMITS,
        domain=[0] * len(images),
        label=[NOBODY] * len(images),
        teacher=(np.full(len(images), NOBODY), np.full(len(images), np.nan)),
    )
    notes = []
    if count > len(images):
        notes.append(f"{len(images):,} of {count:,} images are looked at, taken at even distances.")
    if failed:
        notes.append(f"{len(failed):,} of {len(images):,} images cannot be used; the first: {failed[0][1]}")
    return Look(
        subject=subject,
        labelled=False,
        domains=("",),
        of={"": count},
        answers=answers,
        limits=DEFAULT_LIMITS,
        notes=tuple(notes),
        failed=failed,
    )


def _answers(
    subject: Subject,
    images: Sequence[Image],
    limits: Limits,
    *,
    domain: Sequence[int],
    label: Sequence[int],
    teacher: tuple[np.ndarray, np.ndarray],
) -> tuple[Answers, tuple[tuple[str, str], ...]]:
    """The answers to the images that can be used, and the others with the reason."""
    said = answered(subject, images, limits)
    rows = list(said.rows)
    first, sure, second, less = two_best(said.logits)
    below = subject.abstain_below
    return Answers(
        images=tuple(images[row] for row in rows),
        domain=np.array(domain)[rows],
        label=np.array(label)[rows],
        index=first,
        confidence=sure,
        second=second,
        second_confidence=less,
        abstained=~(sure >= below) if below is not None else np.zeros(len(rows), dtype=bool),
        embedding=said.embedding,
        teacher=teacher[0][rows],
        teacher_confidence=teacher[1][rows],
    ), said.failed


def default_page(path: Path, images: str | None, reports: Path) -> Path:
    """Where the page is written unless the user says where.

    >>> default_page(Path("bundles/pacs.zip"), None, Path("reports")).as_posix()
    'reports/pacs/look.html'
    >>> default_page(Path("runs/pacs"), "new photos/", Path("reports")).as_posix()
    'reports/pacs/look-new-photos.html'
    """
    folder = reports / path.resolve().name.removesuffix(".zip")
    if images is None:
        return folder / "look.html"
    words = "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(images.rstrip("/")).name)
    return folder / f"look-{words}.html"
