"""The fp32 graph as an int8 one, calibrated on source-domain images, never on the target.

Everything is chosen on source validation: the calibration method, the rule that weights keep so that no
processor saturates their products, and which layers go back to fp32 where int8 costs more accuracy than the
budget. What it costs out of domain is reported, never selected on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import TensorsData

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.onnx_file import Trial
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.errors import PrecisionError
from vl2v_deploy.exporting.graph.macs import LAYERS, count_macs
from vl2v_deploy.exporting.graph.student_graph import classifier_layers
from vl2v_deploy.exporting.images import Labels, Weights
from vl2v_deploy.exporting.precision.bias_correction import Means
from vl2v_deploy.exporting.precision.calibration import Calibration
from vl2v_deploy.exporting.precision.qdq import quantized
from vl2v_deploy.exporting.precision.saturation import WEIGHT_RULES, WeightRule
from vl2v_deploy.exporting.precision.sessions import answers

SENSITIVITY_IMAGES = 128
Choice = TypeVar("Choice", Calibration, WeightRule)


@dataclass(frozen=True)
class Validation:
    """The images on which int8 is chosen: those of the sources' val split.

    images:    uint8 (V, S, S, 3)
    labels:    (V,)
    weights:   (V,) of the images in a mean of accuracy; sum 1
    logits, embedding: the fp32 graph's answers to them
    """

    images: Pixels
    labels: Labels
    weights: Weights
    logits: Floats
    embedding: Floats

    @property
    def accuracy(self) -> float:
        """Of the fp32 graph, in [0, 1]."""
        return self.accuracy_of(self.logits)

    def accuracy_of(self, logits: Floats) -> float:
        """Of logits (V, K), in [0, 1]."""
        return float(np.average(logits.argmax(1) == self.labels, weights=self.weights))


@dataclass(frozen=True)
class Int8:
    """An int8 graph and how it was chosen.

    calibrations: what each calibration method gave, all layers in int8
    chosen:       the method kept
    weight_rules: what each rule of the weights gave, with that method
    weights:      the rule kept
    fp32_layers:  layers that went back to fp32, the most sensitive first
    sensitivity:  layer -> 1 - mean cosine with that layer alone in int8; empty where no layer had to go back
    final:        of the graph as it is
    drop:         points of source validation accuracy lost against fp32
    """

    model: onnx.ModelProto
    calibrations: dict[Calibration, Trial]
    chosen: Calibration
    weight_rules: dict[WeightRule, Trial]
    weights: WeightRule
    fp32_layers: tuple[str, ...]
    sensitivity: dict[str, float]
    final: Trial
    drop: float


def to_int8(
    model: onnx.ModelProto,
    ranges: Mapping[Calibration, TensorsData],
    means: Means,
    validation: Validation,
    *,
    symmetric: bool,
    max_drop: float,
    max_fp32_share: float,
    advance: Callable[[str], None] = lambda _: None,
) -> Int8:
    """The int8 graph that loses at most `max_drop` points of source validation accuracy.

    ranges:         by calibration method, of the sources' training split (`calibrated_ranges`)
    means:          of the layers' inputs on the same images (`input_means`)
    symmetric:      the form for TensorRT
    max_drop:       in percentage points of `validation`
    max_fp32_share: largest share of MACs that may go back to fp32 for it, in [0, 1]
    advance:        called with what is done next

    Raises PrecisionError when no such graph is found.
    """
    quantize = partial(quantized, model, means=means, symmetric=symmetric)
    made: dict[tuple[Calibration, WeightRule], onnx.ModelProto] = {}  # the chosen one is not made again

    def tried(method: Calibration, rule: WeightRule) -> Trial:
        made[method, rule] = quantize(ranges[method], weights=rule)
        return _tried(made[method, rule], validation)

    trials: dict[Calibration, Trial] = {}
    for method in ranges:
        advance(f"{method} on source validation")
        trials[method] = tried(method, WEIGHT_RULES[0])
    chosen = _best(trials, validation)
    rules: dict[WeightRule, Trial] = {WEIGHT_RULES[0]: trials[chosen]}
    for rule in WEIGHT_RULES[1:]:
        advance(f"{rule} weights on source validation")
        rules[rule] = tried(chosen, rule)
    weights = _best(rules, validation)
    final, excluded, sensitivity = rules[weights], tuple[str, ...](), dict[str, float]()
    quantize = partial(quantize, ranges[chosen], weights=weights)
    if _drop(final, validation) > max_drop:
        sensitivity = layer_sensitivity(model, quantize, validation, advance)
        affordable = _affordable(model, sensitivity, max_fp32_share)
        final, excluded = _within_budget(quantize, validation, affordable, max_drop, advance)
    return Int8(
        model=quantize(fp32_layers=excluded) if excluded else made[chosen, weights],
        calibrations=trials,
        chosen=chosen,
        weight_rules=rules,
        weights=weights,
        fp32_layers=excluded,
        sensitivity=sensitivity,
        final=final,
        drop=_drop(final, validation),
    )


def layer_sensitivity(
    model: onnx.ModelProto,
    quantize: Callable[..., onnx.ModelProto],
    validation: Validation,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """1 - mean cosine of the embeddings to fp32 with each layer alone in int8, the most sensitive first.

    quantize: `quantized` of this model, with its ranges and form
    """
    few = _first(validation, SENSITIVITY_IMAGES)
    layers = [
        node.name
        for node in model.graph.node
        if node.op_type in LAYERS and node.name not in classifier_layers(model)
    ]
    costs = {}
    for number, layer in enumerate(layers, 1):
        advance(f"sensitivity of layer {number} of {len(layers)}")
        costs[layer] = 1.0 - _tried(quantize(only=[layer]), few).cosine
    return dict(sorted(costs.items(), key=lambda item: -item[1]))


def _best(trials: Mapping[Choice, Trial], validation: Validation) -> Choice:
    """The choice with the best source validation accuracy; within its standard error, the most faithful.

    On a few hundred images two choices differ by chance; but an embedding nearer to fp32's is not by chance.
    """
    best = max(trial.accuracy for trial in trials.values())
    error = (best * (1 - best) * float((validation.weights**2).sum())) ** 0.5
    equals = [choice for choice, trial in trials.items() if trial.accuracy >= best - error - 1e-9]
    return max(equals, key=lambda choice: trials[choice].cosine)


def _affordable(model: onnx.ModelProto, order: Collection[str], max_share: float) -> tuple[str, ...]:
    """Layers that may go back to fp32, in this order, and hold no more than this share of the MACs together.

    A layer too large for what is left, or whose MACs are not known, is skipped. The classifier, which is
    always fp32, counts first.
    """
    by_node = count_macs(model).by_node
    left = max_share * sum(macs for _, macs in by_node.values())
    left -= sum(by_node[name][1] for name in classifier_layers(model) if name in by_node)
    chosen = []
    for layer in order:
        if layer in by_node and by_node[layer][1] <= left:
            left -= by_node[layer][1]
            chosen.append(layer)
    return tuple(chosen)


def _within_budget(
    quantize: Callable[..., onnx.ModelProto],
    validation: Validation,
    order: tuple[str, ...],
    max_drop: float,
    advance: Callable[[str], None],
) -> tuple[Trial, tuple[str, ...]]:
    """The fewest of the most sensitive layers in fp32 that keep the budget, found by doubling, then halving.

    order: layers that may go back, the most sensitive first
    """
    most = len(order)

    def trial(count: int) -> Trial:
        advance(f"{count} layers in fp32")
        return _tried(quantize(fp32_layers=order[:count]), validation)

    low, count, found = 0, min(1, most), trial(min(1, most))
    while _drop(found, validation) > max_drop and count < most:
        low, count = count, min(2 * count, most)
        found = trial(count)
    if _drop(found, validation) > max_drop:
        raise PrecisionError(
            f"int8: with {most} layers back in fp32, the most that --max-fp32-share allows, "
            f"{_drop(found, validation):.2f} points of source validation accuracy are lost (allowed "
            f"{max_drop:g}, on {len(validation.labels)} images); raise --max-accuracy-drop or "
            "--max-fp32-share, or export fp16"
        )
    while count - low > 1:  # `low` is not enough, `count` is
        middle = (low + count) // 2
        tried = trial(middle)
        if _drop(tried, validation) <= max_drop:
            count, found = middle, tried
        else:
            low = middle
    return found, order[:count]


def _tried(model: onnx.ModelProto, validation: Validation) -> Trial:
    logits, embedding = answers(model, validation.images)
    return Trial(
        accuracy=validation.accuracy_of(logits),
        cosine=float((embedding * validation.embedding).sum(1).mean()),
    )


def _drop(trial: Trial, validation: Validation) -> float:
    return round(100 * (validation.accuracy - trial.accuracy), 9)  # a loss of just the budget is within it


def _first(validation: Validation, most: int) -> Validation:
    """Evenly spread over the images, which are sorted by domain and class."""
    rows = np.linspace(0, len(validation.labels) - 1, min(most, len(validation.labels))).astype(int)
    weights = validation.weights[rows]
    return Validation(
        validation.images[rows],
        validation.labels[rows],
        weights / weights.sum(),
        validation.logits[rows],
        validation.embedding[rows],
    )
