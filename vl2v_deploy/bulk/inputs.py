"""What is to be answered: files, folders, patterns, lists and archives, as one stream of images.

The stream is in the same order whenever nothing has changed on the disk: of a folder first its files by name,
then its folders. Nothing is read further than the stream is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vl2v_deploy.bulk.globs import is_pattern, matches
from vl2v_deploy.bulk.images import Image
from vl2v_deploy.bulk.lists import LISTS, paths_of_lines, paths_of_list
from vl2v_deploy.bulk.tars import members_of
from vl2v_deploy.client.images import holds_image
from vl2v_deploy.data.files import each_image
from vl2v_deploy.data.packed.members import COMPRESSED, TAR
from vl2v_deploy.errors import DataError
from vl2v_deploy.names import shown

STDIN = "-"


def images_of(inputs: Iterable[str]) -> Iterator[Image]:
    """Every image that the inputs name.

    inputs: files; folders, of which all images at any depth are meant; patterns such as 'a/**/*.jpg'; lists
            (.txt, .csv, .parquet); tar archives; "-" = a list on standard input

    Raises DataError for a list, archive or folder that cannot be read. A file that is missing, or is no
    image, is an image all the same: it gets its error when it is decoded.
    """
    for word in inputs:
        if word == STDIN:
            yield from map(Image, paths_of_lines(sys.stdin.buffer))
        elif is_pattern(word) and not Path(word).exists():
            for path in matches(word):
                yield from _of_path(path)
        else:
            yield from _of_path(Path(word))


def require_inputs(inputs: Sequence[str]) -> None:
    """DataError unless every input is there, and every pattern names something."""
    for word in inputs:
        if word == STDIN or Path(word).exists():
            continue
        if not is_pattern(word):
            raise DataError(f"{shown(word)}: no such file or folder")
        if next(matches(word), None) is None:
            raise DataError(f"{shown(word)}: names no file or folder")


def _of_path(path: Path) -> Iterator[Image]:
    name = path.name.lower()
    if path.is_dir():
        yield from (Image(str(image)) for image in each_image(path))
    elif name.endswith((TAR, *COMPRESSED)):
        yield from members_of(path)
    elif name.endswith(LISTS) and path.exists() and not holds_image(path):
        yield from map(Image, paths_of_list(path))
    else:
        yield Image(str(path))
