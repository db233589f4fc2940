"""Domains on disk: root/domain/class/image, found, checked and split before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.progress import track

from vl2v_deploy.client.preprocess import open_image
from vl2v_deploy.data.emojidg import GROUPS, emojidg_root
from vl2v_deploy.data.splits import Split, assign_splits, read_groups
from vl2v_deploy.errors import BadImagesError, DataError, ImageError, did_you_mean
from vl2v_deploy.recipe import BUILTIN_DATA, DataRecipe

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True)
class Sample:
    """One image file.

    label: index of its class in DomainSet.classes
    group: images of one group never sit on both sides of a split; the path itself where none was given
    """

    path: Path
    domain: str
    label: int
    group: str
    split: Split


@dataclass(frozen=True)
class DomainSet:
    """Every usable image of a data folder.

    classes:  K folder names, in the order of the logits
    samples:  sorted by domain, class, file name
    skipped:  images left out because they do not decode, relative to root
    """

    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    skipped: tuple[str, ...]

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

    skip_bad: go on without the images that do not decode; they are listed in `skipped`

    Raises DataError for a folder that is not root/domain/class/image, or where a class is missing or empty
    in a domain; BadImagesError listing every image that does not decode.
    """
    builtin = data.root == BUILTIN_DATA
    root = emojidg_root() if builtin else Path(data.root)
    domains = _domain_names(root)
    if data.target != "each" and data.target not in domains:
        raise DataError(f"data.target: {root} has no domain {data.target!r}; it has: {', '.join(domains)}")
    classes = _class_names(root, domains, data.classes)
    for name in data.class_names.keys() - set(classes):
        raise DataError(f"data.class_names: {root} has no class {name!r}{did_you_mean(name, classes)}")
    found = [(path, domain, label) for domain in domains for path, label in _images(root / domain, classes)]
    bad = {} if builtin else _undecodable([path for path, _, _ in found])
    if bad and not skip_bad:
        raise BadImagesError([(str(path), reason) for path, reason in bad.items()])
    usable = [entry for entry in found if entry[0] not in bad]
    _require_every_class(root, domains, classes, usable)

    groups_file = root / GROUPS if builtin else (Path(data.split.groups) if data.split.groups else None)
    names = [path.relative_to(root).as_posix() for path, _, _ in usable]
    groups = read_groups(groups_file, names) if groups_file else None
    strata = [(domain, classes[label]) for _, domain, label in usable]
    splits = assign_splits(names, strata, groups, data.split)
    group_of = groups.group if groups else {name: name for name in names}
    samples = tuple(
        Sample(path, domain, label, group_of[name], split)
        for (path, domain, label), name, split in zip(usable, names, splits, strict=True)
    )
    skipped = tuple(path.relative_to(root).as_posix() for path in bad)
    domain_set = DomainSet(root, domains, classes, samples, skipped)
    _require_every_split(domain_set, data.target)
    return domain_set


def evaluation_samples(domain_set: DomainSet, domain: str, target: str) -> tuple[Sample, ...]:
    """The images on which accuracy in `domain` is measured.

    ID (a source domain): its test split. OOD (the target): its test split when groups span domains, since
    its other groups stand in the sources' training images; else all of its images, as none was trained on.
    """
    if domain == target and not domain_set.groups_span_domains:
        return tuple(s for s in domain_set.samples if s.domain == domain)
    return domain_set.select({domain}, "test")


def data_fingerprint(domain_set: DomainSet) -> str:
    """SHA-256 over every image's relative path, split and bytes: same value, same data."""
    digest = hashlib.sha256()
    for sample in domain_set.samples:
        content = hashlib.sha256(sample.path.read_bytes()).hexdigest()
        line = f"{sample.path.relative_to(domain_set.root).as_posix()}\t{sample.split}\t{content}\n"
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


def _images(domain: Path, classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    for label, name in enumerate(classes):
        for path in sorted((domain / name).rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                yield path, label


def _undecodable(paths: Sequence[Path]) -> dict[Path, str]:
    """Why each bad image is bad. Decoding is the only proof: headers of truncated files are fine."""

    def reason(path: Path) -> str | None:
        try:
            open_image(path)
        except ImageError as error:
            return str(error).removeprefix(f"{path}: ")
        return None

    with ThreadPoolExecutor() as pool:
        reasons = track(
            pool.map(reason, paths),
            "Checking images",
            total=len(paths),
            console=Console(stderr=True),
            transient=True,
        )
        return {path: why for path, why in zip(paths, reasons, strict=True) if why}


def _require_every_class(
    root: Path, domains: Sequence[str], classes: Sequence[str], found: Sequence[tuple[Path, str, int]]
) -> None:
    have = {(domain, label) for _, domain, label in found}
    empty = [
        f"{root / domain / name}: holds no usable image"
        for domain in domains
        for label, name in enumerate(classes)
        if (domain, label) not in have
    ]
    if empty:
        raise DataError("\n".join(empty))


def _require_every_split(domain_set: DomainSet, target: str) -> None:
    for domain in domain_set.domains:
        needed: tuple[Split, ...] = ("train", "val", "test") if domain != target else ()
        if domain == target and domain_set.groups_span_domains:
            needed = ("test",)
        for split in needed:
            if not domain_set.select({domain}, split):
                raise DataError(
                    f"{domain_set.root / domain}: the split leaves no {split} image: too few images"
                )
