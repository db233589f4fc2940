"""The values of the graph's tensors on real images: the ranges that fp16 and int8 are made from.

onnxruntime's calibrators collect them; here they are given images, a few at a time.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    CalibrationMethod,
    TensorsData,
    create_calibrator,
)

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.exporting.precision.entropy import Histogram, entropy_range

Calibration: TypeAlias = Literal["minmax", "entropy", "percentile"]
CALIBRATIONS: tuple[Calibration, ...] = get_args(Calibration)
# Images whose tensors are in memory at once. A calibrator gets one batch at a time: it cannot combine two of
# different sizes.
BATCH = 4
# A range of 512 bins is cut where 128 levels lose least (entropy), or where 0.01 % of the values lie outside.
OPTIONS: dict[Calibration, dict[str, Any]] = {
    "minmax": {},
    "entropy": {"num_bins": 512, "num_quantized_bins": 128},
    "percentile": {"percentile": 99.99},
}
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


class _OneBatch(CalibrationDataReader):  # type: ignore[misc]
    """A batch of images in the form that calibrators ask for."""

    def __init__(self, images: Pixels) -> None:
        self._batches = iter([{"images": images}])

    def get_next(self) -> dict[str, Pixels] | None:
        return next(self._batches, None)


def tensor_ranges(
    model: onnx.ModelProto, images: Pixels, method: Calibration, operators: Sequence[str] | None = None
) -> TensorsData:
    """The range of every float tensor of the fp32 graph on these images, as onnxruntime's quantizer takes it.

    images:    uint8 (N, S, S, 3)
    operators: only tensors that these operator types read or write; None = all
    """
    with _silent():
        return _ranges(model, images, operators, method)


def ranges_by_method(
    model: onnx.ModelProto, images: Pixels, operators: Sequence[str] | None = None
) -> dict[Calibration, TensorsData]:
    """`tensor_ranges` by each method, with less work: a histogram knows the smallest and largest value too.

    The histograms of two methods are made at the same time: most of that is numpy's, which takes one core.
    """
    with _silent(), ThreadPoolExecutor(default_threads().count) as pool:
        percentile = pool.submit(_ranges, model, images, operators, "percentile")
        histograms = _collected(model, images, operators, "entropy").collector.get_histogram_dict()
        extremes = {
            name: (np.array([low]), np.array([high])) for name, (_, _, low, high, *_) in histograms.items()
        }
        return {
            "minmax": TensorsData(CalibrationMethod.MinMax, extremes),
            "entropy": _entropy_ranges(histograms),
            "percentile": percentile.result(),
        }


def _silent() -> contextlib.AbstractContextManager[object]:
    """Keeps off the terminal what onnxruntime prints of its progress; not for several threads at once."""
    return contextlib.redirect_stdout(io.StringIO())


def _ranges(
    model: onnx.ModelProto, images: Pixels, operators: Sequence[str] | None, method: Calibration
) -> TensorsData:
    calibrator = _collected(model, images, operators, method)
    if method == "entropy":
        return _entropy_ranges(calibrator.collector.get_histogram_dict())
    return calibrator.compute_data()


def _collected(
    model: onnx.ModelProto, images: Pixels, operators: Sequence[str] | None, method: Calibration
) -> Any:
    """onnxruntime's calibrator of a method, after it has seen the images."""
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        onnx.save(model, plain)
        calibrator = create_calibrator(
            plain,
            list(operators) if operators is not None else None,
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=_METHODS[method],
            extra_options=OPTIONS[method],
        )
        for start in range(0, len(images), BATCH):
            calibrator.collect_data(_OneBatch(images[start : start + BATCH]))
        return calibrator


def _entropy_ranges(histograms: Mapping[str, Sequence[Any]]) -> TensorsData:
    """What onnxruntime's calibrator makes of its histograms, by numpy's sums."""
    levels = OPTIONS["entropy"]["num_quantized_bins"]
    ranges = {name: entropy_range(Histogram(*found[:4]), levels) for name, found in histograms.items()}
    kept = {name: (*ranges[name], *histograms[name][:2]) for name in ranges}
    return TensorsData(CalibrationMethod.Entropy, kept)


def largest_magnitudes(model: onnx.ModelProto, images: Pixels) -> dict[str, float]:
    """max |x| of every float tensor of the fp32 graph on these images; images uint8 (N, S, S, 3)."""
    ranges = tensor_ranges(model, images, "minmax")
    return {
        name: float(max(np.abs(low).max(), np.abs(high).max()))
        for name, data in ranges.items()
        for low, high in [data.range_value]
    }
