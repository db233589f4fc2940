"""How a teacher is asked about what is missing: batch by batch, or a vendor many requests at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from vl2v_deploy.errors import ModelError, VendorError
from vl2v_deploy.models.store.canaries import Kind
from vl2v_deploy.models.teacher.protocol import Keep, Teacher, Vendor

MOST_NAMED = 8  # items in a message


class Question(NamedTuple):
    """What a teacher is asked about items, which are rows of the keys that are wanted.

    things: the images or texts of some items, for a vendor; they are pulled as requests go out
    ask:    the answer about a batch of items, (n, D), of another teacher
    name:   what a user knows an item by, such as its file
    """

    kind: Kind
    things: Callable[[Sequence[int]], Iterable[Any]]
    ask: Callable[[Sequence[int]], Tensor]
    name: Callable[[int], str]


def ask_teacher(teacher: Teacher, question: Question, batches: Iterable[Sequence[int]], keep: Keep) -> None:
    """Asks the teacher about all items; `keep` gets positions among them, and embeddings.

    batches: of items, at most `batch_size` each; pulled lazily

    Raises VendorError with the names of the items whose request was refused.
    """
    if isinstance(teacher, Vendor):
        _buy(teacher, question, batches, keep)
        return
    asked = 0
    for batch in batches:
        keep(range(asked, asked + len(batch)), question.ask(batch))
        asked += len(batch)


def _buy(teacher: Vendor, question: Question, batches: Iterable[Sequence[int]], keep: Keep) -> None:
    pulled: list[int] = []

    def things() -> Iterator[Any]:
        for batch in batches:
            pulled.extend(batch)
            yield from question.things(batch)

    buy = teacher.buy_images if question.kind == "image" else teacher.buy_texts
    try:
        buy(things(), keep)
    except VendorError as error:
        if error.positions is None:
            raise
        names = [question.name(pulled[position]) for position in error.positions]
        raise VendorError(
            f"{error}: {_joined(names)}",
            status=error.status,
            terminal=error.terminal,
            positions=error.positions,
        ) from error


def _joined(names: Sequence[str]) -> str:
    """Names of one request; with teacher.batch_size 1 the vendor tells which of them it is about."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    advice = "; set teacher.batch_size=1 to see which one it is" if len(names) > 1 else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}{advice}"


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
