"""Images on disk, by domain and class: found, checked and split before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from vl2v_deploy.data.content import Content, read_contents
from vl2v_deploy.data.copies import images_with_copies, leaking_samples, two_label_problems
from vl2v_deploy.data.domain_set import (
    DomainSet,
    ExactCopies,
    Measured,
    Sample,
    data_fingerprint,
    evaluated_split,
    evaluation_samples,
    oracle_samples,
    spread,
    validation_weights,
)
from vl2v_deploy.data.emojidg import GROUPS
from vl2v_deploy.data.layout import Found, Layout, find_images, find_layout
from vl2v_deploy.data.manifest_file import unknown_columns_notice
from vl2v_deploy.data.splits import Groups, Split, assign_splits, domainbed_splits, read_groups
from vl2v_deploy.errors import BadImagesError, DataError
from vl2v_deploy.names import listed, shown
from vl2v_deploy.recipe import BUILTIN_DATA, DataRecipe, SplitRecipe

__all__ = [
    "DomainSet",
    "Measured",
    "Sample",
    "data_fingerprint",
    "evaluated_split",
    "evaluation_samples",
    "load_domains",
    "oracle_samples",
    "relocated",
    "spread",
    "validation_weights",
]


def load_domains(data: DataRecipe, *, skip_bad: bool = False) -> DomainSet:
    """The images that a recipe names, each decoded once to prove that it can be used, and split.

    Images with the same bytes are on one side of the split. An image of a source domain that is the same as
    one that accuracy is measured on is left out, so is a training image that is the same as a val image; with
    `target: each` this is done for each target by itself.

    DomainBed's split is made over every image file found and only then loses those that cannot be used: the
    others stay on the sides where DomainBed has them. It is DomainBed's own for all of a set's classes.

    skip_bad: go on without the images that cannot be used; they are listed in `skipped`

    Raises DataError for a folder that is neither root/domain/class/image nor, with `target: none`,
    root/class/image, or where a class folder holds no usable image; BadImagesError listing every image that
    cannot be used, or whose copy is of another class.
    """
    layout = find_layout(data)
    found, unused = find_images(layout, data)
    read = dict(zip(found, read_contents([image.path for image in found]), strict=True))
    allowed = data.split.duplicates == "allow"
    two_labels = two_label_problems(read, layout)
    problems = {image.path: content.problem for image, content in read.items() if content.problem}
    problems |= {} if allowed else two_labels
    if problems and not skip_bad:
        raise BadImagesError([(shown(path), problem) for path, problem in problems.items()])
    usable = [image for image in found if image.path not in problems]
    _require_every_class(layout, usable)
    domain_set = DomainSet(
        layout.root,
        layout.domains,
        layout.classes,
        _samples(layout, found, usable, read, data),
        tuple(_shown_name(path, layout) for path in problems),
        data.split.protocol,
        tuple(_shown_name(path, layout) for path in unused),
        notes=unknown_columns_notice(layout.manifest) if layout.manifest else (),
        listed=layout.manifest is not None,
    )
    leaking = leaking_samples(domain_set, data.target)
    copies = ExactCopies(
        images_with_copies(read),
        tuple(_shown_name(path, layout) for path in two_labels),
        tuple(shown(domain_set.name(sample)) for sample in leaking),
        allowed,
    )
    domain_set = replace(domain_set, copies=copies)
    if leaking and not allowed:
        out = set(leaking)
        kept = tuple(sample for sample in domain_set.samples if sample not in out)
        domain_set = replace(domain_set, samples=kept, left_out=leaking)
    _require_every_split(domain_set, data.target)
    return domain_set


def relocated(data: DataRecipe, root: Path | None) -> DataRecipe:
    """The data section with its images under another root; a groups file or manifest inside the old one moves
    along.
    """
    if root is None:
        return data
    new_root = root.expanduser().resolve()
    split = data.split
    if split.groups and Path(split.groups).is_relative_to(data.root):
        moved = new_root / Path(split.groups).relative_to(data.root)
        split = split.model_copy(update={"groups": str(moved)})
    manifest = data.manifest
    if manifest and Path(manifest).is_relative_to(data.root):
        manifest = str(new_root / Path(manifest).relative_to(data.root))
    return data.model_copy(update={"root": str(new_root), "split": split, "manifest": manifest})


def _samples(
    layout: Layout,
    found: Sequence[Found],
    usable: Sequence[Found],
    read: Mapping[Found, Content],
    data: DataRecipe,
) -> tuple[Sample, ...]:
    if data.split.protocol == "domainbed":
        sides = _domainbed_sides(found, layout, data.split)
        groups = {image: layout.name(image.path) for image in usable}
    else:
        sides, groups = _seeded_sides(layout, usable, read, data)
    return tuple(
        Sample(image.path, image.domain, image.label, groups[image], sides[image], read[image].sha256)
        for image in usable
    )


def _domainbed_sides(found: Sequence[Found], layout: Layout, split: SplitRecipe) -> dict[Found, Split]:
    sides: dict[Found, Split] = {}
    for place, (_, images) in enumerate(groupby(found, key=lambda image: image.domain)):
        # ImageFolder sorts class folders; the recipe may have its classes in another order.
        ordered = sorted(images, key=lambda image: layout.folders[image.domain, image.label].name)
        sides.update(zip(ordered, domainbed_splits(len(ordered), place, split), strict=True))
    return sides


def _seeded_sides(
    layout: Layout, usable: Sequence[Found], read: Mapping[Found, Content], data: DataRecipe
) -> tuple[dict[Found, Split], dict[Found, str]]:
    """Side and group of each image."""
    file = layout.root / GROUPS if data.root == BUILTIN_DATA else data.split.groups
    names = [layout.name(image.path) for image in usable]
    groups = read_groups(Path(file), names) if file else _listed_groups(usable, names)
    strata = [(image.domain, layout.classes[image.label]) for image in usable]
    joined = data.split.duplicates == "one_side"
    contents = [read[image].sha256 for image in usable] if joined else None
    sides = assign_splits(names, strata, groups, data.split, contents)
    group_of = groups.group if groups else {name: name for name in names}
    return dict(zip(usable, sides, strict=True)), {
        image: group_of[name] for image, name in zip(usable, names, strict=True)
    }


def _listed_groups(images: Sequence[Found], names: Sequence[str]) -> Groups | None:
    """What a manifest says of groups and splits; an image without a group is one by itself."""
    if not any(image.group or image.split for image in images):
        return None
    group = {name: image.group or name for image, name in zip(images, names, strict=True)}
    split = {group[name]: image.split for image, name in zip(images, names, strict=True) if image.split}
    return Groups(group, split or None)


def _shown_name(path: Path, layout: Layout) -> str:
    return shown(layout.name(path))


def _require_every_class(layout: Layout, found: Sequence[Found]) -> None:
    have = {(image.domain, image.label) for image in found}
    empty = [f"{folder}: holds no usable image" for of, folder in layout.folders.items() if of not in have]
    if empty:
        raise DataError("\n".join(empty) + "\ndata.classes (init: --class NAME for each) says which are used")


def _require_every_split(domain_set: DomainSet, target: str) -> None:
    """DataError when a split that a run needs is empty: any of a source, the measured one of the target."""
    domainbed = domain_set.protocol == "domainbed"
    of_source: tuple[Split, ...] = ("train", "val") if domainbed else ("train", "val", "test")
    of_target: tuple[Split, ...] = ("train",) if domainbed else ()
    if domain_set.groups_span_domains:
        of_target = ("test",)
    for domain in domain_set.domains:
        for split in of_target if domain == target else of_source:
            if domain_set.select({domain}, split):
                continue
            left_out = [s.path for s in domain_set.left_out if s.domain == domain and s.split == split]
            why = "too few images"
            if left_out:
                why = (
                    f"{len(left_out)} are left out as copies of held-out images ({listed(left_out)}); remove "
                    "the copies, or leave the domain out"
                )
            raise DataError(f"{domain_set.root / domain}: the split leaves no {split} image: {why}")
