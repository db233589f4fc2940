"""The folders of a data set, root/domain/class or root/class, and the image files in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vl2v_deploy.data.emojidg import emojidg_root
from vl2v_deploy.data.files import Rule, folders_in, image_files, is_hidden, is_image
from vl2v_deploy.data.manifest_file import ManifestFile, read_manifest
from vl2v_deploy.data.prompts import class_words
from vl2v_deploy.data.splits import SIDE_OF_FOLDER, Split
from vl2v_deploy.errors import DataError
from vl2v_deploy.names import command, composed, listed, name_below, shown
from vl2v_deploy.recipe import BUILTIN_DATA, NO_TARGET, DataRecipe

ONE_DOMAIN = "all"  # what the domain of class folders without domains is called


class Found(NamedTuple):
    """An image file, not yet known to be usable.

    label:        index of its class
    split, group: where a manifest fixes them
    """

    path: Path
    domain: str
    label: int
    split: Split | None = None
    group: str | None = None


@dataclass(frozen=True)
class Layout:
    """The folders that a recipe names.

    domains, classes: in Unicode's composed form, whatever form their folders' names have
    folders:          of each domain and label; a domain may lack classes; none with a manifest
    manifest:         what lists the images in place of folders
    """

    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    folders: Mapping[tuple[str, int], Path]
    manifest: ManifestFile | None = None

    def name(self, path: Path) -> str:
        """A path below root, in Unicode's composed form, so that it is the same on every machine."""
        return name_below(path, self.root)


def find_layout(data: DataRecipe) -> Layout:
    """The folders of a recipe's data.

    Raises DataError for whatever is wrong before any image is read.
    """
    builtin = data.root == BUILTIN_DATA
    if builtin and data.split.protocol == "domainbed":
        raise DataError(
            f"data.split: domainbed: {BUILTIN_DATA} shows each emoji in every domain, and DomainBed's splits "
            "would put one emoji on both sides; use protocol: seeded"
        )
    root = emojidg_root() if builtin else Path(data.root)
    if not root.is_dir():
        raise DataError(f"data.root: {root}: no such folder")
    manifest = read_manifest(Path(data.manifest), root) if data.manifest else None
    of_domain = _class_folders(root, data.target) if manifest is None else _listed_classes(manifest, data)
    domains = tuple(of_domain)
    if data.target not in ("each", NO_TARGET) and data.target not in domains:
        raise DataError(
            f"data.target: {shown(root)} has no domain {data.target!r}; it has: {listed(domains, 20)}"
        )
    if data.target == NO_TARGET in domains:
        raise DataError(
            f"data.target: {NO_TARGET} says that no domain is kept unseen, and {shown(root / NO_TARGET)} is "
            "a domain: rename the folder"
        )
    classes = _classes(root, of_domain, data)
    class_words(data, classes)  # raises for the name of a class that is not there
    folders = {
        (domain, label): of_domain[domain][name]
        for domain in domains
        for label, name in enumerate(classes)
        if name in of_domain[domain]
    }
    return Layout(root, domains, classes, {} if manifest else folders, manifest)


def find_images(layout: Layout, data: DataRecipe) -> tuple[list[Found], list[Path]]:
    """The image files, by domain, class and file name; and the files that are not used.

    Not used are files in the class folders that are no images, files beside the class folders, and images
    beside the domains.
    """
    if layout.manifest is not None:
        return _listed_images(layout, layout.manifest)
    rule: Rule = "torchvision" if data.split.protocol == "domainbed" else "content"
    found: list[Found] = []
    beside = sorted({folder.parent for folder in layout.folders.values()} - {layout.root})
    in_root = _files_in(layout.root)
    unused = [path for path in in_root if is_image(path)] if beside else in_root
    for folder in beside:
        unused += _files_in(folder)
    for (domain, label), folder in layout.folders.items():
        listing = image_files(folder, rule)
        found += [Found(path, domain, label) for path in listing.images]
        unused += listing.unused
    return found, unused


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not is_hidden(path.name))


