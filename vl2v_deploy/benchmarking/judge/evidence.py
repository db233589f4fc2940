"""What verdicts are drawn from: paired comparisons, wrong engines, the Pareto front, the primary engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from vl2v_deploy.benchmarking.judge.speed import best_cell, latency_cell, samples_of, seconds_per_image
from vl2v_deploy.benchmarking.judge.statistics import (
    FEWEST_ROUNDS,
    Hits,
    paired_difference,
    ratio_band,
)
from vl2v_deploy.benchmarking.schema import (
    DomainAccuracy,
    Economics,
    EngineMeasurement,
    EngineResult,
    Measurements,
    Prices,
)
from vl2v_deploy.client.bundle import PRECISIONS
from vl2v_deploy.client.intervals import wilson_interval
from vl2v_deploy.client.target_words import TargetWords
from vl2v_deploy.exporting.precision.tolerances import least_agreement

Axis = Literal["usd_per_million", "p50_ms", "mean_ms"]
# Costs or times of two engines of one run that are closer than this count as equal.
NOISE_SHARE = 0.05
# Points of accuracy that an artifact may lose against the best one and still be the one to ship.
MAX_OOD_LOSS = 0.02


@dataclass(frozen=True)
class Evidence:
    """Measurements with what was computed of each engine, and what follows from comparing them."""

    measurements: Measurements
    prices: Prices
    results: Mapping[str, EngineResult]
    money: Economics

    @cached_property
    def words(self) -> TargetWords:
        """What the target and accuracy on it are called."""
        return self.measurements.target_words

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
        """The teacher's name; None where it was not timed."""
        return next((name for name, engine in self.engines.items() if engine.kind == "teacher"), None)

    @cached_property
    def answering_teacher(self) -> str | None:
        """The name of the teacher whose answers are known, timed or not; None where there is none."""
        found = answering_teacher(self.measurements)
        return found.name if found else None

    @cached_property
    def recorded_teacher_ood(self) -> float | None:
        """The teacher's OOD accuracy as the manifest has it; None where it has none."""
        recorded = self.measurements.bundle.recorded_accuracy
        return (recorded.teacher or {}).get(self.measurements.images.target) if recorded else None

    @cached_property
    def reference(self) -> str | None:
        """The engine whose labels the others must give: torch, else fp32 in onnxruntime, else any fp32."""
        fp32 = [name for name in self.students if self.engines[name].precision == "fp32"]
        for runtime in ("torch", "onnxruntime"):
            if found := [name for name in fp32 if self.engines[name].runtime == runtime]:
                return found[0]
        return fp32[0] if fp32 else None

    @cached_property
    def wrong(self) -> dict[str, float]:
        """Engines that disagree with the reference too often, and the share of images on which they agree.

        An engine is wrong where even the upper end of the 95 % interval is below `least_agreement`: on few
        images a label or two proves nothing.
        """
        found: dict[str, float] = {}
        for name in self.students if self.reference else ():
            agreed, n = self.agreement(name)
            if wilson_interval(agreed, n)[1] < least_agreement(self.engines[name].precision):
                found[name] = agreed / n
        return found

    @cached_property
    def axis(self) -> Axis:
        """How the cost of engines is compared: in dollars where prices are given, else by latency."""
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
        """An engine's value on `axis`; smaller is better."""
        result = self.results[name]
        value = (
            result.usd_per_million if self.axis == "usd_per_million" else getattr(result.latency, self.axis)
        )
        assert value is not None
        return float(value)

    def hits(self, name: str, domain: str) -> Hits:
        """(n,) whether each image of a domain was right."""
        engine = next(engine for engine in self.measurements.engines if engine.name == name)
        predicted = engine.predictions[domain].labels
        right: Hits = np.array(predicted) == np.array(self.measurements.images.domains[domain].labels)
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
        """Ratio of the best throughputs, and its 95 % interval over the rounds; None with too few rounds."""
        mine, other = (seconds_per_image(best_cell(self.engines[name].cells)) for name in (ours, theirs))
        ratio, low, high = ratio_band(other, mine, np.mean, paired=True)
        if min(len(mine), len(other)) < FEWEST_ROUNDS:
            return ratio, None, None
        return ratio, low, high

    def latency_ratio(self, ours: str, theirs: str) -> float:
        """Ratio of the median latencies, ours over theirs."""
        mine, other = (samples_of(latency_cell(self.engines[name].cells)) for name in (ours, theirs))
        return float(np.median(mine) / np.median(other))


def answering_teacher(measurements: Measurements) -> EngineMeasurement | None:
    """The teacher that answered every image: its accuracy counts even where it cannot be timed."""
    wanted = {name: len(domain.labels) for name, domain in measurements.images.domains.items()}
    for engine in measurements.engines:
        answered = {name: len(answers.labels) for name, answers in engine.predictions.items()}
        if engine.kind == "teacher" and answered == wanted:
            return engine
    return None


def choose_primary(evidence: Evidence) -> str | None:
    """The student's engine that the headline is about; None where none was measured.

    The cheapest (without prices: the fastest) of those that are not wrong and whose ID accuracy is at most
    MAX_OOD_LOSS below the best of them. ID, as a choice made on the target would be an oracle. Of those
    within NOISE_SHARE of the cheapest, the most precise. torch, which the files are checked against, only if
    it is the only one.
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
    order = [*PRECISIONS, *(evidence.engines[name].precision for name in level)]
    return min(level, key=lambda name: (order.index(evidence.engines[name].precision), evidence.cost(name)))
