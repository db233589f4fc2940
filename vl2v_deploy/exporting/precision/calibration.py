"""The values of the graph's tensors on real images: the ranges that fp16 and int8 are made from.

onnxruntime's calibrators collect them; here they are given images, a few at a time.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    CalibrationMethod,
    HistogramCollector,
    TensorsData,
    create_calibrator,
)

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.exporting.precision.entropy import Histogram, entropy_range

Calibration: TypeAlias = Literal["minmax", "entropy", "percentile"]
CALIBRATIONS: tuple[Calibration, ...] = get_args(Calibration)
# Images whose tensors are in memory at once. A calibrator gets one batch at a time: it cannot combine two of
# different sizes.
BATCH = 4
# A range of 512 bins is cut where 128 levels lose least (entropy), or where 0.01 % of the values lie outside.
OPTIONS: dict[Calibration, dict[str, Any]] = {
    "minmax": {},
    "entropy": {"symmetric": False, "num_bins": 512, "num_quantized_bins": 128},
    "percentile": {"symmetric": True, "num_bins": 2048, "percentile": 99.99},
}
# A collector wants the numbers of all methods.
_UNUSED: dict[str, Any] = {"num_bins": 0, "num_quantized_bins": 0, "percentile": 0}
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

    The graph is run once for both histograms, which are made in threads of their own meanwhile.
    """
    with _silent(), _calibrator(model, operators, "entropy") as calibrator:
        entropy, percentile = _collector("entropy"), _collector("percentile")
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            made: list[Future[None]] = []
            for values in _values(calibrator, images):
                for future in made:  # two batches are in memory, not all that the graph is ahead
                    future.result()
                made = [one.submit(entropy.collect, values), other.submit(percentile.collect, values)]
            for future in made:
                future.result()
            result = other.submit(percentile.compute_collection_result)
            histograms = entropy.get_histogram_dict()
            extremes = {
                name: (np.array([low]), np.array([high]))
                for name, (_, _, low, high, *_) in histograms.items()
            }
            return {
                "minmax": TensorsData(CalibrationMethod.MinMax, extremes),
                "entropy": _entropy_ranges(histograms),
                "percentile": TensorsData(CalibrationMethod.Percentile, result.result()),
            }


def _silent() -> contextlib.AbstractContextManager[object]:
    """Keeps off the terminal what onnxruntime prints of its progress; not for several threads at once."""
    return contextlib.redirect_stdout(io.StringIO())


def _ranges(
    model: onnx.ModelProto, images: Pixels, operators: Sequence[str] | None, method: Calibration
) -> TensorsData:
    with _calibrator(model, operators, method) as calibrator:
        for batch in _batches(images):
            calibrator.collect_data(_OneBatch(batch))
        if method == "entropy":
            return _entropy_ranges(calibrator.collector.get_histogram_dict())
        return calibrator.compute_data()


@contextlib.contextmanager
def _calibrator(
    model: onnx.ModelProto, operators: Sequence[str] | None, method: Calibration
) -> Iterator[Any]:
    """onnxruntime's calibrator of a method: the graph with all those tensors as outputs, in a session."""
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        onnx.save(model, plain)
        yield create_calibrator(
            plain,
            list(operators) if operators is not None else None,
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=_METHODS[method],
            extra_options=OPTIONS[method],
        )


def _collector(method: Calibration) -> HistogramCollector:
    """What such a calibrator fills, without a session of its own."""
    return HistogramCollector(method, scenario="same", **(_UNUSED | OPTIONS[method]))


def _values(calibrator: Any, images: Pixels) -> Iterator[dict[str, list[Any]]]:
    """The values of the calibrator's tensors, batch by batch."""
    session = calibrator.infer_session
    names = [value.name for value in session.get_outputs() if value.name in calibrator.tensors_to_calibrate]
    for batch in _batches(images):
        found = session.run(names, {"images": batch})
        yield {name: [values] for name, values in zip(names, found, strict=True)}


def _batches(images: Pixels) -> Iterator[Pixels]:
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


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
