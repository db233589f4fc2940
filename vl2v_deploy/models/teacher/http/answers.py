"""From what an answer holds to embeddings in the order of the question; every doubt has a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vl2v_deploy.models.teacher.http.apis.wire import Body, Rows, Wire

if TYPE_CHECKING:
    from torch import Tensor

# Two answers about one item in one request; servers round otherwise in other places of a batch.
SAME = 1e-3
# How far a float32 vector that was normalised is from norm 1.
UNIT = 1e-6


class BadAnswer(Exception):
    """A 200 whose body cannot be used.

    again: whether another try may help
    """

    def __init__(self, reason: str, *, again: bool = True) -> None:
        self.again = again
        super().__init__(reason)


def read_rows(wire: Wire, body: Body) -> Rows:
    """What the adapter finds in an answer; raises BadAnswer where it finds nothing of its kind."""
    try:
        return wire.read(body)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        kind = type(error).__name__
    raise BadAnswer(f"the answer is not in the API's format ({kind}; {len(body.content)} bytes)")


def checked_embeddings(rows: Rows, count: int, dim: int, repeated: int | None) -> Tensor:
    """`checked_rows` as a tensor on the CPU."""
    import torch  # here, as a cascade asks an API without it

    return torch.from_numpy(checked_rows(rows, count, dim, repeated))


def checked_rows(rows: Rows, count: int, dim: int, repeated: int | None) -> NDArray[np.float32]:
    """The embeddings of the `count` items asked about, in their order; float32 (count, D), L2-normalised.

    dim:      D that is expected
    repeated: item that was sent once more at the end, where order is not told; None = none was

    Raises BadAnswer that names what is wrong.
    """
    sent = count if repeated is None else count + 1
    if len(rows.embeddings) != sent:
        raise BadAnswer(f"{len(rows.embeddings)} embeddings came for {sent} items")
    embeddings = _matrix(rows.embeddings, dim)  # (sent, D)
    if rows.index is not None:
        embeddings = embeddings[_order(rows.index)]
    not_finite = ~np.isfinite(embeddings).all(axis=1)
    if not_finite.any():
        raise BadAnswer(f"{not_finite.sum()} of {sent} embeddings hold numbers that are not finite")
    with np.errstate(over="ignore"):  # a norm that overflows is refused below
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    without_direction = (norms == 0) | np.isinf(norms)
    if without_direction.any():
        raise BadAnswer(f"{without_direction.sum()} of {sent} embeddings are zero vectors, or infinite")
    # What is normalised already keeps its bits: our own server's answers are then the local teacher's.
    unit = np.where(np.abs(norms - 1) < UNIT, embeddings, embeddings / norms)
    if repeated is not None:
        far = float(np.linalg.norm(unit[repeated] - unit[-1]))
        if far > SAME:
            raise BadAnswer(
                f"the same item, sent in two places of a request, has two embeddings ({far:.3f} apart): the "
                "answers are not in the order of the question",
                again=False,
            )
    return np.asarray(unit[:count], np.float32)


def _matrix(embeddings: Sequence[object], dim: int) -> NDArray[np.float64]:
    try:
        found = np.asarray(embeddings, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.empty(0)
    if found.ndim != 2:
        raise BadAnswer("the embeddings are no lists of numbers of one length")
    if found.shape[1] != dim:
        raise BadAnswer(
            f"embeddings of {found.shape[1]} dimensions came, teacher.dimensions is {dim}",
            again=False,
        )
    return found


def _order(index: Sequence[object]) -> list[int]:
    """Where the embedding of each item stands in the answer."""
    places: dict[int, int] = {}
    for place, item in enumerate(index):
        if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < len(index):
            raise BadAnswer(f"index {item!r} came for {len(index)} items")
        if item in places:
            raise BadAnswer(f"index {item} came twice: an embedding is missing")
        places[item] = place
    return [places[item] for item in range(len(index))]
