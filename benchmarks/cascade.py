"""What a cascade is worth on EmojiDG, and which deferral rule finds the images to ask about.

    python benchmarks/cascade.py RUN_OR_BUNDLE... [--out benchmarks/results/cascade]

Each argument is the run of one target (it is exported to fp32 and int8 first) or its bundle; several of one
target are averaged. Every policy is chosen on source validation, as `vl2v-deploy benchmark` chooses it, and
applied to the images that accuracy is measured on. Deferral rules that `benchmark` does not offer are
compared here too: they had to earn their place. Writes cascade.json and cascade.svg.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
import numpy.typing as npt

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vl2v_deploy.api import export
from vl2v_deploy.benchmarking.answers import Answers, Part, halves_from_logits
from vl2v_deploy.benchmarking.cascade.calibrate import answered_sets, teacher_temperature
from vl2v_deploy.benchmarking.cascade.choose import (
    AREA_TO,
    DEFERRALS,
    JOININGS,
    SHARES,
    Candidate,
    candidates_of,
    chosen_rule,
    chosen_share,
    policy_from_validation,
)
from vl2v_deploy.benchmarking.cascade.curve import Answered, curve_from_ranks
from vl2v_deploy.benchmarking.engine_names import TEACHER
from vl2v_deploy.benchmarking.measure.answers import ask_teacher
from vl2v_deploy.benchmarking.measure.images import load_images, prompts_of, target_of
from vl2v_deploy.client import Bundle, Student, open_bundle
from vl2v_deploy.client.answers import softmax
from vl2v_deploy.client.cascade.policy import Floats, unsureness
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import load_run_recipe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/cascade"
STUDENT = "student"
BATCH = 32
Scores: TypeAlias = dict[str, dict[str, Floats]]  # rule -> domain -> (N,), larger = less sure


@dataclass(frozen=True)
class Studied:
    """The answers of one student and its teacher, and how unsure each rule is of each image."""

    name: str
    target: str
    precision: str
    classes: tuple[str, ...]
    temperature: float
    validation: dict[str, Answered]
    measured: dict[str, Answered]
    unsure: dict[Part, Scores]


def studied(bundle: Bundle, name: str) -> Studied:
    """Everything that is asked of a bundle and its teacher."""
    recipe = load_run_recipe(bundle.path / "recipe.yaml")
    images = load_images(bundle, recipe, None, skip_bad=False, max_images=None, validation=True)
    target = target_of(bundle, recipe)
    prompts = prompts_of(bundle, recipe, tuple(images.samples))
    scale = bundle.manifest.logit_scale
    teacher = ask_teacher(recipe.teacher, prompts, scale, images.samples, "cpu", images.validation)
    precisions = [p for p in ("int8", "fp32") if p in bundle.precisions]
    students = {p: Student.load(bundle.path, precision=p, threads=1) for p in precisions}
    train = images.domain_set.select(images.domain_set.sources(target), "train")
    statistics = class_statistics(
        answers_to(students[precisions[0]], train)[1], np.array([sample.label for sample in train])
    )
    held, unsure = dict(teacher.logits), dict[Part, Scores]()
    parts: tuple[tuple[Part, Mapping[str, Sequence[Sample]]], ...]
    parts = ("measured", images.samples), ("validation", images.validation)
    for part, by_domain in parts:
        unsure[part] = {}
        for domain, samples in by_domain.items():
            logits, embedding = answers_to(students[precisions[0]], samples)
            held[STUDENT, part, domain] = halves_from_logits(logits.astype(np.float32))
            other = answers_to(students[precisions[-1]], samples)[0] if len(precisions) > 1 else None
            for rule, values in scores(logits, embedding, statistics, other).items():
                unsure[part].setdefault(rule, {})[domain] = values
    answers, record = Answers(held), images.record
    temperature = teacher_temperature(answers, TEACHER, record.validation)
    validation = answered_sets(answers, STUDENT, TEACHER, "validation", record.validation, temperature)
    measured = answered_sets(answers, STUDENT, TEACHER, "measured", record.domains, temperature)
    return Studied(name, target, precisions[0], bundle.classes, temperature, validation, measured, unsure)


def answers_to(student: Student, samples: Sequence[Sample]) -> tuple[Floats, Floats]:
    """Logits (N, K) and embeddings (N, D) of image files."""
    rows = []
    for start in range(0, len(samples), BATCH):
        pixels = [student.pixels(sample.path) for sample in samples[start : start + BATCH]]
        rows.append(student.run(np.stack(pixels)))
    logits, embeddings = (np.concatenate(part).astype(np.float64) for part in zip(*rows, strict=True))
    return logits, embeddings


def class_statistics(embedding: Floats, labels: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Mean (K, D) of each class, and the inverse (D, D) of the covariance that they share.

    A tenth of the mean variance is added to the diagonal: there may be fewer images than dimensions.
    """
    means = np.stack([embedding[labels == label].mean(0) for label in range(labels.max() + 1)])
    within = embedding - means[labels]
    covariance = within.T @ within / len(embedding)
    ridge = 0.1 * np.trace(covariance) / len(covariance)
    return means, np.linalg.inv(covariance + ridge * np.eye(len(covariance)))


