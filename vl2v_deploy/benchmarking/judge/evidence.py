"""What verdicts are drawn from: paired comparisons, wrong engines, the Pareto front, the primary engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from vl2v_deploy.benchmarking.judge.speed import best_cell, latency_cell, seconds_per_image
from vl2v_deploy.benchmarking.judge.statistics import (
    FEWEST_ROUNDS,
    Hits,
    mean_of_rounds,
    median_of_rounds,
    paired_difference,
    ratio_band,
    wilson_interval,
)
from vl2v_deploy.benchmarking.schema import (
    DomainAccuracy,
    Economics,
    EngineMeasurement,
    EngineResult,
    Measurements,
    Prices,
)

Axis = Literal["usd_per_million", "p50_ms", "mean_ms"]
# Least share of images with the reference's label. Two fp32 runtimes differ in ties alone; the others are
# export's bounds of parity, fp16's with room for ties, as logits are not kept here.
LEAST_AGREEMENT = {"fp32": 0.995, "fp16": 0.98, "bf16": 0.95, "int8": 0.85}
# Costs or times closer than this are not told apart between engines of one run.
NOISE_SHARE = 0.05
# Points of accuracy that an artifact may lose against the best one and still be the one to ship.
MAX_OOD_LOSS = 0.02
PRECISIONS = ("fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True)
class Evidence:
    """Measurements with what was computed of each engine, and what follows from comparing them."""

    measurements: Measurements
    prices: Prices
    results: Mapping[str, EngineResult]
    money: Economics

    @cached_property
    def engines(self) -> dict[str, EngineMeasurement]:
        """The measured ones by name."""
        return {engine.name: engine for engine in self.measurements.engines if engine.name in self.results}

    @cached_property
    def students(self) -> list[str]:
        """Names of the student's measured engines."""
        return [name for name, engine in self.engines.items() if engine.kind == "student"]

    @cached_property
    def teacher(self) -> str | None:
        """The teacher's name; None where it was not measured."""
        return next((name for name, engine in self.engines.items() if engine.kind == "teacher"), None)

    @cached_property
    def recorded_teacher_ood(self) -> float | None:
        """The teacher's OOD accuracy as the manifest has it; None where it has none."""
        recorded = self.measurements.bundle.recorded_accuracy
        return (recorded.teacher or {}).get(self.measurements.images.target) if recorded else None

    @cached_property
    def reference(self) -> str | None:
        """Whose labels the student's engines must give: torch, else fp32 in onnxruntime, else any fp32."""
        fp32 = [name for name in self.students if self.engines[name].precision == "fp32"]
        for runtime in ("torch", "onnxruntime"):
            if found := [name for name in fp32 if self.engines[name].runtime == runtime]:
                return found[0]
        return fp32[0] if fp32 else None

    @cached_property
    def wrong(self) -> dict[str, float]:
        """Engines that disagree with the reference too often, and the share they agree in.

        Wrong is where even the upper end of the 95 % interval is below LEAST_AGREEMENT: on few images a
        label or two proves nothing.
        """
        found: dict[str, float] = {}
        for name in self.students if self.reference else ():
            agreed, n = self.agreement(name)
            if wilson_interval(agreed, n)[1] < least_agreement(self.engines[name].precision):
                found[name] = agreed / n
        return found

    @cached_property
    def axis(self) -> Axis:
        """What engines cost: dollars where prices are given, else latency, the median where all have one."""
        if all(result.usd_per_million is not None for result in self.results.values()):
            return "usd_per_million"
        medians = [result.latency.p50_ms for result in self.results.values()]
        return "p50_ms" if None not in medians else "mean_ms"

    @cached_property
    def front(self) -> set[str]:
        """Measured engines, wrong ones left out, that no other beats in cost without losing OOD accuracy."""
        right = [name for name in self.results if name not in self.wrong]
        points = {name: (self.cost(name), self.ood(name).accuracy) for name in right}
        return {
            name
            for name, (cost, accuracy) in points.items()
            if not any(
                other_cost <= cost and other >= accuracy and (other_cost, other) != (cost, accuracy)
                for other_cost, other in points.values()
            )
        }

    def ood(self, name: str) -> DomainAccuracy:
        """An engine's accuracy in the target domain."""
        return self.results[name].domains[self.measurements.images.target]

    def cost(self, name: str) -> float:
        """An engine's place on `axis`; the smaller the better."""
        result = self.results[name]
        value = result.usd_per_million if self.axis == "usd_per_million" else None
        if self.axis != "usd_per_million":
            value = result.latency.p50_ms if self.axis == "p50_ms" else result.latency.mean_ms
        assert value is not None
        return value

    def hits(self, name: str, domain: str) -> Hits:
        """(n,) whether each image of a domain was right."""
        images = self.measurements.images.domains[domain]
        predicted = self.engines[name].predictions[domain].labels
        right: Hits = np.array(predicted) == np.array(images.labels)
        return right

    def agreement(self, name: str) -> tuple[int, int]:
        """Images of all domains with the reference's label, and all images."""
        assert self.reference is not None
        agreed = n = 0
        for domain, theirs in self.engines[self.reference].predictions.items():
            same = np.array(theirs.labels) == np.array(self.engines[name].predictions[domain].labels)
            agreed, n = agreed + int(same.sum()), n + len(same)
        return agreed, n

    def ood_difference(self, ours: str, theirs: str) -> tuple[float, float, float]:
        """OOD accuracy of one engine less that of another on the same images, and its 95 % interval."""
        target = self.measurements.images.target
        groups = self.measurements.images.domains[target].groups
        return paired_difference(self.hits(ours, target), self.hits(theirs, target), groups)

    def speed_up(self, ours: str, theirs: str) -> tuple[float, float | None, float | None]:
        """How many times as many images a second at best, and the 95 % interval over the rounds.

        The interval is None where rounds are too few for one.
        """
        mine, other = (seconds_per_image(best_cell(self.engines[name].cells)) for name in (ours, theirs))
        ratio, low, high = ratio_band(other, mine, mean_of_rounds, paired=True)
        if min(len(mine), len(other)) < FEWEST_ROUNDS:
            return ratio, None, None
        return ratio, low, high

    def latency_ratio(self, ours: str, theirs: str) -> tuple[float, float, float]:
        """Our latency over theirs, of the medians, and the 95 % interval over the rounds."""
        mine, other = latency_cell(self.engines[ours].cells), latency_cell(self.engines[theirs].cells)
        ours_s, theirs_s = ([one for one in cell.rounds_s if one] for cell in (mine, other))
        return ratio_band(ours_s, theirs_s, median_of_rounds, paired=True)


