"""What a schedule and unlabelled images are worth on EmojiDG, at equal steps and images in a step.

    python -m benchmarks.emojidg.unlabelled POOL
    python benchmarks/unlabelled_trials.py POOL [--targets noto,twemoji,fluent-3d] [--seeds 0,1,2]

Each variant is trained on each target with each seed; the runs of a target and seed share the teacher and its
answers. Every finished run is a line of benchmarks/results/unlabelled_trials/runs.jsonl, and what is there is
not run again. A part of the pool is held out from training: agreement with the teacher on it is recorded
beside source validation, as a signal to select settings by that needs no label.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.emojidg.drawings import DOMAINS
from benchmarks.emojidg.unlabelled import styles_for
from vl2v_deploy.data.unlabelled import load_unlabelled, split_held_out
from vl2v_deploy.distillation.run import distill_recipes
from vl2v_deploy.models.record import RunRecord, read_record
from vl2v_deploy.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/unlabelled_trials/runs.jsonl"
TARGETS, SEEDS = ("noto", "twemoji", "fluent-3d"), (0, 1, 2)
HELD_OUT = 0.05  # of the pool: data.unlabelled_held_out

COMMON = (
    *("student.image_size_px=64", "distill.steps=200", "distill.evaluate_every=10"),
    *("distill.batch_per_domain=12", "distill.learning_rate=1e-3", "distill.unlabelled_per_step=0"),
    *("distill.schedule=constant", "distill.warmup=0"),
)
COSINE = ("distill.schedule=cosine", "distill.warmup=0.05")
HALF = ("distill.batch_per_domain=6", "distill.unlabelled_per_step=24")
BOTH = (*HALF, *COSINE)
# Each step has 48 images in all of them.
VARIANTS: dict[str, tuple[str, ...]] = {
    "as today": (),
    "cosine": COSINE,
    "unlabelled": HALF,
    "unlabelled + cosine": (*HALF, *COSINE),
}
# Run where --variants names them, into another --results: what else was tried.
MORE: dict[str, tuple[str, ...]] = {
    "cosine, last weights": (*COSINE, "distill.averaging=last"),
    "both, last weights": (*BOTH, "distill.averaging=last"),
    "both, teacher's labels": (*BOTH, "teacher_labels=0.95"),
    "both, in Align too": (*BOTH, "align.unlabelled_per_step=64"),
    "cosine, Align with patience": (*COSINE, "align.patience=4"),
    "both, pool of source styles": BOTH,
    "both, a quarter of the pool": BOTH,
    "both, a quarter of each step": (
        *("distill.batch_per_domain=9", "distill.unlabelled_per_step=12"),
        *COSINE,
    ),
    "both, three quarters of each step": (
        *("distill.batch_per_domain=3", "distill.unlabelled_per_step=36"),
        *COSINE,
    ),
    "both, 400 steps": (*BOTH, "distill.steps=400", "distill.evaluate_every=20"),
    "both, 800 steps": (*BOTH, "distill.steps=800", "distill.evaluate_every=40"),
    "both, 2 views": (*BOTH, "teacher_views=2"),
    "both, lambda 0.3": (*BOTH, "distill.image_weight=0.3"),
    "both, lambda 0.7": (*BOTH, "distill.image_weight=0.7"),
    "both, 48 px": (*BOTH, "student.image_size_px=48"),
    "both, 96 px": (*BOTH, "student.image_size_px=96"),
    "both, Lite1": (*BOTH, "student.backbone=tf_efficientnet_lite1"),
    "both, Lite2": (*BOTH, "student.backbone=tf_efficientnet_lite2"),
}


def recipe_of(variant: str, target: str, seed: int, manifests: Mapping[str, Path]) -> Recipe:
    """The recipe of one run; its drawings without labels are those to train on, and all that are held out."""
    pool = json.dumps([str(manifests[name]) for name in (_pool_of(variant), "held-out")])
    ours = [f"data.target={target}", f"seed={seed}", f"data.unlabelled={pool}"]
    ours.append(f"data.unlabelled_held_out={HELD_OUT}")
    return load_recipe(ROOT / "recipes/quickstart.yaml", [*COMMON, *ours, *_settings(variant)])


def _settings(variant: str) -> tuple[str, ...]:
    return (VARIANTS | MORE)[variant]


def write_manifests(pool: Path, target: str, work: Path) -> dict[str, Path]:
    """Manifests of drawings by all hands but the target's, by what they are for.

    all: for training; sources: those of source styles alone; quarter: a quarter of all; held-out: for none
    """
    styles = [pool / style for style in styles_for(target)]
    if missing := [style.name for style in styles if not style.is_dir()]:
        raise click.UsageError(
            f"{pool}: has no folder {missing[0]}: make it with benchmarks.emojidg.unlabelled"
        )
    recipe = load_recipe(
        ROOT / "recipes/quickstart.yaml", [f"data.unlabelled={json.dumps([*map(str, styles)])}"]
    )
    kept, held_out = split_held_out(load_unlabelled(recipe.data), HELD_OUT)
    of_sources = [sample for sample in kept.samples if sample.path.resolve().parent.name in DOMAINS]
    quarter = [sample for sample in kept.samples if int(sample.sha256, 16) // 20 % 4 == 0]
    chosen = {"all": kept.samples, "sources": of_sources, "quarter": quarter, "held-out": held_out.samples}
    lists = {name: [str(sample.path.resolve()) for sample in of] for name, of in chosen.items()}
    files = {name: work / f"{target}-{name}.txt" for name in lists}
    files["all"] = work / f"{target}.txt"
    work.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        file.write_text("\n".join(lists[name]) + "\n", encoding="utf-8")
    return files


def _pool_of(variant: str) -> str:
    """The manifest that a variant trains on."""
    named = {"both, pool of source styles": "sources", "both, a quarter of the pool": "quarter"}
    return named.get(variant, "all")


def line_of(variant: str, record: RunRecord) -> dict[str, Any]:
    """What is kept of a run."""
    agreement = record.agreement
    assert agreement is not None  # the recipe holds drawings out
    accuracy, target = record.accuracy, record.target
    ours = [share for domain, share in accuracy.student.items() if domain != target]
    distill = record.stages["distill"]
    averaging = distill.model_dump(mode="json")["averaging"]
    averaging.pop("segments", None)
    return {
        "variant": variant,
        "settings": list(_settings(variant)),
        "target": target,
        "seed": record.seed,
        "ood": accuracy.student[target],
        "id": sum(ours) / len(ours),
        "source_val": accuracy.student_source_val,
        "teacher_ood": accuracy.teacher[target],
        "ood_images": record.data.evaluated[target],
        "unlabelled_images": record.data.unlabelled.images if record.data.unlabelled else 0,
        "adapted": record.adapted,
        "averaging": averaging,
        "distill_s": distill.seconds,
        "versions": record.versions,
        "held_out_images": agreement.images,
        "held_out_agreement": agreement.same_class,
        "held_out_cosine": agreement.cosine,
        "held_out_kl": agreement.kl,
    }


def key_of(line: Mapping[str, Any]) -> tuple[str, str, int]:
    return line["variant"], line["target"], line["seed"]


@click.command(help=__doc__)
@click.argument("pool", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--targets", default=",".join(TARGETS), show_default=True)
@click.option("--seeds", default=",".join(map(str, SEEDS)), show_default=True)
@click.option("--variants", default=";".join(VARIANTS), show_default=True, help="names, with ; between them")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/unlabelled_trials"))
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
def main(pool: Path, targets: str, seeds: str, variants: str, work: Path, results: Path) -> None:
    done = set()
    if results.is_file():
        done = {key_of(json.loads(line)) for line in results.read_text(encoding="utf-8").splitlines()}
    for seed in map(int, seeds.split(",")):
        for target in targets.split(","):
            left = [variant for variant in variants.split(";") if (variant, target, seed) not in done]
            if not left:
                continue
            manifests = write_manifests(pool, target, work)
            recipes = []
            for name in left:
                out = work / f"{name}-{target}-{seed}".replace(" ", "")
                recipes.append((recipe_of(name, target, seed, manifests), out))
            runs = distill_recipes(recipes, skip_bad=False, overwrite=False, resume=True)
            results.parent.mkdir(parents=True, exist_ok=True)
            with results.open("a", encoding="utf-8") as file:
                for name, run in zip(left, runs, strict=True):
                    line = line_of(name, read_record(run))
                    file.write(json.dumps(line, sort_keys=True) + "\n")
                    shares = f"OOD {100 * line['ood']:.1f}, ID {100 * line['id']:.1f}"
                    print(f"{name}, {target}, seed {seed}: {shares}", flush=True)


if __name__ == "__main__":
    main()
