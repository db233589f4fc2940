"""From a recipe to a finished run directory: align, distill, evaluate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.data.domains import DomainSet, data_fingerprint, load_domains
from vl2v_deploy.distill.evaluate import TestSet, labels_of, test_set
from vl2v_deploy.distill.features import compute_batched
from vl2v_deploy.distill.plot import plot_run
from vl2v_deploy.distill.probe import fit_linear_probe
from vl2v_deploy.distill.stages import TrainingSet, align, distill
from vl2v_deploy.errors import RunError
from vl2v_deploy.method.zero_shot import zero_shot_logits
from vl2v_deploy.models.device import require_device
from vl2v_deploy.models.embedding_store import EmbeddingStore
from vl2v_deploy.models.run_directory import METRICS, RECORD, finish_run, read_record, start_run
from vl2v_deploy.models.student import build_student
from vl2v_deploy.models.teacher import Teacher, load_teacher, zero_shot_classifier
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import Recipe, recipe_sha256


@dataclass(frozen=True)
class Sources:
    """What every run of one recipe shares: the data, and the teacher behind its store.

    text_emb: (K, D) zero-shot classifier
    """

    domain_set: DomainSet
    fingerprint: str
    teacher: Teacher
    store: EmbeddingStore
    text_emb: Tensor


def distill_recipe(
    recipe: Recipe, out: Path, *, skip_bad: bool = False, overwrite: bool = False
) -> list[Path]:
    """The finished run directories: `out`, or with `data.target: each` one a domain inside `out`.

    With `each`, a domain whose run is already there from the same recipe is not run again.

    Raises what loading the data, the teacher or the student raises; RunError when `out` exists.
    """
    if recipe.data.target != "each":
        partial = start_run(out, recipe, overwrite=overwrite)  # a folder in the way is found at once
        distill_target(recipe, open_sources(recipe, skip_bad=skip_bad), partial, out)
        return [out]
    if (out / RECORD).is_file():
        raise RunError(f"{out}: is a run of one target; pass another --out for the runs of each")
    sources = open_sources(recipe, skip_bad=skip_bad)
    runs = []
    for domain in sources.domain_set.domains:
        data = recipe.data.model_copy(update={"target": domain})
        of_domain, run = recipe.model_copy(update={"data": data}), out / domain
        runs.append(run)
        if not overwrite and _is_done(run, of_domain, sources.fingerprint):
            continue
        distill_target(of_domain, sources, start_run(run, of_domain, overwrite=overwrite), run)
    return runs


def open_sources(recipe: Recipe, *, skip_bad: bool) -> Sources:
    """Data checked and split, teacher loaded, zero-shot classifier computed."""
    require_device(recipe.device)
    domain_set = load_domains(recipe.data, skip_bad=skip_bad)
    teacher = load_teacher(recipe.teacher, recipe.device)
    names = [recipe.data.class_names.get(name, name) for name in domain_set.classes]
    return Sources(
        domain_set=domain_set,
        fingerprint=data_fingerprint(domain_set),
        teacher=teacher,
        store=EmbeddingStore(cache_dir() / "embeddings", teacher),
        text_emb=zero_shot_classifier(teacher, names, recipe.prompts.templates),
    )


def distill_target(recipe: Recipe, sources: Sources, partial: Path, out: Path) -> None:
    """Align, distill and evaluate for one target domain; `partial` becomes `out` when all is done."""
    clock = Stopwatch()
    device = require_device(recipe.device)
    size_px, domain_set = recipe.student.image_size_px, sources.domain_set
    domains = domain_set.sources(recipe.data.target)
    train, val = domain_set.select(domains, "train"), domain_set.select(domains, "val")
    tested = test_set(domain_set, recipe.data.target)

    torch.manual_seed(recipe.seed)
    student = build_student(recipe.student, sources.teacher.embedding_dim)
    student.to(device).to(memory_format=torch.channels_last)  # pixels come in that order
    asked_before = sources.store.queries
    with clock("teacher"):
        image_emb = sources.store.embed([s.path for s in train], "Teacher sees the training images")
        test_emb = sources.store.embed([s.path for s in tested.samples], "Teacher sees the test images")
    with clock("features"):
        paths = [s.path for s in (*train, *val, *tested.samples)]
        features = compute_batched(student.features, paths, size_px, device, "Student features")
        of_train, of_val, of_test = features.split([len(train), len(val), len(tested.samples)])
    with clock("linear_probe"):
        probe, weight_decay = fit_linear_probe(
            of_train, labels_of(train), of_val, labels_of(val), len(domain_set.classes)
        )
    training_set = TrainingSet(
        train, domains, labels_of(train).to(device), image_emb.to(device), sources.text_emb.to(device)
    )
    with clock("align"):
        align(student, training_set, of_train.to(device), recipe.align, recipe.seed, partial / METRICS)
    with clock("distill"):
        distill(student, training_set, recipe.distill, size_px, recipe.seed, partial / METRICS)

    with clock("evaluate"):
        scale = sources.teacher.logit_scale
        held_out = [s.path for s in (*val, *tested.samples)]
        student_emb = compute_batched(student, held_out, size_px, device, "Student on held-out images")
        logits = zero_shot_logits(student_emb, sources.text_emb, scale)
        val_logits, test_logits = logits.split([len(val), len(tested.samples)])
        accuracy = {
            "target": recipe.data.target,
            "student": tested.accuracy_by_domain(test_logits),
            "teacher": tested.accuracy_by_domain(zero_shot_logits(test_emb, sources.text_emb, scale)),
            "linear_probe": tested.accuracy_by_domain(probe(of_test)),
            "student_source_val": TestSet(val, labels_of(val)).accuracy(val_logits),
        }
    record = _record(recipe, sources, tested, accuracy)
    record["teacher"] = {
        "identity": sources.teacher.identity,
        "images": len(train) + len(tested.samples),
        "queries": sources.store.queries - asked_before,
    }
    record |= {"linear_probe_weight_decay": weight_decay, "seconds": clock.seconds}
    plot_run(partial, record)
    finish_run(partial, out, student.cpu(), sources.text_emb, record)


@dataclass(frozen=True)
class Stopwatch:
    """Seconds of each named part of a run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def _is_done(run: Path, recipe: Recipe, fingerprint: str) -> bool:
    if not run.exists():
        return False
    record = read_record(run)
    if (record["recipe_sha256"], record["data"]["fingerprint"]) != (recipe_sha256(recipe), fingerprint):
        raise RunError(f"{run}: is of another recipe or other data; pass --overwrite to replace it, or --out")
    return True


def _record(recipe: Recipe, sources: Sources, tested: TestSet, accuracy: dict[str, Any]) -> dict[str, Any]:
    domain_set = sources.domain_set
    images = {
        domain: {split: len(domain_set.select({domain}, split)) for split in ("train", "val", "test")}
        for domain in domain_set.domains
    }
    return {
        "format": 1,
        "recipe_sha256": recipe_sha256(recipe),
        "seed": recipe.seed,
        "classes": list(domain_set.classes),
        "logit_scale": sources.teacher.logit_scale,
        "embedding_dim": sources.teacher.embedding_dim,
        "accuracy": accuracy,
        "data": {
            "fingerprint": sources.fingerprint,
            "images": images,
            "evaluated": tested.images_by_domain(),
            "skipped": list(domain_set.skipped),
        },
        "versions": package_versions(),
    }
