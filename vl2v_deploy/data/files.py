"""Which files of a folder are images: one answer for recipes, training and the client.

An image is what the client reads, whatever the file is called: a file with an image's suffix has to be one,
any other file is looked into. Hidden files and folders are not looked at. What else lies there is listed as
not used. DomainBed's protocol has torchvision's rule instead, which goes by suffix alone and takes hidden
ones too, as its splits count the files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from vl2v_deploy.client.images import holds_image
from vl2v_deploy.errors import DataError
from vl2v_deploy.names import shown

# Of the formats that the client reads. A file that is called so and is no image is an error, not left out.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".avif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# torchvision's ImageFolder takes these; DomainBed's splits count no other file
DOMAINBED_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
LITTER = "__MACOSX"  # what macOS puts beside the folders in its archives: the files' attributes, as ._NAME

Rule = Literal["content", "torchvision"]


class Listing(NamedTuple):
    """The files below a folder, in the order of torchvision's ImageFolder.

    images: by the rule
    unused: all others that are not hidden
    """

    images: list[Path]
    unused: list[Path]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's data, by its name.

    >>> is_hidden(".ipynb_checkpoints"), is_hidden("._cat.jpg"), is_hidden("__MACOSX"), is_hidden("cat.jpg")
    (True, True, True, False)
    """
    return name.startswith(".") or name == LITTER


def image_files(folder: Path, rule: Rule = "content") -> Listing:
    """The image files at any depth below a folder, and the files that are none.

    Links are followed, except those to a folder that they lie in: they are listed as unused.

    Raises DataError when a folder cannot be read.
    """
    found, circles = _walk(folder, rule)
    listing = Listing([], circles)
    for parent, names in sorted(found):
        for name in sorted(names):
            path = Path(parent, name)
            if is_image(path, rule):
                listing.images.append(path)
            elif not is_hidden(name):
                listing.unused.append(path)
    return listing


def each_image(folder: Path) -> Iterator[Path]:
    """The images at any depth below a folder, one after the other: first its own by name, then its folders'.

    The names of one folder at a time are in memory. Links are followed, except to a folder that they lie in.

    Raises DataError when a folder cannot be read.
    """
    start = folder.resolve()
    yield from _each_below(folder, frozenset(map(_place, (start, *start.parents))))


def _each_below(folder: Path, inside: frozenset[tuple[int, int]]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.is_dir(), entry.name) for entry in entries)
    except OSError as error:
        _refuse(error)
    for is_folder, name in found:
        path = folder / name
        if not is_folder:
            if is_image(path):
                yield path
        elif not is_hidden(name) and (place := _place(path)) not in inside:
            yield from _each_below(path, inside | {place})


def _walk(folder: Path, rule: Rule) -> tuple[list[tuple[str, list[str]]], list[Path]]:
    """The names of the files in every folder, and the links that would lead round in a circle."""
    found, circles = [], []
    start = folder.resolve()
    above = {folder: frozenset(map(_place, (start, *start.parents)))}  # of each folder that comes
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        inside = above.pop(Path(parent))
        followed = []
        for name in folders:
            path = Path(parent, name)
            if rule == "content" and is_hidden(name):
                continue
            if (place := _place(path)) in inside:
                circles.append(path)
                continue
            above[path] = inside | {place}
            followed.append(name)
        folders[:] = followed
        found.append((parent, names))
    return found, circles


def _place(folder: Path) -> tuple[int, int]:
    """What a folder is the same as, whatever it is called."""
    try:
        status = folder.stat()
    except OSError as error:
        _refuse(error)
    return status.st_dev, status.st_ino


def is_image(path: Path, rule: Rule = "content") -> bool:
    """Whether a file is taken for an image; it may yet turn out to be damaged."""
    if rule == "torchvision":
        return path.name.lower().endswith(DOMAINBED_SUFFIXES)
    if is_hidden(path.name):
        return False
    return path.name.lower().endswith(IMAGE_SUFFIXES) or holds_image(path)


def folders_in(parent: Path) -> list[str]:
    """The names of the folders right below one, sorted, without hidden ones.

    Raises DataError for a name that cannot stand in a recipe or a list of classes.
    """
    names = sorted(path.name for path in parent.iterdir() if path.is_dir() and not is_hidden(path.name))
    for name in names:
        if shown(name) != name:
            raise DataError(
                f"{shown(parent / name)}: the name of this folder holds control characters or is not UTF-8: "
                "rename it"
            )
    return names


def kinds_of(names: Iterable[str]) -> str:
    """How many files there are of each suffix, the most frequent first.

    >>> kinds_of(["a.txt", "b.TXT", "Makefile"])
    '2 .txt, 1 without a suffix'
    """
    suffixes = Counter(Path(name).suffix.lower() or "without a suffix" for name in names)
    return ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{shown(error.filename)}: cannot be read: {error.strerror}") from error
