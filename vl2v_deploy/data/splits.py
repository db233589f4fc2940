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
from vl2v_deploy.recipe import SplitRecipe

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Groups:
    """A groups file: image -> group, and group -> split where the file fixes it."""

    group: Mapping[str, str]
    split: Mapping[str, Split] | None


def read_groups(path: Path, images: Sequence[str]) -> Groups:
    """The groups of `images`, from a CSV with columns image,group and optionally split.

    images: paths relative to the data root, with forward slashes

    Raises DataError for a missing file or column, an image without a group, or a group on two sides.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.split.groups: {path}: cannot be read: {error}") from error
    if not rows or not {"image", "group"} <= rows[0].keys():
        raise DataError(f"data.split.groups: {path}: expected a header with the columns image,group[,split]")
    group: dict[str, str] = {}
    for row in rows:
        if group.setdefault(row["image"], row["group"]) != row["group"]:
            raise DataError(f"data.split.groups: {path}: {row['image']} is in two groups")
    missing = [name for name in images if not group.get(name)]
    if missing:
        raise DataError(
            f"data.split.groups: {path}: {len(missing)} image(s) have no group, the first is {missing[0]}"
        )
    return Groups(group, _fixed_splits(path, rows) if "split" in rows[0] else None)


def assign_splits(
    images: Sequence[str],
    strata: Sequence[tuple[str, str]],
    groups: Groups | None,
    recipe: SplitRecipe,
) -> list[Split]:
    """The side of each image; the same for the same names and seed, on every machine and in any order.

    images: N names
    strata: N pairs (domain, class); the shares hold within each pair, or with groups that span domains,
            within each class
    """
    if groups is not None and groups.split is not None:
        return [groups.split[groups.group[name]] for name in images]
    unit_of = {name: groups.group[name] if groups else name for name in images}
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


def _divide(names: Collection[str], recipe: SplitRecipe) -> dict[str, Split]:
    """Sides for names, by the order of their seeded hashes: adding an image moves few others."""

    def seeded(name: str) -> bytes:
        return hashlib.sha256(f"{recipe.seed}\0{name}".encode()).digest()

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
