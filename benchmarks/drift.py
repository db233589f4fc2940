"""How soon a Monitor alarms on an unseen style, and how often it alarms where nothing changed.

    python benchmarks/drift.py bundles/noto bundles/twemoji

For each bundle and precision, over many random orders of real images: the source styles' test images and the
unseen style's. No image of them was trained, calibrated or chosen on; the reference is the bundle's own, of
source validation. Rows of the result:

unseen style            the first image is of it already
unseen after N source   it begins later
source styles           all of them, mixed as in the reference: every alarm is false
fresh reference         the same, with a reference of as many source test images drawn anew for each order:
                        the chance that alpha bounds is over both draws
fresh reference, groups the same, but the reference is drawn as a split by groups draws it, whole groups of
                        images (one emoji in all its styles) within each class, and is worth what export
                        finds that it is
only STYLE              one source style alone: the mix of styles changed, and perhaps accuracy

The bets are the Monitor's own, of many orders at once. Writes benchmarks/results/drift/<bundle names>.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vl2v_deploy.client import Bundle, Student, open_bundle
from vl2v_deploy.client.answers import softmax
from vl2v_deploy.client.bundle import MANIFEST
from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.client.monitor.betting import Bets, share_of_alpha
from vl2v_deploy.client.monitor.design_effect import design_effects
from vl2v_deploy.client.monitor.kinds import BETTORS, bins_by_kind, worth_by_kind
from vl2v_deploy.client.monitor.reference import load_reference
from vl2v_deploy.client.monitor.scores import counts_of
from vl2v_deploy.data.domains import Sample, evaluation_samples, load_domains
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.exporting.images import batches, labels_of
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import load_run_recipe

RESULTS = Path(__file__).parent / "results" / "drift"
ALPHAS = (0.01, 0.05, 0.2)
BEFORE = 256  # source images before the unseen style begins
Bins: TypeAlias = Mapping[str, np.ndarray]  # (..., S) by kind


@dataclass(frozen=True)
class Answered:
    """Images with the bins of their answers. right: whether each label was."""

    bins: Bins
    right: np.ndarray
    labels: np.ndarray
    domains: np.ndarray
    groups: np.ndarray

    def at(self, rows: np.ndarray) -> Bins:
        return {kind: values[rows] for kind, values in self.bins.items()}


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--orders", default=500, show_default=True, type=click.IntRange(20))
@click.option("--window", default=512, show_default=True, type=click.IntRange(16))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(bundles: tuple[Path, ...], orders: int, window: int, out: Path | None) -> None:
    """Alarms of a Monitor on each of BUNDLES, whose recipes lead to their images."""
    found = {}
    for path in bundles:
        try:
            bundle = open_bundle(path)
            for precision in ("fp32", "int8"):
                if precision in bundle.precisions:
                    name = f"{bundle.name} {precision}"
                    found[name] = measured(bundle, precision, orders, window)
                    show(name, found[name])
        except VL2VError as error:
            raise click.ClickException(str(error)) from error
    names = [path.resolve().name for path in bundles]
    target = out or RESULTS / f"{'_'.join(names)}.json"
    report = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/drift.py {' '.join(f'bundles/{name}' for name in names)}"
        f" --orders {orders} --window {window}",
        "orders": orders,
        "window": window,
        "versions": package_versions(),
        "bundles": found,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    click.echo(f"Written to {target}")


def measured(bundle: Bundle, precision: str, orders: int, window: int) -> dict[str, Any]:
    """Every row of one file of a bundle."""
    recipe = load_run_recipe(bundle.path / "recipe.yaml")
    target = str(recipe.data.target)
    domains = load_domains(recipe.data, skip_bad=True)
    reference = load_reference(bundle, precision)
    with Student.load(bundle, precision=precision) as student:
        source = answered(student, domains.select(domains.sources(target), "test"))
        unseen = answered(student, evaluation_samples(domains, target, target))
    known, images = worth_by_kind(reference), int(reference.embedding[0].sum())
    random = np.random.default_rng(0)
    everything, new = len(source.right), len(unseen.right)

    def shuffled(rows: np.ndarray) -> np.ndarray:
        return random.permuted(np.tile(rows, (orders, 1)), axis=1)

    own = {kind: np.broadcast_to(c, (orders, *c.shape)) for kind, c in known.items()}
    later = unseen.at(shuffled(np.arange(new)))
    before = source.at(shuffled(np.arange(everything))[:, :BEFORE])
    changed = {kind: np.concatenate([before[kind], later[kind]], axis=1) for kind in later}
    rows = {
        "unseen style": alarms(own, later, window),
        f"unseen after {BEFORE} source": alarms(own, changed, window, began=BEFORE),
        "source styles": alarms(own, source.at(shuffled(np.arange(everything))), window),
    }
    order = shuffled(np.arange(everything))
    fresh = [counted(source, drawn, known) for drawn in order[:, :images]]
    rows["fresh reference"] = alarms(stacked(fresh), source.at(order[:, images:]), window)
    splits = [by_group(source, images, random) for _ in range(orders)]
    fresh = [counted(source, drawn, known, by_groups=True) for drawn, _ in splits]
    shortest = min(len(rest) for _, rest in splits)
    rest = np.stack([random.permutation(rest)[:shortest] for _, rest in splits])
    rows["fresh reference, groups"] = alarms(stacked(fresh), source.at(rest), window)
    for style in sorted(set(source.domains)):
        rows[f"only {style}"] = alarms(
            own, source.at(shuffled(np.flatnonzero(source.domains == style))), window
        ) | {"accuracy": float(source.right[source.domains == style].mean())}
    return {
        "target": target,
        "backbone": bundle.manifest.student.backbone,
        "image_size_px": bundle.image_size_px,
        "manifest_sha256": sha256_of(bundle.path / MANIFEST),
        "reference_images": images,
        "source_accuracy": float(source.right.mean()),
        "unseen_accuracy": float(unseen.right.mean()),
        "rows": rows,
    }


def answered(student: Student, samples: tuple[Sample, ...]) -> Answered:
    """The student's answers to the images, in the bins that its Monitor would put them in."""
    size_px = student.bundle.image_size_px
    parts = [student.run(batch) for batch in batches(samples, size_px)]
    logits, embeddings = (np.concatenate(part) for part in zip(*parts, strict=True))
    basis = load_reference(student.bundle, student.precision).basis
    index, probability = logits.argmax(1), softmax(logits).max(1)
    abstained = probability < (student.bundle.manifest.confidence.abstain_below or 0.0)
    return Answered(
        bins=bins_by_kind(basis, len(student.classes), index, probability, abstained, embeddings),
        right=index == labels_of(samples),
        labels=labels_of(samples),
        domains=np.array([sample.domain for sample in samples]),
        groups=np.array([sample.group for sample in samples]),
    )


