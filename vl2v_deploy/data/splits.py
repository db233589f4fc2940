"""Train, val and test: by seed, stratified by domain and class, groups kept together; or as DomainBed."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vl2v_deploy.errors import DataError
from vl2v_deploy.names import composed, shown
from vl2v_deploy.recipe import SplitRecipe

Split = Literal["train", "val", "test"]
SIDE_OF_FOLDER: Mapping[str, Split] = {  # what folders and files of a side are called
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Groups:
    """A groups file: image -> group, and group -> split where the file fixes it."""

    group: Mapping[str, str]
    split: Mapping[str, Split] | None


def read_groups(path: Path, images: Sequence[str]) -> Groups:
    """The groups of `images`, from a CSV with columns image,group and optionally split.

    images: paths relative to the data root, with forward slashes, in Unicode's composed form; the file may
            have them in any form

    Raises DataError for a missing file or column, an image without a group, or a group on two sides.
    """
    try:
        # names of files may hold any bytes
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"data.split.groups: {path}: cannot be read: {error}") from error
    if not rows or not {"image", "group"} <= rows[0].keys():
        raise DataError(f"data.split.groups: {path}: expected a header with the columns image,group[,split]")
    group: dict[str, str] = {}
    for row in rows:
        if group.setdefault(composed(row["image"] or ""), row["group"]) != row["group"]:
            raise DataError(f"data.split.groups: {path}: {shown(row['image'])} is in two groups")
    missing = [name for name in images if not group.get(name)]
    if missing:
        raise DataError(
            f"data.split.groups: {path}: {len(missing)} image(s) have no group, the first is "
            f"{shown(missing[0])}"
        )
    return Groups(group, _fixed_splits(path, rows) if "split" in rows[0] else None)


def assign_splits(
    images: Sequence[str],
    strata: Sequence[tuple[str, str]],
    groups: Groups | None,
    recipe: SplitRecipe,
    contents: Sequence[str] | None = None,
) -> list[Split]:
    """The side of each image; the same for the same names and seed, on every machine and in any order.

    images: N names
    strata: N pairs (domain, class); the shares hold within each pair, or with groups that span domains,
            within each class
    contents: N; images of one content are on one side, and so are their groups, unless the groups file fixes
            the sides; None = contents do not matter
    """
    if groups is not None and groups.split is not None:
        return [groups.split[groups.group[name]] for name in images]
    unit_of = {name: groups.group[name] if groups else name for name in images}
    if contents is not None:
        unit_of = _joined(unit_of, dict(zip(images, contents, strict=True)))
    domains_of: dict[str, set[str]] = defaultdict(set)
    label_of: dict[str, str] = {}
    for name, (domain, label) in zip(images, strata, strict=True):
        domains_of[unit_of[name]].add(domain)
        label_of.setdefault(unit_of[name], label)  # a group that spans classes counts in its first one
    units: dict[tuple[frozenset[str], str], set[str]] = defaultdict(set)
    for unit, label in label_of.items():
        units[frozenset(domains_of[unit]), label].add(unit)
    side: dict[str, Split] = {}
    for members in units.values():
        side.update(_divide(members, recipe))
    return [side[unit_of[name]] for name in images]


def domainbed_splits(images: int, domain: int, recipe: SplitRecipe) -> list[Split]:
    """The side of each image of one domain: DomainBed's `out` is "val", its `in` is "train".

    Source: DomainBed, split_dataset and seed_hash; the same images on the same sides as there.

    images: how many the domain has, in the order of torchvision's ImageFolder
    domain: the domain's place, counted from 0, among the sorted domains
    recipe: seed = DomainBed's trial seed, val = its holdout fraction
    """
    name = str((recipe.seed, domain)).encode()
    seed = int(hashlib.md5(name, usedforsecurity=False).hexdigest(), 16) % 2**31
    order = list(range(images))
    np.random.RandomState(seed).shuffle(order)
    side: list[Split] = ["train"] * images
    for image in order[: int(images * recipe.val)]:
        side[image] = "val"
    return side


def _joined(unit_of: Mapping[str, str], content_of: Mapping[str, str]) -> dict[str, str]:
    """The unit of each image, where units with a content in common are one: the first of them by name."""
    parent: dict[str, str] = {}

    def root(unit: str) -> str:
        while (above := parent.get(unit, unit)) != unit:
            parent[unit] = parent.get(above, above)
            unit = above
        return unit

    first: dict[str, str] = {}
    for name, content in content_of.items():
        one, other = root(unit_of[name]), root(first.setdefault(content, unit_of[name]))
        if one != other:
            parent[max(one, other)] = min(one, other)
    return {name: root(unit) for name, unit in unit_of.items()}


def _divide(names: Collection[str], recipe: SplitRecipe) -> dict[str, Split]:
    """Sides for names, by the order of their seeded hashes: adding an image moves few others."""

    def seeded(name: str) -> bytes:
        return hashlib.sha256(f"{recipe.seed}\0{name}".encode("utf-8", "surrogateescape")).digest()

    ordered = sorted(names, key=seeded)
    n = len(ordered)
    # With three images or more, each side gets at least one.
    test = max(round(n * recipe.test), 1 if n >= 3 else 0)
    val = max(round(n * recipe.val), 1 if n >= 3 else 0)
    side: dict[str, Split] = dict.fromkeys(ordered, "train")
    side.update(dict.fromkeys(ordered[:test], "test"))
    side.update(dict.fromkeys(ordered[test : test + val], "val"))
    return side


def _fixed_splits(path: Path, rows: Sequence[Mapping[str, str]]) -> dict[str, Split]:
    fixed: dict[str, Split] = {}
    for row in rows:
        name, side = row["group"], row["split"]
        if side not in get_args(Split):
            raise DataError(f"data.split.groups: {path}: split {side!r}: expected train, val or test")
        if fixed.setdefault(name, side) != side:  # type: ignore[arg-type]
            raise DataError(f"data.split.groups: {path}: group {name!r} stands on two sides")
    return fixed