def scores(
    logits: Floats, embedding: Floats, statistics: tuple[Floats, Floats], other: Floats | None
) -> dict[str, Floats]:
    """How unsure each rule is; larger = asked earlier.

    energy:      -log sum_c exp z_c (Liu et al., 2020)
    cosine:      1 - the largest cosine to the mean source embedding of a class
    mahalanobis: the least distance to one, by the classes' shared covariance (Lee et al., 2018)
    precisions:  total variation between the probabilities of two precisions
    """
    probabilities = softmax(logits.astype(np.float32))
    found: dict[str, Floats] = {rule: unsureness(probabilities, rule) for rule in DEFERRALS}
    most = logits.max(1)
    found["energy"] = -(most + np.log(np.exp(logits - most[:, None]).sum(1)))
    means, inverse = statistics
    directions = means / np.linalg.norm(means, axis=1, keepdims=True)
    found["cosine"] = 1 - (embedding @ directions.T).max(1)
    apart = embedding[:, None, :] - means[None]  # (N, K, D)
    found["mahalanobis"] = np.einsum("nkd,de,nke->nk", apart, inverse, apart, optimize=True).min(1)
    if other is not None:
        found["precisions"] = np.abs(probabilities - softmax(other.astype(np.float32))).sum(1) / 2
    return found


def areas(one: Studied) -> dict[str, dict[str, float]]:
    """Of each rule with each way of joining: the area under its accuracy-share curve to a share of a half."""
    target = {one.target}
    places: dict[str, tuple[Part, set[str]]] = {
        "validation": ("validation", set(one.validation)),
        "in_domain": ("measured", set(one.measured) - target),
        "ood": ("measured", target),
    }
    found: dict[str, dict[str, float]] = {}
    for combine, weight in JOININGS:
        for rule in one.unsure["measured"]:
            row = found.setdefault(f"{rule}, {combine} {weight:g}", {})
            for place, (part, domains) in places.items():
                sets = one.validation if part == "validation" else one.measured
                curve = curve_from_ranks(
                    {d: one.unsure[part][rule][d] for d in domains},
                    {d: sets[d].student_hits() for d in domains},
                    {d: sets[d].joined_hits(combine, weight) for d in domains},
                )
                row[place] = curve.area(AREA_TO)
    return found


def curve_rows(one: Studied, best: Candidate) -> list[dict[str, float]]:
    """Accuracy in domain and out of it at each promised share, and the shares that are really asked about."""
    return [row_at(one, best, promised) for promised in SHARES]


def row_at(one: Studied, best: Candidate, promised: float) -> dict[str, float]:
    """One point of the curve."""
    policy = policy_from_validation(one.validation, one.classes, one.temperature, best, promised)
    shares, hits = {}, {}
    for domain, images in one.measured.items():
        right, asked = images.followed(policy, one.classes)
        shares[domain], hits[domain] = float(asked.mean()), float(right.mean())
    sources = [domain for domain in one.measured if domain != one.target]
    return {
        "promised": policy.share,
        "share_in_domain": float(np.mean([shares[domain] for domain in sources])),
        "share_ood": shares[one.target],
        "in_domain": float(np.mean([hits[domain] for domain in sources])),
        "ood": hits[one.target],
    }