def _listed_classes(manifest: ManifestFile, data: DataRecipe) -> dict[str, dict[str, Path]]:
    """The classes of each domain of a manifest, each with the path of one image."""
    of_domain: dict[str, dict[str, Path]] = {}
    for image in manifest.images:
        of_domain.setdefault(image.domain or ONE_DOMAIN, {})[image.label] = image.path
    if len(of_domain) < 2 and data.target != NO_TARGET:
        raise DataError(
            f"data.manifest: {shown(str(data.manifest))} has one domain: set data.target: "
            f"{NO_TARGET} (no OOD accuracy is measured), or give it a column domain with at least two"
        )
    return {domain: of_domain[domain] for domain in sorted(of_domain)}


def _listed_images(layout: Layout, manifest: ManifestFile) -> tuple[list[Found], list[Path]]:
    label_of = {name: label for label, name in enumerate(layout.classes)}
    found = [
        Found(image.path, image.domain or ONE_DOMAIN, label_of[image.label], image.split, image.group)
        for image in manifest.images
        if image.label in label_of
    ]
    return sorted(found, key=lambda image: (image.domain, image.label, str(image.path))), list(
        manifest.hidden
    )


def holds_class_folders(root: Path) -> bool:
    """Whether a folder is class/image, without domains: some folder in it holds images and no folders."""
    return any(
        not folders_in(root / name) and any(map(is_image, _files_in(root / name)))
        for name in folders_in(root)
    )


def split_folders(root: Path) -> list[str]:
    """The folders of a root that is divided into train, test and val rather than domains; else none."""
    names = folders_in(root)
    return names if len(names) > 1 and {name.lower() for name in names} <= SIDE_OF_FOLDER.keys() else []


def _class_folders(root: Path, target: str) -> dict[str, dict[str, Path]]:
    """The class folders of each domain."""
    if splits := split_folders(root):
        raise DataError(
            f"data.root: {shown(root)} is divided into {listed(splits)}, which are sides of a split and no "
            "domains: list the images in a manifest with the columns image,label,split and use "
            f"data.manifest ({command('init', root, '--convert', 'FOLDER')} writes one), or put all class "
            f"folders into one (it is split by seed) with data.target: {NO_TARGET}"
        )
    if holds_class_folders(root):
        if target != NO_TARGET:
            raise DataError(
                f"data.root: {shown(root)} holds class folders with images, without domains: set "
                f"data.target: {NO_TARGET} (all images are one domain, and no OOD accuracy is measured), or "
                "lay the images out as root/domain/class/image with at least two domains"
            )
        return {ONE_DOMAIN: _by_composed_name(root)}
    domains = _by_composed_name(root)
    if len(domains) < 2 and target != NO_TARGET:
        raise DataError(
            f"data.root: {root} holds {len(domains)} domain folder(s); expected at least two: "
            "one or more sources and a target, as root/domain/class/image"
        )
    return {domain: _by_composed_name(folder) for domain, folder in domains.items()}


def _by_composed_name(parent: Path) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for name in folders_in(parent):
        if folders.setdefault(composed(name), parent / name).name != name:
            raise DataError(
                f"{parent}: two folders are called {composed(name)!r}, which Unicode writes in two ways; "
                "move the files of one into the other"
            )
    return folders


def _classes(root: Path, of_domain: Mapping[str, Mapping[str, Path]], data: DataRecipe) -> tuple[str, ...]:
    everywhere = set[str]().union(*of_domain.values())
    classes = tuple(data.classes) if data.classes else tuple(sorted(everywhere))
    if len(set(classes)) != len(classes):
        raise DataError("data.classes: a class is named twice")
    if len(classes) < 2:
        raise DataError(f"data.root: {root}: expected at least two class folders in each domain")
    problems = [
        f"{shown(root)}: no domain has a class folder {name!r}" for name in classes if name not in everywhere
    ]
    for domain, folders in of_domain.items():
        if not set(classes) & set(folders):
            problems.append(f"{shown(root / domain)}: holds none of the class folders {listed(classes, 5)}")
    if data.split.protocol == "domainbed":
        problems += [
            f"{shown(root / domain)}: class folder {name!r} is missing, and DomainBed's splits need all"
            for domain, folders in of_domain.items()
            for name in classes
            if name not in folders
        ]
    if problems:
        raise DataError(
            "\n".join(problems) + "\ndata.classes (init: --class NAME for each) says which are used"
        )
    return classes
