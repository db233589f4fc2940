"""What a run has kept: whole blocks of rows beside the output, until all are there.

<out>.partial/_run.json     what makes the rows: bundle, options, part
              _done.jsonl   after each block of rows: how far the run is, a line each
              _rows         raw rows of the output's file; what is behind the last line of _done.jsonl is cut
              part-*        finished files, where the output is a folder
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vl2v_deploy.bulk.answering import Rows
from vl2v_deploy.bulk.images import Image
from vl2v_deploy.bulk.rows import Columns, Format, finish_rows, identity_of_parquet
from vl2v_deploy.errors import RunError
from vl2v_deploy.folders import claim_folder, partial_of, remove_folder, replace_folder, start_folder
from vl2v_deploy.names import shown

RUN, DONE, ROWS, FINISHED = "_run.json", "_done.jsonl", "_rows", "_finished"
ROWS_OF_A_FILE = 131_072  # where the output is a folder; a multiple of the rows that are kept together


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    images: answered, so rows in all files
    failed: of them, those that cannot be used
    ids:    SHA-256 of their names, in order
    file:   number of the file that is written
    bytes:  of its raw rows
    """

    images: int = 0
    failed: int = 0
    ids: str = ""
    file: int = 0
    bytes: int = 0


class Kept:
    """The unfinished output of one run, written by this process alone.

    progress: what is safely on the disk
    """

    def __init__(self, out: Path, format: Format, columns: Columns, identity: str, *, folder: bool) -> None:
        """What `start` and `resume` make; use those."""
        self._out, self._format, self._columns, self._identity = out, format, columns, identity
        self._is_folder, self._partial = folder, partial_of(out)
        self.progress = Progress()
        self._ids = hashlib.sha256()

    def start(self) -> None:
        """Begin anew; an earlier unfinished output is removed."""
        start_folder(self._out)
        (self._partial / ROWS).touch()
        (self._partial / DONE).touch()
        (self._partial / RUN).write_text(self._identity, encoding="utf-8")

    def resume(self) -> None:
        """Go on where an earlier run was; begin where there is none.

        Raises RunError when that one was of another bundle or had other options.
        """
        if not self._partial.exists():
            self.start()
            return
        claim_folder(self._partial)
        if not (self._partial / RUN).exists():  # it was killed before it had begun
            self.start()
            return
        found = (self._partial / RUN).read_text(encoding="utf-8")
        require_same(self._partial, found, self._identity)
        self.progress = _last(self._partial / DONE)
        rows = self._partial / ROWS
        if rows.stat().st_size < self.progress.bytes:
            raise RunError(f"{rows}: is shorter than _done.jsonl says: begin anew with --overwrite")
        os.truncate(rows, self.progress.bytes)
        self._finish_whole_file()

    def skip(self, images: Iterator[Image]) -> None:
        """Read the images that are answered already.

        Raises RunError unless they are the same.
        """
        count = 0
        while count < self.progress.images and (image := next(images, None)) is not None:
            count += 1
            self._add(image)
        if (count and self._ids.hexdigest() != self.progress.ids) or count < self.progress.images:
            raise RunError(
                f"{self._out}: the inputs are not those that its first {self.progress.images} rows answer: "
                "files were added, removed or renamed; give the same inputs, or begin anew with --overwrite"
            )

    def add(self, rows: Rows) -> None:
        """Keep some rows; they are on the disk when this returns."""
        for image in rows.images:
            self._add(image)
        with (self._partial / ROWS).open("ab") as file:
            file.write(rows.raw)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        before = self.progress
        self._say(
            replace(
                before,
                images=before.images + len(rows.images),
                failed=before.failed + rows.failed,
                ids=self._ids.hexdigest(),
                bytes=size,
            )
        )
        self._finish_whole_file()

    def finish(self) -> None:
        """Put the output in its place, and remove what is beside it."""
        if not self._is_folder:
            finished = self._partial / FINISHED
            self._write(finished)
            finished.replace(self._out)
            remove_folder(self._partial)
            return
        if self.progress.bytes or not self.progress.images:
            self._finish_file()
        replace_folder(self._out, self._partial)
        for name in (ROWS, DONE):
            (self._out / name).unlink()

    def _finish_whole_file(self) -> None:
        if self._is_folder and self.progress.images == (self.progress.file + 1) * ROWS_OF_A_FILE:
            self._finish_file()

    def _finish_file(self) -> None:
        """One file of a folder; killed on the way, it is made again."""
        self._write(self._partial / f"part-{self.progress.file:05d}.{self._format}")
        self._say(replace(self.progress, file=self.progress.file + 1, bytes=0))
        os.truncate(self._partial / ROWS, 0)

    def _write(self, target: Path) -> None:
        finish_rows(self._partial / ROWS, target, self._format, self._columns, self._identity)

    def _say(self, progress: Progress) -> None:
        with (self._partial / DONE).open("ab") as file:
            file.write(f"{json.dumps(asdict(progress))}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        self.progress = progress

    def _add(self, image: Image) -> None:
        self._ids.update(image.name.encode() + b"\n")


def was_finished(out: Path, format: Format, identity: str, *, folder: bool) -> bool:
    """Whether the output is there; JSON lines and CSV do not tell what made them.

    Raises RunError when it says that it was made of another bundle or with other options.
    """
    if not is_there(out):
        return False
    if folder:
        require_replaceable(out, folder=True)
        require_same(out, (out / RUN).read_text(encoding="utf-8"), identity)
    elif format == "parquet":
        require_same(out, identity_of_parquet(out), identity)
    return True


def is_there(out: Path) -> bool:
    """Whether there is an output; an empty folder is none."""
    return out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None)


def require_replaceable(out: Path, *, folder: bool) -> None:
    """RunError for a folder that no run has made: it is not replaced."""
    if folder and is_there(out) and not (out / RUN).is_file():
        raise RunError(f"{out}: was not made by predict; pass another --out")


def require_same(where: Path, found: str | None, identity: str) -> None:
    """RunError that names what differs between what made rows before and what would now."""
    if found == identity:
        return
    now: dict[str, Any] = json.loads(identity)
    try:
        before = json.loads(found or "")
        changed = [f"{key} was {shown(str(before.get(key)))}" for key in now if before.get(key) != now[key]]
    except (ValueError, AttributeError):
        changed = ["it does not say what made it"]
    raise RunError(
        f"{where}: belongs to another run: {', '.join(changed)}; give the same bundle and options, or begin "
        "anew with --overwrite"
    )


def _last(done: Path) -> Progress:
    """The last whole line; a killed process may have left a piece of another, which is cut off."""
    content = done.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    os.truncate(done, len(whole))
    if not whole:
        return Progress()
    return Progress(**json.loads(whole.splitlines()[-1]))