def result_of(one: Studied) -> dict[str, Any]:
    """One student's part of the result."""
    best = chosen_rule(candidates_of(one.validation))
    choice = chosen_share(one.validation, best)
    return {
        "name": one.name,
        "target": one.target,
        "precision": one.precision,
        "validation_images": sum(len(images.labels) for images in one.validation.values()),
        "teacher_temperature": one.temperature,
        "chosen": best._asdict(),
        "chosen_share": choice._asdict(),
        "at_chosen_share": row_at(one, best, choice.share),
        "at_best_share_of_validation": row_at(one, best, choice.best),
        "teacher": {
            domain: float((images.teacher.argmax(1) == images.labels).mean())
            for domain, images in one.measured.items()
        },
        "curve": curve_rows(one, best),
        "areas": areas(one),
    }


def against_default(students: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each rule's area less that of max_probability with the same joining: mean over targets, spread."""
    rows = []
    for combine, weight in JOININGS:
        joining = f"{combine} {weight:g}"
        rules = dict.fromkeys(key.partition(",")[0] for one in students for key in one["areas"])
        for rule in rules:
            held = [one for one in students if f"{rule}, {joining}" in one["areas"]]
            row: dict[str, Any] = {"rule": rule, "joining": joining, "students": len(held)}
            for place in ("validation", "in_domain", "ood"):
                ours = np.array([one["areas"][f"{rule}, {joining}"][place] for one in held])
                usual = np.array([one["areas"][f"max_probability, {joining}"][place] for one in held])
                row[place] = float(ours.mean())
                row[f"{place}_gain"] = float((ours - usual).mean())
                row[f"{place}_wins"] = int((ours > usual).sum())
            rows.append(row)
    return rows


def draw(students: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Accuracy against the share that is really asked about: a panel for each target."""
    import matplotlib.pyplot as plt

    targets = sorted({one["target"] for one in students})
    figure, panels = plt.subplots(
        1, len(targets), figsize=(3.4 * len(targets), 3.3), layout="constrained", squeeze=False, sharey=True
    )
    for axes, target in zip(panels[0], targets, strict=True):
        mine = [one for one in students if one["target"] == target]
        for what, colour, label in (
            ("ood", "#0069a6", "unseen style"),
            ("in_domain", "#8f6800", "source styles"),
        ):
            share = "share_ood" if what == "ood" else "share_in_domain"
            x, y = (
                100 * np.mean([[row[key] for row in one["curve"]] for one in mine], axis=0)
                for key in (share, what)
            )
            axes.plot(x, y, "o-", color=colour, ms=3.5, lw=1.6, label=label)
        teacher = 100 * np.mean([one["teacher"][target] for one in mine])
        axes.axhline(teacher, color="#c74f00", ls="--", lw=1.2, label="teacher, unseen style")
        axes.set_title(target, fontsize=10)
        axes.set_xlabel("images sent to the teacher, %")
        axes.grid(True, color="#d5dae0", lw=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("accuracy, %")
    panels[0][-1].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(sources: tuple[Path, ...], out: Path) -> None:
    """Study the cascades of these runs or bundles."""
    students = []
    for source in sources:
        with tempfile.TemporaryDirectory() as work:
            made = source if (source / "manifest.json").is_file() else Path(work, "bundle")
            if made != source:
                export(source, made, precision="fp32,int8")
            students.append(result_of(studied(open_bundle(made), source.name)))
        click.echo(f"{source.name}: {students[-1]['chosen']}")
    result = {
        "command": f"python benchmarks/cascade.py {' '.join(source.name for source in sources)}",
        "versions": package_versions(),
        "area_to": AREA_TO,
        "rules": against_default(students),
        "students": students,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "cascade.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(students, out / "cascade.svg")
    click.echo(f"{out / 'cascade.json'}, {out / 'cascade.svg'}")


if __name__ == "__main__":
    main()
