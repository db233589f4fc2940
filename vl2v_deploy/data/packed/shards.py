"""Which files of a folder hold packed images, and what their names say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from vl2v_deploy.client.images import DEFAULT_LIMITS
from vl2v_deploy.data.files import is_hidden, kinds_of
from vl2v_deploy.data.packed.members import COMPRESSED, TAR
from vl2v_deploy.data.splits import SIDE_OF_FOLDER, Split
from vl2v_deploy.errors import DataError
from vl2v_deploy.names import shown

TABLES = (".parquet", ".arrow")
COLUMNS = ("label", "domain", "split", "group")  # a manifest's, which a sample may have, too
NO_SUFFIX = "without a suffix"
_KINDS = (TAR, *COMPRESSED, *TABLES)

_ENDING = re.compile(r"\.(tar(\.\w+)?|tgz|parquet|arrow)$", re.IGNORECASE)
_NUMBERS = re.compile(r"(?:(?:^|[-_.])(?:of[-_.])?\d+)+$")  # of train-00000-of-00003, photo_12, 000017
_SIDE = re.compile(rf"(?:^|[-_.])({'|'.join(SIDE_OF_FOLDER)})(?=$|[-_.])", re.IGNORECASE)
_NO_DOMAINS = {"data", "shard", "shards"}  # what shards are called that are called nothing


class Shard(NamedTuple):
    """One file of packed images.

    name:   below the folder that was searched
    side:   of the split, where the name or a folder's says so
    domain: what else the file is called, or the folder it lies in
    """

    path: Path
    name: str
    side: Split | None
    domain: str | None


class Sample(NamedTuple):
    """One image of a shard, not yet decoded.

    place: what it is called in messages
    image: encoded
    named: as which file it was packed; only the suffix is ever used
    says:  values of COLUMNS, as they were packed
    """

    place: str
    image: bytes
    named: str
    says: dict[str, Any]


def shards_in(path: Path) -> list[Shard]:
    """The shards at any depth below a folder, by name; or the one that `path` is."""
    root = path.parent if path.is_file() else path
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    found = [(file, file.relative_to(root)) for file in files if file.name.lower().endswith(_KINDS)]
    return [
        Shard(file, name.as_posix(), *side_and_domain(name))
        for file, name in found
        if not any(map(is_hidden, name.parts)) and file.stem != "metadata" and file.is_file()
    ]


def side_and_domain(name: Path) -> tuple[Split | None, str | None]:
    """What a shard's name says.

    >>> side_and_domain(Path("data/train-00000-of-00003.parquet"))
    ('train', None)
    >>> side_and_domain(Path("photo-val-0007.tar")), side_and_domain(Path("clip_art/12.tar"))
    (('val', 'photo'), (None, 'clip_art'))
    """
    side: Split | None = None
    domain = None
    for part in (_ENDING.sub("", name.name), *reversed(name.parts[:-1])):
        rest = _NUMBERS.sub("", part)
        if said := _SIDE.search(rest):
            side = side or SIDE_OF_FOLDER[said[1].lower()]
            rest = (rest[: said.start()] + rest[said.end() :]).strip("-_.")
        if rest and rest.lower() not in _NO_DOMAINS:
            domain = domain or rest
    return side, domain


def described(shards: list[Shard]) -> str:
    """How many shards of which kind there are."""
    return f"{len(shards)} file(s) of packed images ({kinds_of(shard.name for shard in shards)})"


def require_size(place: str, size: int, most: int = DEFAULT_LIMITS.max_bytes) -> None:
    """DataError for what is too large to be read."""
    if size > most:
        raise DataError(f"{shown(place)}: {size} bytes, more than {most}: refused")
