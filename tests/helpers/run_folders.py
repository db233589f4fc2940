"""Finished runs written by hand: what tables and figures read, with numbers that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vl2v_deploy.recipe import dump_recipe, recipe_from_tree, recipe_sha256

CLASSES = ("cat", "dog & co_1")  # a name that LaTeX would trip over
DOMAINS = ("ink", "paint", "photo")
SWAD = {
    "kind": "swad",
    "converged": True,
    "dead": False,
    "start_step": 4,
    "end_step": 7,
    "averaged_steps": 4,
    "threshold": 1.3,
    "segments": [],
}


def stages(**averaging: Mapping[str, Any]) -> dict[str, Any]:
    """The record's report of stages, from how each averaged its weights."""
    return {
        "stages": {
            name: {"steps": 8, "seconds": 1.0, "steps_per_s": 8.0, "averaging": dict(report)}
            for name, report in averaging.items()
        }
    }


def record_tree(
    *,
    method: str = "adip",
    target: str = "photo",
    domains: Sequence[str] = DOMAINS,
    classes: Sequence[str] = CLASSES,
    trial: int = 0,
    ood: float = 0.5,
    per_class: Mapping[str, float | None] | None = None,
    source: float = 0.75,
    macro_f1: float = 0.5,
    ece: float = 0.25,
    split: str = "in",
    oracle: bool = False,
) -> dict[str, Any]:
    """The content of run.json; accuracies in [0, 1].

    ood:       accuracy of the student on the target
    per_class: the same of each class
    source:    accuracy of the student on the other domains
    """
    of_class = per_class or dict.fromkeys(classes, ood)

    def measured(domain: str) -> dict[str, Any]:
        is_target = domain == target
        return {
            "split": split if is_target else "out",
            "images": 80 if is_target else 20,
            "accuracy": ood if is_target else source,
            "macro_f1": macro_f1,
            "ece": ece,
            "per_class": {
                name: {"images": 10, "accuracy": of_class[name] if is_target else source} for name in classes
            },
        }

    return {
        "format": 2,
        "method": method,
        "seed": trial,
        "trial": trial,
        "recipe_sha256": 64 * "0",
        "classes": list(classes),
        "logit_scale": 100.0,
        "embedding_dim": 512,
        "selection": "oracle (target)" if oracle else "source_val",
        "stages": {},
        "data": {
            "fingerprint": f"split {trial}",
            "images": {domain: {"train": 80, "val": 20, "test": 0} for domain in domains},
            "evaluated": {domain: 80 if domain == target else 20 for domain in domains},
            "skipped": [],
        },
        "teacher": {"identity": "ViT-B-16@1", "images": 120, "views": 0, "queries": 0},
        "processes": 1,
        "seconds": {"evaluate": 1.0},
        "versions": {"python": "3.11.0"},
        "accuracy": {
            "target": target,
            "student": {domain: ood if domain == target else source for domain in domains},
            "teacher": dict.fromkeys(domains, 0.6),
            "linear_probe": dict.fromkeys(domains, 0.4),
            "student_source_val": source - 0.05,
        },
        "metrics": {domain: measured(domain) for domain in domains},
        "linear_probe_weight_decay": 1e-3,
        "protocol": {"name": "default", "settings": {}},
    }


def write_run(
    folder: Path,
    *,
    method: str = "adip",
    target: str = "photo",
    trial: int = 0,
    data_root: str = "pictures/pacs",
    teacher: str = "ViT-B-16",
    settings: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    metrics: str | None = None,
    **measured: Any,
) -> Path:
    """run.json and recipe.yaml of one run in `folder`.

    settings: recipe fields by dotted name
    record:   keys of run.json to replace; a mapping replaces only the keys that it has
    metrics:  text of metrics.jsonl
    measured: what else `record_tree` takes
    """
    tree: dict[str, Any] = {
        "method": method,
        "data": {"root": data_root, "target": target, "split": {"protocol": "domainbed", "seed": trial}},
        "teacher": {"model": teacher, "pretrained": "openai"},
        "student": {"backbone": "teacher" if method == "self_distill" else "vit_small_patch16_224"},
        "seed": trial,
    }
    for name, value in (settings or {}).items():
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    recipe = recipe_from_tree(tree, source="test")
    whole = record_tree(method=method, target=target, trial=trial, **measured)
    whole["recipe_sha256"] = recipe_sha256(recipe)
    for key, value in (record or {}).items():
        whole[key] = whole.get(key, {}) | value if isinstance(value, dict) else value
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(whole), encoding="utf-8")
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    if metrics is not None:
        (folder / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    return folder
