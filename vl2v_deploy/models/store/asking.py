"""How a teacher is asked about what is missing: batch by batch, or a vendor many requests at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.store.canaries import Kind
from vl2v_deploy.models.teacher.protocol import Keep, Teacher, Vendor


class Question(NamedTuple):
    """What a teacher is asked about items, which are rows of the keys that are wanted.

    things: the images or texts of some items, for a vendor; they are pulled as requests go out
    ask:    the answer about a batch of items, (n, D), of another teacher
    """

    kind: Kind
    things: Callable[[Sequence[int]], Iterable[Any]]
    ask: Callable[[Sequence[int]], Tensor]


def ask_teacher(teacher: Teacher, question: Question, batches: Iterable[Sequence[int]], keep: Keep) -> None:
    """Asks the teacher about all items; `keep` gets positions among them, and embeddings.

    batches: of items, at most `batch_size` each; pulled lazily
    """
    if isinstance(teacher, Vendor):
        buy = teacher.buy_images if question.kind == "image" else teacher.buy_texts
        buy((thing for batch in batches for thing in question.things(batch)), keep)
        return
    asked = 0
    for batch in batches:
        keep(range(asked, asked + len(batch)), question.ask(batch))
        asked += len(batch)


def checked_answer(teacher: Teacher, answer: Tensor, items: int) -> Tensor:
    """The teacher's answer on the CPU: one finite embedding for each item, or nothing is kept of it."""
    answer, expected = answer.float().cpu(), (items, teacher.embedding_dim)
    if answer.shape != expected or not bool(answer.isfinite().all()):
        raise ModelError(
            f"teacher: expected {items} finite embeddings, got shape {tuple(answer.shape)} where "
            f"{expected} was due, with {int((~answer.isfinite()).sum())} values that are not finite; "
            "they were not kept"
        )
    return answer
