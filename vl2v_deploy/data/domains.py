"""Domains on disk: root/domain/class/image, found, checked and split before anything is trained."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from vl2v_deploy.data.content import read_contents
from vl2v_deploy.data.emojidg import GROUPS, emojidg_root
from vl2v_deploy.data.prompts import class_words
from vl2v_deploy.data.splits import Split, assign_splits, domainbed_splits, read_groups
from vl2v_deploy.errors import BadImagesError, DataError
from vl2v_deploy.recipe import BUILTIN_DATA, DataRecipe, SplitRecipe

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# torchvision's ImageFolder takes these; DomainBed's splits count no other file
DOMAINBED_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

Measured = Literal["test", "out", "in", "all"]  # which images of a domain accuracy is measured on


class Found(NamedTuple):
    """An image file, not yet known to decode; label: index of its class."""

    path: Path
    domain: str
    label: int


@dataclass(frozen=True)
class Sample:
    """One image file.

    label:  index of its class in DomainSet.classes
    group:  images of one group are on one side of every split; the path itself where no group was given
    split:  with DomainBed's protocol "train" is its `in`, "val" its `out`
    sha256: of the file's bytes, hexadecimal
    """

    path: Path
    domain: str
    label: int
    group: str
    split: Split
    sha256: str


@dataclass(frozen=True)
class DomainSet:
    """Every usable image of a data folder.

    classes:  K folder names, in the order of the logits
    samples:  sorted by domain, class, file name
    skipped:  images left out because they do not decode, relative to root
    protocol: of the split
    """

    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    skipped: tuple[str, ...]
    protocol: Literal["seeded", "domainbed"]

    @cached_property
    def groups_span_domains(self) -> bool:
        """Whether some group has images in more than one domain, as one emoji in several styles."""
        domains: dict[str, set[str]] = {}
        for sample in self.samples:
            domains.setdefault(sample.group, set()).add(sample.domain)
        return any(len(names) > 1 for names in domains.values())

    def select(self, domains: Collection[str], split: Split) -> tuple[Sample, ...]:
        """The samples of these domains on one side of the split."""
        return tuple(s for s in self.samples if s.domain in domains and s.split == split)

    def sources(self, target: str) -> tuple[str, ...]:
        """Every domain but the target."""
        return tuple(domain for domain in self.domains if domain != target)


def load_domains(data: DataRecipe, *, skip_bad: bool = False) -> DomainSet:
    """The images that a recipe names, each decoded once to prove that it can be, and split.

    DomainBed's split is made over every image file found and only then loses those that do not decode: the
    others stay on the sides where DomainBed has them. It is DomainBed's own for all of a set's classes.

    skip_bad: go on without the images that do not decode; they are listed in `skipped`

    Raises DataError for a folder that is not root/domain/class/image, or where a class is missing or empty
    in a domain; BadImagesError listing every image that does not decode.
    """
    root, domains, classes = _layout(data)
    domainbed = data.split.protocol == "domainbed"
    found = [
        Found(path, domain, label)
        for domain in domains
        for path, label in _images(
            root / domain, classes, DOMAINBED_SUFFIXES if domainbed else IMAGE_SUFFIXES
        )
    ]
    contents = dict(zip(found, read_contents([image.path for image in found]), strict=True))
    bad = [(str(image.path), content.problem) for image, content in contents.items() if content.problem]
    if bad and not skip_bad:
        raise BadImagesError(bad)
    usable = [image for image, content in contents.items() if not content.problem]
    _require_every_class(root, domains, classes, usable)
    if domainbed:
        sides = _domainbed_sides(found, classes, data.split)
        groups = {image: _name(image, root) for image in usable}
    else:
        sides, groups = _seeded_sides(root, usable, classes, data)
    samples = tuple(
        Sample(image.path, image.domain, image.label, groups[image], sides[image], contents[image].sha256)
        for image in usable
    )
    skipped = tuple(Path(path).relative_to(root).as_posix() for path, _ in bad)
    domain_set = DomainSet(root, domains, classes, samples, skipped, data.split.protocol)
    _require_every_split(domain_set, data.target)
    return domain_set


def _layout(data: DataRecipe) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    """Root, domains and classes of the folder; raises whatever is wrong before any image is read."""
    builtin = data.root == BUILTIN_DATA
    if builtin and data.split.protocol == "domainbed":
        raise DataError(
            f"data.split: domainbed: {BUILTIN_DATA} shows each emoji in every domain, and DomainBed's splits "
            "would put one emoji on both sides; use protocol: seeded"
        )
    root = emojidg_root() if builtin else Path(data.root)
    domains = _domain_names(root)
    if data.target != "each" and data.target not in domains:
        raise DataError(f"data.target: {root} has no domain {data.target!r}; it has: {', '.join(domains)}")
    classes = _class_names(root, domains, data.classes)
    class_words(data, classes)  # raises for the name of a class that is not there
    return root, domains, classes


def relocated(data: DataRecipe, root: Path | None) -> DataRecipe:
    """The data section with its images under another root; a groups file inside the old one moves along."""
    if root is None:
        return data
    new_root = root.expanduser().resolve()
    split = data.split
    if split.groups and Path(split.groups).is_relative_to(data.root):
        moved = new_root / Path(split.groups).relative_to(data.root)
        split = split.model_copy(update={"groups": str(moved)})
    return data.model_copy(update={"root": str(new_root), "split": split})


def evaluated_split(domain_set: DomainSet, domain: str, target: str) -> Measured:
    """Which images of a domain accuracy is measured on, as a report calls them.

    DomainBed's protocol: `out` of a source domain (ID), `in` of the target (OOD). Else the test split, but
    "all" of the target where no group spans domains, as none of its images was trained on; where groups do,
    the target's other groups are among the sources' training images.
    """
    if domain_set.protocol == "domainbed":
        return "in" if domain == target else "out"
    return "all" if domain == target and not domain_set.groups_span_domains else "test"


def evaluation_samples(domain_set: DomainSet, domain: str, target: str) -> tuple[Sample, ...]:
    """The images on which accuracy in `domain` is measured; `evaluated_split` names them."""
    match evaluated_split(domain_set, domain, target):
        case "all":
            return tuple(s for s in domain_set.samples if s.domain == domain)
        case "in":
            return domain_set.select({domain}, "train")
        case "out":
            return domain_set.select({domain}, "val")
        case "test":
            return domain_set.select({domain}, "test")


def oracle_samples(domain_set: DomainSet, target: str) -> tuple[Sample, ...]:
    """The target's val split, on which an oracle selects its weights; no honest result may.

    Raises DataError when there is none.
    """
    samples = domain_set.select({target}, "val")
    if not samples:
        raise DataError(f"{domain_set.root / target}: the split leaves no val image for an oracle selection")
    return samples


def spread(samples: Sequence[Sample], most: int | None) -> tuple[Sample, ...]:
    """At most `most` samples, evenly spread: sorted by domain and class, so every one keeps its share.

    most: None = all
    """
    if most is None or most >= len(samples):
        return tuple(samples)
    return tuple(samples[i * len(samples) // most] for i in range(most))


def data_fingerprint(domain_set: DomainSet) -> str:
    """SHA-256 over every image's relative path, split and bytes: same value, same data."""
    digest = hashlib.sha256()
    for sample in domain_set.samples:
        line = f"{sample.path.relative_to(domain_set.root).as_posix()}\t{sample.split}\t{sample.sha256}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _domain_names(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise DataError(f"data.root: {root}: no such folder")
    names = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        raise DataError(
            f"data.root: {root} holds {len(names)} domain folder(s); expected at least two: "
            "one or more sources and a target, as root/domain/class/image"
        )
    return names


