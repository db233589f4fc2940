"""The benchmark of a bundle from end to end: accuracy, then timing, then the report on disk."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress, TaskID

from vl2v_deploy.benchmark.accuracy import Labels, measure_accuracy, teacher_labels
from vl2v_deploy.benchmark.device import describe_device, physical_cores
from vl2v_deploy.benchmark.engines import EngineSpec
from vl2v_deploy.benchmark.options import BenchmarkOptions
from vl2v_deploy.benchmark.plot import plot_report
from vl2v_deploy.benchmark.render import markdown_from_report
from vl2v_deploy.benchmark.report import SCHEMA, build_results
from vl2v_deploy.benchmark.rounds import Measurement, measure_engines
from vl2v_deploy.client import Bundle, Student
from vl2v_deploy.client.bundle import sha256_of
from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.data.domains import (
    DomainSet,
    Sample,
    data_fingerprint,
    evaluation_samples,
    load_domains,
    relocated,
    spread,
)
from vl2v_deploy.data.prompts import class_prompts
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import Recipe, load_recipe, recipe_sha256

REPORT_JSON, REPORT_MD, PLOT = "report.json", "report.md", "accuracy_cost.png"
# Enough different images that no engine's caches know them all, few enough to hold them as tensors.
TIMED_IMAGES = 64
Images = Mapping[str, Sequence[Sample]]


def benchmark_bundle(bundle: Path, out: Path, options: BenchmarkOptions) -> dict[str, Any]:
    """Accuracy, speed and cost of a bundle, of its teacher if asked for; the report, also written to `out`.

    bundle: directory written by `vl2v-deploy export`
    out:    directory for report.json, report.md and accuracy_cost.png; nothing is written before the end

    Raises BenchmarkError for a measurement that cannot be made; BundleError, RecipeError, DataError and
    ModelError for what it is made of.
    """
    _require_directory(out)
    threads = options.threads or physical_cores()
    student = Student.load(bundle, threads=threads)
    recipe = load_recipe(bundle / "recipe.yaml")
    recorded = student.bundle.manifest.get("accuracy")
    target = _target(recipe, recorded)
    data = relocated(recipe.data.model_copy(update={"target": target}), options.data_root)
    domain_set = load_domains(data, skip_bad=options.skip_bad)
    _require_same_classes(student.bundle, domain_set)
    full = {domain: evaluation_samples(domain_set, domain, target) for domain in domain_set.domains}
    totals = {domain: len(samples) for domain, samples in full.items()}
    images = {domain: spread(samples, options.max_images) for domain, samples in full.items()}

    teacher = _ask_teacher(student.bundle, recipe, images) if options.teacher else None
    specs = engine_specs(student.bundle, recipe, images, threads, options)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Student accuracy", total=sum(map(len, images.values())))
        accuracies = measure_accuracy(
            student,
            teacher.labels if teacher else None,
            images,
            totals,
            target,
            lambda n: progress.advance(task, n),
        )
        measurements = _measurements(specs, options, progress)
    report = {
        **_header(student.bundle, recipe, options, threads),
        "data": {
            "root": data.root,
            "skipped": list(domain_set.skipped),
            "subsampled": any(len(images[domain]) < totals[domain] for domain in images),
        },
        "provenance": _provenance(student.bundle, domain_set, teacher),
        **build_results(accuracies, measurements, options, recorded),
    }
    write_report(report, out)
    return report


def engine_specs(
    bundle: Bundle, recipe: Recipe, images: Images, threads: int, options: BenchmarkOptions
) -> list[EngineSpec]:
    """The engines to measure: the student's file under onnxruntime and, if asked for, the teacher.

    images: of each domain; all engines are timed on the same few of them
    """
    everything = [sample for samples in images.values() for sample in samples]
    paths = [str(sample.path.resolve()) for sample in spread(everything, TIMED_IMAGES)]
    common = {"threads": threads, "images": paths}
    student = {
        "engine": "onnxruntime",
        "provider": "CPUExecutionProvider",
        "bundle": str(bundle.path.resolve()),
    }
    specs = [EngineSpec("student", {**common, **student})]
    if options.teacher:
        teacher = {
            "engine": "teacher",
            "teacher": recipe.teacher.model_dump(mode="json"),
            "prompts": _prompts(bundle, recipe, images),
        }
        specs.append(EngineSpec("teacher", {**common, **teacher}))
    return specs


def write_report(report: Mapping[str, Any], out: Path) -> None:
    """report.json, report.md and the plot in `out`: all of them made before the first is put in place."""
    _require_directory(out)
    with tempfile.TemporaryDirectory(dir=out, prefix=".report-") as scratch:
        made = Path(scratch)
        plot_report(report, made / PLOT)
        (made / REPORT_MD).write_text(markdown_from_report(report, PLOT), encoding="utf-8")
        (made / REPORT_JSON).write_text(_json(report), encoding="utf-8")
        for name in (PLOT, REPORT_MD, REPORT_JSON):
            (made / name).replace(out / name)


class TeacherAnswers(NamedTuple):
    """The teacher's labels by domain, how many images had to be sent to it, and which teacher it is."""

    labels: dict[str, Labels]
    queries: int
    identity: str


