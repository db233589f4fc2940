"""--overwrite of several runs, over interruptions: which of them it has replaced already.

    <folder of the runs>/.overwriting    the replaced runs, one path a line; there until all are replaced

Without it, --resume after an interrupted --overwrite could not tell a run that was to be replaced from a
finished one that is to be kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

JOURNAL = ".overwriting"


def begin_overwriting(folder: Path) -> None:
    """None of the folder's runs is replaced yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JOURNAL).write_text("", encoding="utf-8")


def is_overwriting(folder: Path) -> bool:
    """Whether an interrupted --overwrite is to go on there."""
    return (folder / JOURNAL).is_file()


def is_replaced(folder: Path, run: Path) -> bool:
    """Whether the overwriting that is under way has finished this run.

    A last line that a killed process left unfinished does not count: that run is made again.
    """
    text = (folder / JOURNAL).read_text(encoding="utf-8", errors="surrogateescape")
    return _line(folder, run) in text.splitlines(keepends=True)


def note_replaced(folder: Path, run: Path) -> None:
    """This run is finished."""
    with (folder / JOURNAL).open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(_line(folder, run))
        file.flush()
        os.fsync(file.fileno())


def end_overwriting(folder: Path) -> None:
    """All runs are replaced."""
    (folder / JOURNAL).unlink(missing_ok=True)


def folder_of_runs(outs: Sequence[Path]) -> Path:
    """The folder that holds what is made for all of these."""
    return Path(os.path.commonpath([out.absolute() for out in outs]))


def _line(folder: Path, run: Path) -> str:
    path = os.path.relpath(run.absolute(), folder.absolute())
    return path.encode("unicode_escape", "surrogatepass").decode("ascii") + "\n"