def _class_names(root: Path, domains: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    by_domain = {
        domain: {p.name for p in (root / domain).iterdir() if p.is_dir() and not p.name.startswith(".")}
        for domain in domains
    }
    classes = tuple(wanted) if wanted else tuple(sorted(set().union(*by_domain.values())))
    if len(set(classes)) != len(classes):
        raise DataError("data.classes: a class is named twice")
    if len(classes) < 2:
        raise DataError(f"data.root: {root}: expected at least two class folders in each domain")
    problems = [
        f"{root / domain}: class folder {name!r} is missing"
        for domain in domains
        for name in classes
        if name not in by_domain[domain]
    ]
    if problems:
        raise DataError(
            "\n".join(problems) + "\nEvery domain needs every class; to use fewer, list them in data.classes"
        )
    return classes


def _images(domain: Path, classes: Sequence[str], suffixes: tuple[str, ...]) -> Iterator[tuple[Path, int]]:
    """Files and labels; within a class in the order of torchvision's ImageFolder."""
    for label, name in enumerate(classes):
        for folder, _, files in sorted(os.walk(domain / name, onerror=_refuse, followlinks=True)):
            for file in sorted(files):
                if file.lower().endswith(suffixes):
                    yield Path(folder, file), label


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _name(image: Found, root: Path) -> str:
    return image.path.relative_to(root).as_posix()


def _domainbed_sides(
    found: Sequence[Found], classes: Sequence[str], split: SplitRecipe
) -> dict[Found, Split]:
    sides: dict[Found, Split] = {}
    for place, (_, images) in enumerate(groupby(found, key=lambda image: image.domain)):
        # ImageFolder sorts class folders; the recipe may have its classes in another order.
        ordered = sorted(images, key=lambda image: classes[image.label])
        sides.update(zip(ordered, domainbed_splits(len(ordered), place, split), strict=True))
    return sides


def _seeded_sides(
    root: Path, usable: Sequence[Found], classes: Sequence[str], data: DataRecipe
) -> tuple[dict[Found, Split], dict[Found, str]]:
    """Side and group of each image."""
    file = root / GROUPS if data.root == BUILTIN_DATA else data.split.groups
    names = [_name(image, root) for image in usable]
    groups = read_groups(Path(file), names) if file else None
    strata = [(image.domain, classes[image.label]) for image in usable]
    sides = assign_splits(names, strata, groups, data.split)
    group_of = groups.group if groups else {name: name for name in names}
    return dict(zip(usable, sides, strict=True)), {
        image: group_of[name] for image, name in zip(usable, names, strict=True)
    }


def _require_every_class(
    root: Path, domains: Sequence[str], classes: Sequence[str], found: Sequence[Found]
) -> None:
    have = {(image.domain, image.label) for image in found}
    empty = [
        f"{root / domain / name}: holds no usable image"
        for domain in domains
        for label, name in enumerate(classes)
        if (domain, label) not in have
    ]
    if empty:
        raise DataError("\n".join(empty))


def _require_every_split(domain_set: DomainSet, target: str) -> None:
    """DataError when a split that a run needs is empty: any of a source, the measured one of the target."""
    domainbed = domain_set.protocol == "domainbed"
    of_source: tuple[Split, ...] = ("train", "val") if domainbed else ("train", "val", "test")
    of_target: tuple[Split, ...] = ("train",) if domainbed else ()
    if domain_set.groups_span_domains:
        of_target = ("test",)
    for domain in domain_set.domains:
        for split in of_target if domain == target else of_source:
            if not domain_set.select({domain}, split):
                raise DataError(
                    f"{domain_set.root / domain}: the split leaves no {split} image: too few images"
                )