def alarms(known: Bins, stream: Bins, window: int, began: int = 0) -> dict[str, Any]:
    """How many orders alarm, and after how many images, by alpha; and the kind that had won most then.

    known:  (R, S, B) images of each order's reference in each bin
    stream: (R, n, S) bins of the images as they come
    began:  images before the drift
    """
    bets = {kind: Bets(counts, BETTORS[kind], window) for kind, counts in known.items()}
    orders, length = stream["distance"].shape[:2]
    random = np.random.default_rng(1)
    at = {alpha: np.full(orders, np.inf) for alpha in ALPHAS}
    kinds = np.full(orders, "", dtype="U16")
    for number in range(length):
        if number and number % window == 0:
            for bet in bets.values():
                bet.restart()
        for kind, bet in bets.items():
            bins = stream[kind][:, number]
            bet.bet(bins, random.random(bins.shape), number + 1)
        each = np.stack([bet.wealth.max(-1) / bet.wealth.shape[-1] for bet in bets.values()])  # (kinds, R)
        spent = each.max(0) / len(bets) * share_of_alpha(1 + number // window)
        for alpha, when in at.items():
            now = np.isinf(when) & (spent * alpha >= 1.0)
            when[now] = number + 1
            if alpha == ALPHAS[0]:
                kinds[now] = np.array(list(bets))[each.argmax(0)][now]
    return {
        "images": length - began,
        "by_alpha": {
            str(alpha): {
                "alarms": float((np.isfinite(when) & (when > began)).mean()),
                "before_the_drift": float((when <= began).mean()),
                "images_until_alarm": {
                    f"p{q}": _quantile(when[when > began] - began, q) for q in (10, 50, 90)
                },
            }
            for alpha, when in at.items()
        },
        "kind_that_won_most": {kind: int((kinds == kind).sum()) for kind in bets},
    }


def _quantile(images: np.ndarray, percent: int) -> int | None:
    """Of the orders, among them those without an alarm, which count as longer than any; None = no alarm."""
    found = np.quantile(images, percent / 100, method="inverted_cdf") if len(images) else np.inf
    return int(found) if np.isfinite(found) else None


def by_group(source: Answered, images: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of about so many images, whole groups drawn within each class; and all other rows."""
    drawn = np.zeros(len(source.labels), bool)
    for label in np.unique(source.labels):
        rows = np.flatnonzero(source.labels == label)
        wanted = images * len(rows) / len(drawn)
        for group in random.permutation(np.unique(source.groups[rows])):
            if drawn[rows].sum() < wanted:
                drawn[rows[source.groups[rows] == group]] = True
    return np.flatnonzero(drawn), np.flatnonzero(~drawn)


def counted(source: Answered, rows: np.ndarray, like: Bins, *, by_groups: bool = False) -> Bins:
    """(S, B) of a reference of these images, as `like` is; by_groups: worth what its groups leave of it."""
    found = {}
    for kind, bins in source.at(rows).items():
        counts = counts_of(bins, like[kind].shape[-1])
        effect = design_effects(bins, source.labels[rows], source.groups[rows]) if by_groups else 1.0
        found[kind] = counts / np.broadcast_to(effect, len(counts))[:, None]
    return found


def stacked(references: list[Bins]) -> Bins:
    """(R, S, B)"""
    return {kind: np.stack([one[kind] for one in references]) for kind in references[0]}


def show(name: str, facts: Mapping[str, Any]) -> None:
    click.echo(
        f"{name}: accuracy on source styles {100 * facts['source_accuracy']:.1f} %, on the unseen style "
        f"{100 * facts['unseen_accuracy']:.1f} %; reference of {facts['reference_images']} images"
    )
    for row, found in facts["rows"].items():
        texts = []
        for alpha, one in found["by_alpha"].items():
            median = one["images_until_alarm"]["p50"]
            when = "" if median is None else f" (median after {median})"
            texts.append(f"alpha {alpha}: {100 * one['alarms']:.1f} % alarm{when}")
        click.echo(f"  {row}, {found['images']} images: {'; '.join(texts)}")


if __name__ == "__main__":
    main()
