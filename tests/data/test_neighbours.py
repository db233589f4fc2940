"""Points that can be near one another, against the comparison of all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from vl2v_deploy.data import neighbours as module
from vl2v_deploy.data.neighbours import neighbours


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("reach", [0.05, 0.5, 20.0])
def test_every_near_pair_is_in_one_group(axes: int, reach: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW_PAIRS", 20)
    rng = np.random.default_rng(0)
    points, others = (rng.normal(0, 2, (count, axes)).astype(np.float32) for count in (300, 400))
    pairs = [
        (row, column)
        for rows, columns in neighbours(points, others, reach)
        for row in rows.tolist()
        for column in columns.tolist()
    ]
    far = np.abs(points[:, None].astype(np.float64) - others).max(axis=2)  # (300, 400)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) >= set(zip(*(rows.tolist() for rows in np.nonzero(far <= reach)), strict=True))
    if reach < 1:
        assert len(pairs) < far.size / 2


def test_points_that_are_all_the_same_are_one_group() -> None:
    points = np.zeros((2000, 2), dtype=np.float32)
    [(rows, columns)] = neighbours(points, points, 0.1)
    assert sorted(rows.tolist()) == sorted(columns.tolist()) == list(range(2000))


def test_no_points_have_no_neighbours() -> None:
    some, none = np.zeros((3, 2), dtype=np.float32), np.zeros((0, 2), dtype=np.float32)
    assert list(neighbours(some, none, 1.0)) == list(neighbours(none, some, 1.0)) == []
