"""What makes two recipes of one method the same run: the hash of their settings, and where they differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vl2v_deploy.recipe.methods import METHODS, RISE_SECTION, STAGES
from vl2v_deploy.recipe.whole import Recipe, methods_of

# Fields that came after the first release: section ("" = the recipe itself), name, what runs did before.
_LATER_FIELDS: tuple[tuple[str, str, Any], ...] = (
    ("", "validation_mean", "images"),
    ("student", "projection", "frozen"),
    ("align", "hand_over", "averaged"),
    ("align", "hand_over_from", 0),
    *((stage, "evaluate_from_first_step", False) for stage in STAGES),
    *((f"{stage}.swad", "variant", "algorithm") for stage in STAGES),
    *((f"{stage}.swad", "segments", "since_evaluation") for stage in STAGES),
    ("", "missing_embeddings", "buy"),
    ("", "teacher_labels", None),
    *((stage, "schedule", "constant") for stage in STAGES),
    *((stage, "warmup", 0) for stage in STAGES),
    *((stage, "patience", None) for stage in STAGES),
    *((stage, "unlabelled_per_step", 0) for stage in STAGES),
    ("distill", "frozen", []),
    ("data", "unlabelled", []),
    ("data", "manifest", None),
    ("data.split", "duplicates", "allow"),
)

# Of a vendor: how fast, in what requests and for how much it is asked. A run goes on after its budget was
# raised or its price was corrected.
_OF_THE_PURCHASE = {
    *("budget", "concurrency", "timeout_s", "requests_per_minute", "images_per_minute"),
    *("key_env", "online", "batch_size", "usd_per_1k_images", "usd_per_1k_texts"),
}


def recipe_sha256(recipe: Recipe) -> str:
    """SHA-256 of the resolved recipe, hexadecimal; the same for the same settings however written."""
    canonical = json.dumps(_hashed(recipe), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def changed_settings(was: Recipe, now: Recipe) -> dict[str, tuple[Any, Any]]:
    """The fields in which two recipes of different hashes differ, by dotted name: what each of them has.

    None stands for a field that a recipe does not have, such as one of another kind of teacher.
    """
    hashed = [flattened(_hashed(recipe)) for recipe in (was, now)]
    whole = [flattened(recipe.model_dump(mode="json")) for recipe in (was, now)]
    fields = dict.fromkeys([*hashed[0], *hashed[1]])
    absent = object()  # a default that the hash leaves out
    return {
        field: (whole[0].get(field), whole[1].get(field))
        for field in fields
        if hashed[0].get(field, absent) != hashed[1].get(field, absent)
    }


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of nested sections by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        # class_names and per_class are mappings by class: one setting, not one per class
        if isinstance(value, dict) and key not in ("class_names", "per_class"):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _hashed(recipe: Recipe) -> dict[str, Any]:
    """The settings that the hash is of."""
    # The protocol is told by the settings that it stands for.
    tree = recipe.model_dump(mode="json", exclude={"label", "protocol"})
    if not any(METHODS[name].own_texts for name in methods_of(recipe)):
        del tree[RISE_SECTION]
    # Runs that are older than a field keep their hash: its default says what they did.
    if tree["teacher"]["kind"] == "open_clip":
        del tree["teacher"]["kind"]
    if tree["teacher"].get("trust_remote_code") is False:
        del tree["teacher"]["trust_remote_code"]
    if tree["teacher"].get("kind") == "http":
        tree["teacher"] = {k: v for k, v in tree["teacher"].items() if k not in _OF_THE_PURCHASE}
    if not (tree["data"]["unlabelled"] and tree["data"]["unlabelled_held_out"]):
        del tree["data"]["unlabelled_held_out"]
    for section, field, default in _LATER_FIELDS:
        part = tree
        for name in filter(None, section.split(".")):
            part = part[name]
        if part[field] == default:
            del part[field]
    return tree
