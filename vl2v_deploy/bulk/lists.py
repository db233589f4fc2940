"""Paths of images in a list: text, CSV or Parquet, read a little at a time."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vl2v_deploy.errors import DataError, MissingExtra
from vl2v_deploy.names import shown
from vl2v_deploy.regular_files import open_regular

TEXT, CSV, PARQUET = (".txt", ".lst", ".list"), ".csv", ".parquet"
LISTS = (*TEXT, CSV, PARQUET)
COLUMNS = ("image", "path")  # the first of them that a table has
_ROWS_AT_ONCE = 4096


def paths_of_list(file: Path) -> Iterator[str]:
    """The paths in a list, by its ending; relative ones count from the current folder.

    Raises DataError for a table without a column of them, MissingExtra for Parquet without pyarrow.
    """
    match file.suffix.lower():
        case ".csv":
            yield from _of_csv(file)
        case ".parquet":
            yield from _of_parquet(file)
        case _:
            with open_regular(file) as lines:
                yield from paths_of_lines(lines)


def paths_of_lines(lines: Iterable[bytes]) -> Iterator[str]:
    r"""One path a line, of any bytes; empty lines are none.

    >>> list(paths_of_lines([b"a.jpg\n", b"\n", b"b c.jpg\r\n"]))
    ['a.jpg', 'b c.jpg']
    """
    for number, line in enumerate(lines):
        path = (line.removeprefix(codecs.BOM_UTF8) if number == 0 else line).rstrip(b"\r\n")
        if path:
            yield os.fsdecode(path)


def _of_csv(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            table = csv.DictReader(text)
            column = _column(file, table.fieldnames or ())
            for row in table:
                yield _path(file, f"line {table.line_num}", column, row[column])
    except csv.Error as error:
        raise DataError(f"{shown(file)}: cannot be read as CSV: {error}") from error


def _of_parquet(file: Path) -> Iterator[str]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as missing:
        raise MissingExtra("pyarrow", "parquet", "; or pass the list as CSV or text") from missing
    try:
        with parquet.ParquetFile(file) as table:
            column, number = _column(file, table.schema_arrow.names), 0
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[column]):
                for path in batch.column(0).to_pylist():
                    number += 1
                    yield _path(file, f"row {number}", column, path)
    except DataError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's errors are of these too
        raise DataError(f"{shown(file)}: cannot be read as Parquet: {error}") from error


def _column(file: Path, names: Iterable[str]) -> str:
    found = list(names)
    for name in COLUMNS:
        if name in found:
            return name
    columns = ", ".join(map(shown, found)) or "none"
    raise DataError(f"{shown(file)}: expected a column {' or '.join(COLUMNS)}, got {columns}")


def _path(file: Path, where: str, column: str, path: object) -> str:
    if not isinstance(path, str) or not path:
        raise DataError(f"{shown(file)}: {where}: {column}: expected the path of an image, got {path!r}")
    return path
