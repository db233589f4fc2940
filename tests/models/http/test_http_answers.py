"""From an answer to embeddings in the order of the question; what is wrong with it is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vl2v_deploy.models.teacher.http.answers import BadAnswer, checked_embeddings
from vl2v_deploy.models.teacher.http.apis.wire import Rows

ROWS = np.random.default_rng(0).normal(size=(4, 8)) * [[1], [20], [0.1], [3]]
UNIT = torch.from_numpy(ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)).float()


def with_value(value: float) -> list[np.ndarray]:
    changed = ROWS.copy()
    changed[2, 3] = value
    return list(changed)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
def test_http_embeddings_come_in_the_order_of_the_question(order: list[int]) -> None:
    found = checked_embeddings(Rows([ROWS[item] for item in order], order), 4, 8, None)
    assert found.dtype == torch.float32
    assert torch.equal(found, UNIT)


@pytest.mark.parametrize(
    ("rows", "reason", "again"),
    [
        (Rows(list(ROWS[:3]), [0, 1, 2]), "3 embeddings came for 4", True),
        (Rows([*ROWS, ROWS[0]], [0, 1, 2, 3, 4]), "5 embeddings came for 4", True),
        (Rows(list(ROWS), [0, 1, 1, 3]), "index 1 came twice", True),
        (Rows(list(ROWS), [0, 1, 2, 4]), "index 4 came for 4", True),
        (Rows(list(ROWS), [0, 1, 2, -1]), "index -1 came", True),
        (Rows(list(ROWS), [0, 1, 2, None]), "index None came", True),  # type: ignore[list-item]
        (Rows(list(ROWS), [0, True, 2, 3]), "index True came", True),
        (Rows(with_value(np.nan)), "1 of 4 embeddings hold numbers that are not finite", True),
        (Rows(with_value(np.inf)), "not finite", True),
        (Rows([*ROWS[:3], np.zeros(8)]), "1 of 4 embeddings are zero vectors", True),
        (Rows(with_value(1e300)), "1 of 4 embeddings are zero vectors, or infinite", True),
        (Rows([[10**400] * 8] * 4), "no lists of numbers", True),
        (Rows([*ROWS[:3], ROWS[3][:5]]), "of one length", True),
        (Rows(["a", "b", "c", "d"]), "no lists of numbers", True),
        (Rows([None] * 4), "no lists of numbers", True),
        (Rows([row[:5] for row in ROWS]), "5 dimensions came, teacher.dimensions is 8", False),
    ],
)
def test_http_answer_that_is_refused(rows: Rows, reason: str, again: bool) -> None:
    with pytest.raises(BadAnswer, match=reason) as refused:
        checked_embeddings(rows, 4, 8, None)
    assert refused.value.again == again


@pytest.mark.parametrize("repeated", [0, 1, 3])
def test_http_order_is_checked_by_an_item_that_was_sent_twice(repeated: int) -> None:
    noisy = ROWS[repeated] * 7 + 1e-6  # of another norm, and rounded otherwise
    found = checked_embeddings(Rows([*ROWS, noisy]), 4, 8, repeated)
    assert torch.equal(found, UNIT)


@pytest.mark.parametrize("order", [[1, 0, 2, 3, 4], [4, 3, 2, 1, 0], [1, 2, 3, 4, 0]])
def test_http_order_that_is_not_the_questions_is_found(order: list[int]) -> None:
    sent: list[Any] = [*ROWS, ROWS[1]]
    with pytest.raises(BadAnswer, match="not in the order of the question") as refused:
        checked_embeddings(Rows([sent[item] for item in order]), 4, 8, 1)
    assert not refused.value.again
