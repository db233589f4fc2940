"""The entropy range, held against onnxruntime's own calibrator as an oracle."""

from __future__ import annotations

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from vl2v_deploy.exporting.precision.entropy import Histogram, entropy_range

LEVELS = 128
SETS = {
    "normal": lambda rng: [rng.normal(size=4000)],
    "of one sign": lambda rng: [np.maximum(rng.normal(size=4000), 0)],
    "with outliers": lambda rng: [np.concatenate([rng.normal(size=4000), [30.0, -12.0]])],
    "range grows": lambda rng: [scale * rng.normal(size=1000) for scale in (1, 1.7, 4)],
    "few values": lambda rng: [rng.integers(-3, 4, size=50)],
    "two clusters": lambda rng: [np.concatenate([rng.normal(3, 0.1, 900), rng.normal(-2, 0.2, 90)])],
    "all zero": lambda rng: [np.zeros(10)],
}


def collected(parts: list[np.ndarray]) -> HistogramCollector:
    collector = HistogramCollector("entropy", False, 512, LEVELS, None, "same")
    for part in parts:
        collector.collect({"x": part.astype(np.float32)})
    return collector


@pytest.mark.parametrize("name", SETS)
def test_the_range_is_the_one_that_onnxruntime_finds(name: str) -> None:
    collector = collected(SETS[name](np.random.default_rng(0)))
    found = entropy_range(Histogram(*collector.get_histogram_dict()["x"][:4]), LEVELS)
    expected = collector.compute_entropy()["x"][:2]
    assert found == tuple(expected)


def test_the_sets_are_cut_or_grow_so_that_something_is_tested() -> None:
    outliers = collected(SETS["with outliers"](np.random.default_rng(0))).get_histogram_dict()["x"]
    low, high = entropy_range(Histogram(*outliers[:4]), LEVELS)
    assert outliers[2] < low < -1 and 1 < high < outliers[3]
    grown = collected(SETS["range grows"](np.random.default_rng(0))).get_histogram_dict()["x"]
    assert len(grown[0]) > 512


def test_fewer_bins_than_levels_are_refused() -> None:
    collector = collected([np.ones(4)])
    with pytest.raises(ValueError, match="512 bins"):
        entropy_range(Histogram(*collector.get_histogram_dict()["x"][:4]), 2048)
