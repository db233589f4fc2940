"""`protocol: authors`: the settings in which the public code of VL2V-ADiP departs from our defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vl2v_deploy.recipe.inputs import TEACHER_TOWER

ProtocolName = Literal["default", "authors", "mixed"]


def authors_settings(backbone: str) -> dict[str, Any]:
    """What the authors' scripts do, by the dotted name of each recipe field.

    backbone: the student's; their scripts of ViT-B/16 differ from those of the other students

    >>> authors_settings("resnet50")["align.hand_over_from"]
    100
    """
    vit_base = backbone.startswith("vit_base")
    return {
        "normalization": "faithful",
        "validation_mean": "domains",
        "teacher_views": "online",
        **({"student.projection": "trained"} if backbone == TEACHER_TOWER else {}),
        "align.evaluate_from_first_step": True,
        "align.averaging": "swad",
        "align.swad.variant": "authors",
        "align.swad.segments": "cumulative",
        "align.hand_over": "checkpoint",
        "align.hand_over_from": 1000 if vit_base else 100,
        "distill.evaluate_from_first_step": True,
        "distill.averaging": "swad",
        "distill.swad.variant": "authors",
        "distill.swad.segments": "since_evaluation" if vit_base else "cumulative",
    }


def with_protocol(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe's tree, with the authors' settings where it asks for them and sets nothing else itself."""
    if tree.get("protocol") != "authors":
        return tree
    student = tree.get("student")
    backbone = student.get("backbone") if isinstance(student, dict) else None
    settings: dict[str, Any] = {}
    for field, value in authors_settings(str(backbone)).items():
        *sections, name = field.split(".")
        node = settings
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return merged(settings, tree)


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, `changes` in place of what `tree` has under the same keys."""
    result = dict(tree)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
