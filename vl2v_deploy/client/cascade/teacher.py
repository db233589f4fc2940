"""What a teacher may be: a function of images; and what its answers become: probabilities of the classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.answers import softmax
from vl2v_deploy.client.cascade.policy import Floats
from vl2v_deploy.client.images import ImageSource
from vl2v_deploy.errors import TeacherError, did_you_mean

SUM_TOLERANCE = 1e-3  # what a row of probabilities may be off 1
# Of one image: probabilities by label, of all classes or the most probable; or a label and its probability.
LabelAnswer: TypeAlias = Mapping[str, float] | tuple[str, float]


@dataclass(frozen=True)
class TeacherAnswers:
    """What a teacher answers about N images.

    probabilities: (N, K), in the order of the student's classes
    embeddings:    (N, D) of the images, L2-normalised; None where it has none
    version:       of the model, as it names itself
    """

    probabilities: Floats
    embeddings: npt.NDArray[np.float32] | None = None
    version: str | None = None


# Asked about a list of images as the cascade was given them. It may raise TeacherError(billed=False) where it
# is certain that nothing was charged, and ImageError for an image that it does not take, before anything is
# sent; any other exception counts as charged. Its attributes `usd_per_query`, `classes` and `identity` are
# used where it has them.
Teacher: TypeAlias = Callable[[list[ImageSource]], TeacherAnswers | npt.NDArray[Any] | Sequence[LabelAnswer]]


def teacher_from_embeddings(
    embed: Callable[[list[ImageSource]], npt.NDArray[Any]],
    class_embeddings: npt.NDArray[Any],
    logit_scale: float,
) -> Callable[[list[ImageSource]], TeacherAnswers]:
    """A zero-shot teacher of a function that embeds images: softmax(s * cosine), as CLIP classifies.

    embed:            images -> (N, D), of any norm
    class_embeddings: (K, D) text embeddings of the student's classes in their order, of any norm
    logit_scale:      s; with a policy of the benchmark's, whose temperature belongs to it, that of
                      `student.bundle.manifest`
    """
    texts = unit_rows(np.asarray(class_embeddings, np.float64))  # (K, D)

    def ask(images: list[ImageSource]) -> TeacherAnswers:
        found = unit_rows(np.asarray(embed(images), np.float64))  # (N, D)
        if found.ndim != 2 or found.shape[1] != texts.shape[1]:
            raise TeacherError(f"the teacher's embeddings are {found.shape}, expected (N, {texts.shape[1]})")
        return TeacherAnswers(probabilities_of(found, texts, logit_scale), found.astype(np.float32))

    return ask


def probabilities_of(embeddings: Floats, texts: Floats, logit_scale: float) -> Floats:
    """softmax(s * cosine); (N, K).

    embeddings: (N, D), L2-normalised; texts: (K, D), L2-normalised
    """
    return softmax(logit_scale * embeddings @ texts.T)


def unit_rows(rows: Floats) -> Floats:
    """The rows with norm 1; TeacherError for a row without a direction."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise TeacherError("an embedding of the teacher is zero or not finite")
    return np.asarray(rows / norms)


def tempered(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities whose logits are divided by the temperature; same shape.

    >>> tempered(np.array([[0.8, 0.2]]), 2.0).round(4).tolist()
    [[0.6667, 0.3333]]
    """
    powers = (probabilities / probabilities.max(axis=1, keepdims=True)) ** (1.0 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def checked_answers(found: Any, classes: Sequence[str], count: int) -> TeacherAnswers:
    """What the teacher returned, as probabilities of all classes.

    count: images that it was asked about

    Raises TeacherError that says what is wrong with it.
    """
    answers = found if isinstance(found, TeacherAnswers) else TeacherAnswers(_matrix(found, classes))
    rows = np.asarray(answers.probabilities, np.float64)
    if rows.shape != (count, len(classes)):
        raise TeacherError(
            f"the teacher answered {rows.shape} where ({count}, {len(classes)}) was due: a row for each "
            "image, a probability for each of the student's classes"
        )
    sums = rows.sum(axis=1, keepdims=True)
    if not ((rows >= 0).all() and (np.abs(sums - 1.0) <= SUM_TOLERANCE).all()):  # not for NaN either
        raise TeacherError("the teacher's answers are no probabilities: expected rows from 0 to 1, of sum 1")
    if answers.embeddings is not None and len(answers.embeddings) != count:
        raise TeacherError(f"{len(answers.embeddings)} embeddings came for {count} images")
    return TeacherAnswers(rows / sums, answers.embeddings, answers.version)


def _matrix(found: Any, classes: Sequence[str]) -> Floats:
    if isinstance(found, np.ndarray):
        return found.astype(np.float64)
    places = {name: place for place, name in enumerate(classes)}
    try:
        rows = [_row(one if isinstance(one, Mapping) else _of_label(*one), places) for one in found]
    except (TypeError, ValueError) as error:
        raise TeacherError(
            f"the teacher answered {type(found).__name__}: expected TeacherAnswers, an array (N, K), or a "
            f"list of (label, probability) or of probabilities by label ({error})"
        ) from error
    return np.stack(rows) if rows else np.empty((0, len(classes)))


def _of_label(label: str, probability: float) -> Mapping[str, float]:
    return {label: float(probability)}


def _row(answer: Mapping[str, float], places: Mapping[str, int]) -> Floats:
    """(K,): what is left of 1 is spread evenly over the classes that the answer does not name."""
    if unknown := [label for label in answer if label not in places]:
        raise TeacherError(
            f"the teacher answered {unknown[0]!r}, which is no class of the student's"
            f"{did_you_mean(str(unknown[0]), places)}"
        )
    others = len(places) - len(answer)
    left = max(0.0, 1.0 - sum(answer.values()))
    row = np.full(len(places), left / others if others else 0.0)
    for label, probability in answer.items():
        row[places[label]] = probability
    best = max(answer.values(), default=0.0)
    if best < row.max():
        raise TeacherError(
            f"the teacher gives its answer a probability of {best:.3g}, less than what is left for each of "
            f"the {others} classes that it does not name"
        )
    return row