def _ask_teacher(bundle: Bundle, recipe: Recipe, images: Images) -> TeacherAnswers:
    # Imported here: without --teacher nothing needs torch.
    from vl2v_deploy.models.embedding_store import EmbeddingStore
    from vl2v_deploy.models.teacher import load_teacher, prompt_classifier

    teacher = load_teacher(recipe.teacher)
    text_emb = prompt_classifier(teacher, _prompts(bundle, recipe, images))
    store = EmbeddingStore(cache_dir() / "embeddings", teacher)
    return TeacherAnswers(teacher_labels(store, text_emb, images), store.queries, teacher.identity)


def _provenance(bundle: Bundle, domain_set: DomainSet, teacher: TeacherAnswers | None) -> dict[str, Any]:
    """What the student was distilled from, beside what it is measured with; None where not known."""
    run = bundle.manifest.get("run") or {}
    return {
        "distilled_teacher": run.get("teacher", {}).get("identity"),
        "teacher": teacher.identity if teacher else None,
        "teacher_queries": teacher.queries if teacher else None,
        "distilled_data": run.get("data", {}).get("fingerprint"),
        "data": data_fingerprint(domain_set),
    }


def _measurements(
    specs: Sequence[EngineSpec], options: BenchmarkOptions, progress: Progress
) -> dict[str, Measurement]:
    task: TaskID = progress.add_task("Timing", total=2 * len(specs) + options.rounds)

    def advance(doing: str) -> None:
        progress.update(task, advance=1, description=f"Timing: {doing}")

    return measure_engines(specs, options.schedule, advance)


def _header(bundle: Bundle, recipe: Recipe, options: BenchmarkOptions, threads: int) -> dict[str, Any]:
    chosen = asdict(options)
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "bundle": {
            "name": bundle.path.resolve().name,
            "onnx_sha256": sha256_of(bundle.onnx),
            "classes": list(bundle.classes),
            "image_size_px": bundle.image_size_px,
        },
        "recipe_sha256": recipe_sha256(recipe),
        "device": describe_device(),
        "versions": package_versions(),
        "options": {**chosen, "data_root": str(options.data_root) if options.data_root else None},
        "threads": threads,
    }


def _target(recipe: Recipe, recorded: Mapping[str, Any] | None) -> str:
    """The domain the student has not seen: the manifest knows, as a recipe may say 'each'."""
    target = str((recorded or {}).get("target") or recipe.data.target)
    if target == "each":
        raise BenchmarkError(
            "manifest.json: accuracy.target is missing, and data.target of recipe.yaml is 'each': "
            "which domain was unseen is not known; export the run again"
        )
    return target


def _prompts(bundle: Bundle, recipe: Recipe, images: Images) -> tuple[tuple[str, ...], ...]:
    """The texts of each class, as the student was distilled with them."""
    target = _target(recipe, bundle.manifest.get("accuracy"))
    return class_prompts(recipe.prompts, recipe.data, bundle.classes, tuple(images), target)


def _require_same_classes(bundle: Bundle, domain_set: DomainSet) -> None:
    if domain_set.classes != bundle.classes:
        raise BenchmarkError(
            f"{domain_set.root}: expected the bundle's classes {', '.join(bundle.classes)}; "
            f"got {', '.join(domain_set.classes)}; name the right images with --data"
        )


def _require_directory(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchmarkError(f"{out}: cannot be a report directory: {error.strerror or error}") from error


def _json(report: Mapping[str, Any]) -> str:
    """Indented JSON, but each list of samples on one line."""
    text = json.dumps(report, indent=1, allow_nan=False)
    # A JSON string holds no raw newline, so only arrays of numbers can match.
    return re.sub(r"\[\n[-+\d.eE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n"
