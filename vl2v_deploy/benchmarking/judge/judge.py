"""From raw measurements and prices to a report: a pure function, so every figure can be computed again."""

from __future__ import annotations

import numpy as np
import torch

from vl2v_deploy.benchmarking.judge.cascade.results import cascade_result
from vl2v_deploy.benchmarking.judge.cascade.words import cascade_caveats, cascade_verdicts
from vl2v_deploy.benchmarking.judge.caveats import caveats
from vl2v_deploy.benchmarking.judge.cost import economics, price_engine
from vl2v_deploy.benchmarking.judge.evidence import Evidence, answering_teacher, choose_primary
from vl2v_deploy.benchmarking.judge.headline import headline
from vl2v_deploy.benchmarking.judge.roofline import roofline_shares
from vl2v_deploy.benchmarking.judge.speed import best_cell, latency_cell, server_result, timing_from_cell
from vl2v_deploy.benchmarking.judge.statistics import accuracy_interval
from vl2v_deploy.benchmarking.judge.verdicts import verdicts
from vl2v_deploy.benchmarking.schema import (
    CascadeTerms,
    ClassAccuracy,
    DomainAccuracy,
    DomainImages,
    Energy,
    EngineMeasurement,
    EngineResult,
    Measurements,
    Predictions,
    Prices,
    Report,
    Results,
)
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.method.metrics import calibration_error


def judge(measurements: Measurements, prices: Prices, terms: CascadeTerms | None = None) -> Report:
    """The whole report: results of every measured engine, costs, cascade, verdicts, warnings.

    terms: what is asked of the cascade; None = nothing

    Raises BenchmarkError for incomplete measurements: an engine with status measured, but without an answer
    to every image or without a time from encoded image to label, or a cascade without answers.npz.
    """
    terms = terms or CascadeTerms()
    measured = {engine.name: engine for engine in measurements.engines if engine.status == "measured"}
    for engine in measured.values():
        _require_whole(engine, measurements)
    results = {name: _engine_result(engine, measurements, prices) for name, engine in measured.items()}
    speed = {name: result.best.images_per_s for name, result in results.items()}
    students = {name: speed[name] for name in speed if measured[name].kind == "student"}
    teacher = next((speed[name] for name in speed if measured[name].kind == "teacher"), None)
    money = economics(prices, students, teacher, run=measurements.bundle.run)
    evidence = Evidence(measurements, prices, results, money)
    for name, result in results.items():
        result.pareto = name in evidence.front
    primary = choose_primary(evidence)
    cascade = cascade_result(evidence, primary, terms)
    of_cascade = cascade_verdicts(evidence, cascade) if cascade else []
    return Report(
        measurements=measurements,
        prices=prices,
        terms=terms,
        results=Results(
            primary=primary,
            headline=headline(evidence, primary),
            engines=results,
            economics=money,
            verdicts=[*verdicts(evidence, primary), *of_cascade],
            warnings=[*caveats(evidence), *cascade_caveats(evidence, primary, cascade)],
            cascade=cascade,
        ),
    )


def score_domain(
    images: DomainImages,
    answers: Predictions,
    classes: list[str],
    reference: Predictions | None = None,
    teacher: Predictions | None = None,
) -> DomainAccuracy:
    """Accuracy of one engine's answers in one domain.

    reference, teacher: the answers of the torch student and of the teacher to the same images; None where
                        they were not measured
    """
    labels = np.array(images.labels)  # (n,)
    predicted = np.array(answers.labels)  # (n,)
    hits = predicted == labels
    (low, high), interval = accuracy_interval(hits, images.groups)
    seen = np.bincount(labels, minlength=len(classes))  # (K,)
    right = np.bincount(labels[hits], minlength=len(classes))  # (K,)
    return DomainAccuracy(
        role=images.role,
        n=len(labels),
        of=images.of,
        correct=int(hits.sum()),
        accuracy=float(hits.mean()),
        low=low,
        high=high,
        interval=interval,
        ece=calibration_error(torch.tensor(answers.confidence, dtype=torch.float64), torch.from_numpy(hits)),
        agreement_torch=_agreement(answers, reference),
        agreement_teacher=_agreement(answers, teacher),
        per_class={
            name: ClassAccuracy(n=int(n), correct=int(correct))
            for name, n, correct in zip(classes, seen, right, strict=True)
        },
    )


def _engine_result(engine: EngineMeasurement, measurements: Measurements, prices: Prices) -> EngineResult:
    others = {other.name: other for other in measurements.engines if other.status == "measured"}
    reference = next((e for e in others.values() if e.kind == "student" and e.runtime == "torch"), None)
    teacher = answering_teacher(measurements)
    domains = {
        name: score_domain(
            images,
            engine.predictions[name],
            measurements.bundle.classes,
            reference.predictions[name] if reference and reference is not engine else None,
            teacher.predictions[name] if teacher and teacher is not engine else None,
        )
        for name, images in measurements.images.domains.items()
    }
    sources = [accuracy.accuracy for accuracy in domains.values() if accuracy.role == "source"]
    best = timing_from_cell(best_cell(engine.cells))
    usd, how = price_engine(prices, best.images_per_s, teacher=engine.kind == "teacher")
    return EngineResult(
        domains=domains,
        id_accuracy=float(np.mean(sources)),
        worst_domain=min(domains, key=lambda name: domains[name].accuracy),
        timings=[timing_from_cell(cell) for cell in engine.cells if any(cell.rounds_s)],
        latency=timing_from_cell(latency_cell(engine.cells)),
        best=best,
        server=server_result(engine.server, measurements.scenario.server),
        joules_per_image=joules_per_image(engine.energy),
        roofline=roofline_shares(engine, measurements.machine),
        usd_per_million=usd,
        priced_as=how,
    )


def joules_per_image(energy: Energy | None) -> float | None:
    """Joules per image, above those of the idle machine where known; None without a meter.

    Also None where the work took no more than idling: the meter is then too coarse for it.

    >>> energy = Energy(meter="rapl", reason=None, joules=90.0, images=40, wall_s=5.0, idle_watts=10.0)
    >>> joules_per_image(energy)
    1.0
    """
    if energy is None or energy.joules is None:
        return None
    above_idle = energy.joules - (energy.idle_watts or 0.0) * energy.wall_s
    return above_idle / energy.images if above_idle > 0 else None


def _agreement(answers: Predictions, others: Predictions | None) -> float | None:
    if others is None:
        return None
    return float(np.mean(np.array(answers.labels) == np.array(others.labels)))


def _require_whole(engine: EngineMeasurement, measurements: Measurements) -> None:
    for name, images in measurements.images.domains.items():
        answers = engine.predictions.get(name)
        got = 0 if answers is None else min(len(answers.labels), len(answers.confidence))
        if got != len(images.labels) or not images.labels:
            raise BenchmarkError(
                f"engine {engine.name!r}: predictions.{name}: expected an answer to each of "
                f"{len(images.labels)} images, at least one; got {got}"
            )
    if not any(cell.scope == "bytes_to_label" and any(cell.rounds_s) for cell in engine.cells):
        raise BenchmarkError(
            f"engine {engine.name!r}: cells: expected times of bytes_to_label; got none, though its status "
            "is 'measured'"
        )
