"""Measurements made up with known numbers: what a report says of them can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.benchmarking.schema import (
    BundleFacts,
    DomainImages,
    EngineMeasurement,
    ImageSet,
    Measurements,
    Predictions,
    ProcessFacts,
    Provenance,
    Scope,
    TimingCell,
)
from vl2v_deploy.client.run_facts import DataFacts, RunFacts, TeacherFacts

CLASSES = ("building", "clock", "letter_sign", "mammal")
DOMAINS = ("clip art", "photo", "sketch")  # the last is the target
DEVICE: dict[str, str | int] = {
    "cpu": "Invented CPU",
    "physical_cores": 2,
    "logical_cores": 2,
    "machine": "x86_64",
    "system": "Linux",
}
RUN = RunFacts(
    recipe_sha256="0" * 64,
    seed=0,
    teacher=TeacherFacts("a", queries=3000),
    data=DataFacts("b"),
    seconds={"align": 1800.0, "distill": 5400.0},
)


def image_set(
    n: int = 400, classes: Sequence[str] = CLASSES, domains: Sequence[str] = DOMAINS, group_size: int = 1
) -> ImageSet:
    """n images a domain, classes in turn; groups of `group_size` neighbours."""
    labels = [i % len(classes) for i in range(n)]
    made = {}
    for domain in domains:
        names = [f"{domain}/{classes[label]}/{i}.png" for i, label in enumerate(labels)]
        groups = names if group_size == 1 else [str(i // group_size) for i in range(n)]
        role = "target" if domain == domains[-1] else "source"
        made[domain] = DomainImages(role=role, of=n, names=names, labels=labels, groups=groups)
    return ImageSet(root="/data", target=domains[-1], domains=made, skipped=[])


def answers(images: ImageSet, wrong: Mapping[str, int] | int, seed: int = 0) -> dict[str, Predictions]:
    """Predictions with exactly so many wrong images a domain, the same ones for the same seed.

    More wrong images are those of fewer and some more, so that engines that differ by one differ in one.
    """
    rng = np.random.default_rng(seed)
    classes = 1 + max(max(domain.labels) for domain in images.domains.values())
    made = {}
    for name, domain in images.domains.items():
        labels = np.array(domain.labels)
        missed = rng.permutation(len(labels))[: wrong if isinstance(wrong, int) else wrong[name]]
        labels[missed] = (labels[missed] + 1 + missed % (classes - 1)) % classes
        confidence = rng.uniform(0.6, 1.0, len(labels)).round(4)
        made[name] = Predictions(labels=labels.tolist(), confidence=confidence.tolist())
    return made


def cell(
    seconds: float,
    batch: int = 1,
    *,
    scope: Scope = "bytes_to_label",
    noise: float = 0.02,
    rounds: int = 10,
    per_round: int = 20,
    seed: int = 0,
    threads: int = 2,
    **changes: Any,
) -> TimingCell:
    """Times around `seconds`: a share of noise from sample to sample, half of it from round to round."""
    rng = np.random.default_rng([seed, batch])
    drift = 1 + noise / 2 * rng.standard_normal((rounds, 1))
    samples = seconds * drift * (1 + noise * np.abs(rng.standard_normal((rounds, per_round))))
    values: dict[str, Any] = {
        "scope": scope,
        "batch": batch,
        "threads": threads,
        "streams": 1,
        "warm_up_s": [3 * seconds, seconds],
        "steady": True,
        "rounds_s": samples.tolist(),
        "wall_s": samples.sum(1).tolist(),
    }
    return TimingCell(**values | changes)


def engine(
    name: str,
    predictions: dict[str, Predictions],
    ms: float,
    *,
    model_bytes: int = 14_000_000,
    noise: float = 0.02,
    seed: int = 0,
    **changes: Any,
) -> EngineMeasurement:
    """A measured engine: `ms` an image at batch 1, six tenths of that an image at batch 8."""
    runtime, _, rest = name.partition(":")
    cells = [
        cell(seconds, batch, scope=scope, noise=noise, seed=seed)
        for scope, share in (("bytes_to_label", 1.0), ("tensor_to_logits", 0.8), ("session", 0.7))
        for batch, seconds in ((1, share * ms / 1e3), (8, share * 8 * 0.6 * ms / 1e3))
    ]
    values: dict[str, Any] = {
        "name": name,
        "kind": "teacher" if name == "teacher" else "student",
        "runtime": runtime,
        "precision": rest.partition("@")[0] or "fp32",
        "status": "measured",
        "model_bytes": model_bytes,
        "processes": [
            ProcessFacts(
                threads=2, provider=f"{runtime} cpu", load_s=0.2, peak_rss_bytes=200_000_000, versions={}
            )
        ],
        "predictions": predictions,
        "cells": cells,
    }
    return EngineMeasurement(**values | changes)


def measurements(engines: Sequence[EngineMeasurement], images: ImageSet, **changes: Any) -> Measurements:
    """Measurements of these engines, everything beside them in order."""
    classes = list(changes.pop("classes", CLASSES))
    bundle = BundleFacts(
        name="made-up",
        classes=classes,
        image_size_px=96,
        recorded_accuracy=None,
        run=changes.pop("run", RUN),
        onnx_sha256="1" * 64,
    )
    provenance = Provenance(
        distilled_teacher="a", teacher="a", teacher_queries=0, distilled_data="1", data="1"
    )
    values: dict[str, Any] = {
        "created": "2026-11-24T12:00:00+00:00",
        "command": "vl2v-deploy benchmark bundles/made-up --teacher",
        "bundle": bundle,
        "recipe_sha256": "0" * 64,
        "device": DEVICE,
        "versions": {"python": "3.11.7", "numpy": "2.4.6", "onnxruntime": "1.32.0"},
        "scenario": Scenario(teacher=True, batches=(1, 8)),
        "images": images,
        "provenance": provenance,
        "engines": list(engines),
    }
    return Measurements(**values | changes)


def usual(images: ImageSet | None = None, **changes: Any) -> Measurements:
    """torch, three ONNX files and a teacher: 20 ms against 4, 3.8 and 2; OOD 90 % against 80, 80 and 79."""
    images = images or image_set()
    n = len(next(iter(images.domains.values())).labels)
    students = answers(images, n // 5)
    engines = [
        engine("torch:fp32", students, 8.0, seed=1),
        engine("onnxruntime:fp32", students, 4.0, seed=2),
        engine("onnxruntime:fp16", students, 3.8, model_bytes=7_000_000, seed=3),
        engine("onnxruntime:int8", answers(images, n // 5 + n // 100), 2.0, model_bytes=4_000_000, seed=4),
        engine("teacher", answers(images, n // 10), 20.0, model_bytes=113_000_000, seed=5),
    ]
    return measurements(engines, images, **changes)
