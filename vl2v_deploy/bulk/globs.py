"""Patterns of paths, matched one folder after the other: sorted, none twice, never all in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from vl2v_deploy.data.files import is_hidden

_MAGIC = re.compile(r"[*?\[]")
_ANY_DEPTH = "**"


def is_pattern(word: str) -> bool:
    """Whether a word holds what a shell would expand.

    >>> is_pattern("photos/*.jpg"), is_pattern("photos/cat.jpg")
    (True, False)
    """
    return _MAGIC.search(word) is not None


def matches(pattern: str) -> Iterator[Path]:
    """Files and folders that a pattern names, those of each folder sorted; ** stands for any depth.

    Hidden names are not matched. What lies in a folder that matches is not listed besides it. Links to
    folders are followed where no ** is.

    Raises OSError for a folder that cannot be read.
    """
    parts = Path(pattern).parts
    plain = next(number for number, part in enumerate(parts) if is_pattern(part))
    steps = parts[plain:]
    yield from _below(Path(*parts[:plain]), steps, _reached(steps, [0]))


def _below(folder: Path, steps: tuple[str, ...], at: set[int]) -> Iterator[Path]:
    """Matches in a folder, of whose path the pattern's first steps are used up.

    at: how many of them; several where ** may have taken more or less
    """
    if not folder.is_dir():
        return
    follow = not any(step < len(steps) and steps[step] == _ANY_DEPTH for step in at)
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=follow)) for entry in entries)
    for name, is_folder in found:
        if is_hidden(name):
            continue
        after = _reached(steps, _after(steps, at, name))
        if len(steps) in after:
            yield folder / name
        elif after and is_folder:
            yield from _below(folder / name, steps, after)


def _after(steps: tuple[str, ...], at: set[int], name: str) -> Iterator[int]:
    for step in at:
        if step < len(steps):
            if steps[step] == _ANY_DEPTH:
                yield step
            elif fnmatchcase(name, steps[step]):
                yield step + 1


def _reached(steps: tuple[str, ...], at: Iterable[int]) -> set[int]:
    """With what ** reaches when it stands for nothing."""
    reached = set()
    for step in at:
        reached.add(step)
        while step < len(steps) and steps[step] == _ANY_DEPTH:
            step += 1
            reached.add(step)
    return reached
