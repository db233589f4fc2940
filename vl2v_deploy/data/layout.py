"""The folders of a data set, root/domain/class, and the image files in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vl2v_deploy.data.emojidg import emojidg_root
from vl2v_deploy.data.files import Rule, folders_in, image_files, is_hidden, is_image
from vl2v_deploy.data.prompts import class_words
from vl2v_deploy.errors import DataError
from vl2v_deploy.names import composed, listed, shown
from vl2v_deploy.recipe import BUILTIN_DATA, DataRecipe


class Found(NamedTuple):
    """An image file, not yet known to be usable; label: index of its class."""

    path: Path
    domain: str
    label: int


@dataclass(frozen=True)
class Layout:
    """The folders that a recipe names.

    domains, classes: in Unicode's composed form, whatever form their folders' names have
    folders:          of each domain and label
    """

    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    folders: Mapping[tuple[str, int], Path]

    def name(self, path: Path) -> str:
        """A path below root, in Unicode's composed form, so that it is the same on every machine."""
        return composed(path.relative_to(self.root).as_posix())


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
    domains = _domains(root)
    if data.target != "each" and data.target not in domains:
        raise DataError(
            f"data.target: {shown(root)} has no domain {data.target!r}; it has: {listed(domains, 20)}"
        )
    of_domain = {domain: _by_composed_name(folder) for domain, folder in domains.items()}
    classes = _classes(root, of_domain, data.classes)
    class_words(data, classes)  # raises for the name of a class that is not there
    folders = {
        (domain, label): of_domain[domain][name] for domain in domains for label, name in enumerate(classes)
    }
    return Layout(root, tuple(domains), classes, folders)


def find_images(layout: Layout, data: DataRecipe) -> tuple[list[Found], list[Path]]:
    """The image files, by domain, class and file name; and the files that are not used.

    Not used are files in the class folders that are no images, files beside the class folders, and images
    beside the domains.
    """
    rule: Rule = "torchvision" if data.split.protocol == "domainbed" else "content"
    found: list[Found] = []
    unused = [path for path in _files_in(layout.root) if is_image(path)]
    for folder in sorted({folder.parent for folder in layout.folders.values()}):
        unused += _files_in(folder)
    for (domain, label), folder in layout.folders.items():
        listing = image_files(folder, rule)
        found += [Found(path, domain, label) for path in listing.images]
        unused += listing.unused
    return found, unused


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not is_hidden(path.name))


def _domains(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise DataError(f"data.root: {root}: no such folder")
    domains = _by_composed_name(root)
    if len(domains) < 2:
        raise DataError(
            f"data.root: {root} holds {len(domains)} domain folder(s); expected at least two: "
            "one or more sources and a target, as root/domain/class/image"
        )
    return domains


def _by_composed_name(parent: Path) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for name in folders_in(parent):
        if folders.setdefault(composed(name), parent / name).name != name:
            raise DataError(
                f"{parent}: two folders are called {composed(name)!r}, which Unicode writes in two ways; "
                "move the files of one into the other"
            )
    return folders


def _classes(
    root: Path, of_domain: Mapping[str, Mapping[str, Path]], wanted: Sequence[str] | None
) -> tuple[str, ...]:
    classes = tuple(wanted) if wanted else tuple(sorted(set().union(*of_domain.values())))
    if len(set(classes)) != len(classes):
        raise DataError("data.classes: a class is named twice")
    if len(classes) < 2:
        raise DataError(f"data.root: {root}: expected at least two class folders in each domain")
    problems = [
        f"{shown(root / domain)}: class folder {name!r} is missing"
        for domain, folders in of_domain.items()
        for name in classes
        if name not in folders
    ]
    if problems:
        raise DataError(
            "\n".join(problems)
            + "\nEvery domain needs every class; to use fewer, list them in data.classes (init: --class NAME "
            "for each)"
        )
    return classes