def least_agreement(precision: str) -> float:
    """Least share of images with the reference's label, by precision ('int8-symmetric' counts as int8).

    >>> least_agreement("int8-symmetric"), least_agreement("fp32")
    (0.85, 0.995)
    """
    return LEAST_AGREEMENT.get(precision.partition("-")[0], LEAST_AGREEMENT["fp16"])


def choose_primary(evidence: Evidence) -> str | None:
    """The student's engine that the headline speaks of; None where none was measured.

    The cheapest (without prices: the fastest) of those that answer right and whose ID accuracy is at most
    MAX_OOD_LOSS below the best of them: on the sources, as what is chosen on the target would be an oracle.
    Within NOISE_SHARE of the cheapest the more precise one, so that noise does not choose. torch is what the
    files are checked against, and is taken only when it is alone.
    """
    candidates = [name for name in evidence.students if name not in evidence.wrong] or evidence.students
    files = [name for name in candidates if evidence.engines[name].runtime != "torch"]
    candidates = files or candidates
    if not candidates:
        return None
    best = max(evidence.results[name].id_accuracy for name in candidates)
    good = [name for name in candidates if evidence.results[name].id_accuracy >= best - MAX_OOD_LOSS]
    cheapest = min(evidence.cost(name) for name in good)
    level = [name for name in good if evidence.cost(name) <= cheapest * (1 + NOISE_SHARE)]
    return min(level, key=lambda name: (_place(evidence.engines[name].precision), evidence.cost(name)))


def _place(precision: str) -> int:
    kind = precision.partition("-")[0]
    return PRECISIONS.index(kind) if kind in PRECISIONS else len(PRECISIONS)
