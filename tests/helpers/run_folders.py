"""Finished runs written by hand: what tables and figures read, with numbers that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vl2v_deploy.recipe import dump_recipe, recipe_from_tree, recipe_sha256

CLASSES = ("cat", "dog & co_1")  # a name that LaTeX would trip over
DOMAINS = ("ink", "paint", "photo")


def write_run(
    folder: Path,
    *,
    method: str = "adip",
    target: str = "photo",
    trial: int = 0,
    ood: float = 0.5,
    per_class: Mapping[str, float | None] | None = None,
    source: float = 0.75,
    macro_f1: float = 0.5,
    ece: float = 0.25,
    split: str = "in",
    data_root: str = "pictures/pacs",
    teacher: str = "ViT-B-16",
    oracle: bool = False,
    settings: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    metrics: str | None = None,
) -> Path:
    """run.json and recipe.yaml of one run in `folder`; accuracies in [0, 1].

    settings: recipe fields by dotted name
    record:   keys of run.json to replace
    metrics:  text of metrics.jsonl
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
    of_class = per_class or dict.fromkeys(CLASSES, ood)

    def measured(domain: str) -> dict[str, Any]:
        is_target = domain == target
        return {
            "split": split if is_target else "out",
            "images": 80 if is_target else 20,
            "accuracy": ood if is_target else source,
            "macro_f1": macro_f1,
            "ece": ece,
            "per_class": {
                name: {"images": 10, "accuracy": of_class[name] if is_target else source} for name in CLASSES
            },
        }

    whole = {
        "format": 2,
        "method": method,
        "seed": trial,
        "trial": trial,
        "recipe_sha256": recipe_sha256(recipe),
        "classes": list(CLASSES),
        "accuracy": {
            "target": target,
            "student": {domain: ood if domain == target else source for domain in DOMAINS},
            "teacher": dict.fromkeys(DOMAINS, 0.6),
            "student_source_val": source - 0.05,
        },
        "metrics": {domain: measured(domain) for domain in DOMAINS},
        "selection": "oracle (target)" if oracle else "source_val",
        "stages": {},
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(whole | dict(record or {})), encoding="utf-8")
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    if metrics is not None:
        (folder / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    return folder
