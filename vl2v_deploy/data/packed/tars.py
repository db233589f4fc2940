"""webdataset: tar archives in which the files of one sample are called the same up to the first dot."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from vl2v_deploy.data.files import IMAGE_SUFFIXES
from vl2v_deploy.data.packed.members import each_member
from vl2v_deploy.data.packed.shards import COLUMNS, NO_SUFFIX, Sample, require_size
from vl2v_deploy.errors import DataError
from vl2v_deploy.names import shown

_TEXT_BYTES = 1_000_000


def samples_of_tar(path: Path, unread: Counter[str]) -> Iterator[Sample]:
    """The samples of an archive that have an image; `.cls` and `.json` say what it is. Nothing else is read.

    unread: where the suffixes of the other files are counted

    Raises DataError for a damaged archive, a sample with two images, a file that is too large or no JSON.
    """
    for key, members in groupby(each_member(path), lambda found: _key_and_kind(found[1].name)[0]):
        image, says = None, {}
        for archive, member in members:
            kind, place = _key_and_kind(member.name)[1], f"{path}::{member.name}"
            if kind.endswith(IMAGE_SUFFIXES) and kind.count(".") == 1:
                if image is not None:
                    raise DataError(f"{shown(place)}: is a second image of one sample; expected one")
                require_size(place, member.size)
                image = _content(archive, member, place), member.name
            elif kind == ".cls":
                says["label"] = _text(archive, member, place).strip()
            elif kind == ".json":
                says |= _fields(_text(archive, member, place), place)
            else:
                unread[kind or NO_SUFFIX] += 1
        if image is not None:
            yield Sample(f"{path}::{key}", *image, says)
        elif says:
            unread["of samples without an image"] += 1


def _key_and_kind(name: str) -> tuple[str, str]:
    """The sample that a file belongs to, and all of its suffixes."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffixes = file.partition(".")
    return folder + slash + stem, (dot + suffixes).lower()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, place: str) -> bytes:
    content = archive.extractfile(member)
    try:
        encoded = content.read() if content else b""
    except tarfile.TarError as error:
        raise DataError(f"{shown(place)}: is cut: the archive ends within it") from error
    if len(encoded) < member.size:
        raise DataError(f"{shown(place)}: is cut: the archive ends within it")
    return encoded


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo, place: str) -> str:
    require_size(place, member.size, _TEXT_BYTES)
    try:
        return _content(archive, member, place).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(place)}: is not UTF-8: {error}") from error


def _fields(text: str, place: str) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown(place)}: is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{shown(place)}: expected a JSON object with the fields {', '.join(COLUMNS)}")
    return {name: tree[name] for name in COLUMNS if name in tree}
