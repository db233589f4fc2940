"""`data.manifest`: a CSV, JSONL or Parquet file with one image per row, in place of a layout of folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from vl2v_deploy.data.files import is_hidden
from vl2v_deploy.data.splits import Split
from vl2v_deploy.errors import DataError, MissingExtra
from vl2v_deploy.names import composed, listed, shown

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".parquet")
IMAGE_COLUMNS = ("image", "file_name")  # the second is what `datasets` calls it, in its metadata files
NAMED_ROWS = 5


def _text(value: Any) -> Any:
    """Numbers are names, too; an empty cell is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value or None


def _name(value: Any) -> Any:
    text = _text(value)
    if isinstance(text, str) and shown(text) != text:
        raise ValueError("holds control characters or is not UTF-8")
    return composed(text) if isinstance(text, str) else text


_Text = Annotated[str, BeforeValidator(_text), StringConstraints(min_length=1)]
_Name = Annotated[str, BeforeValidator(_name), StringConstraints(min_length=1, strip_whitespace=True)]


class ManifestRow(BaseModel):
    """One row of a manifest; other columns are not used."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    image: Annotated[_Text, Field(validation_alias=AliasChoices(*IMAGE_COLUMNS))]
    label: _Name
    domain: Annotated[_Name | None, BeforeValidator(_text)] = None
    split: Annotated[Split | None, BeforeValidator(_text)] = None
    group: Annotated[_Text | None, BeforeValidator(_text)] = None


@dataclass(frozen=True)
class Listed:
    """An image of a manifest.

    domain, split, group: None where the manifest has no such column, or of a group an empty cell
    """

    path: Path
    label: str
    domain: str | None
    split: Split | None
    group: str | None


@dataclass(frozen=True)
class ManifestFile:
    """What a manifest lists.

    images:  in the order of the rows
    hidden:  files that are no data
    unknown: columns that are not used
    """

    images: tuple[Listed, ...]
    hidden: tuple[Path, ...]
    unknown: tuple[str, ...]


def read_manifest(file: Path, root: Path) -> ManifestFile:
    """The images that a manifest lists.

    root: what relative image paths are relative to

    Raises DataError that names the wrong rows by line: a cell that is missing or no such value, a URL, a file
    that is not there or listed twice, a group on two sides. MissingExtra for Parquet without pyarrow.
    """
    problems: list[str] = []
    images: list[Listed] = []
    hidden: list[Path] = []
    line_of: dict[Path, int] = {}
    columns: dict[str, None] = {}
    filled: dict[str, int] = {}  # the first line with a value, by optional column
    empty: dict[str, int] = {}
    side_of: dict[str, Split] = {}
    for line, tree in table_rows(file):
        columns.update(dict.fromkeys(tree))
        try:
            row = ManifestRow.model_validate(tree)
            path = _path(row.image, root)
        except ValidationError as error:
            problems += [f"line {line}: {_told(found)}" for found in error.errors()]
            continue
        except ValueError as error:
            problems.append(f"line {line}: image: {error}")
            continue
        if is_hidden(path.name):
            hidden.append(path)
            continue
        if (first := line_of.setdefault(path, line)) != line:
            problems.append(f"line {line}: image: {shown(row.image)} is listed on line {first} already")
        for column in ("domain", "split"):
            (filled if getattr(row, column) else empty).setdefault(column, line)
        if row.group and row.split and side_of.setdefault(row.group, row.split) != row.split:
            problems.append(f"line {line}: group: {shown(row.group)} is on two sides of the split")
        images.append(Listed(path, row.label, row.domain, row.split, row.group))
    for column in filled.keys() & empty.keys():
        problems.append(
            f"line {empty[column]}: {column}: is empty, and other rows have one; fill all or none"
        )
    if problems:
        more = f"\n... and {len(problems) - NAMED_ROWS} more" if len(problems) > NAMED_ROWS else ""
        raise DataError(f"data.manifest: {shown(file)}: " + "\n".join(problems[:NAMED_ROWS]) + more)
    if not images:
        raise DataError(f"data.manifest: {shown(file)}: lists no images; expected the columns image,label")
    used = {*ManifestRow.model_fields, *IMAGE_COLUMNS}
    unknown = tuple(shown(str(name)) for name in columns if name not in used)
    return ManifestFile(tuple(images), tuple(hidden), unknown)


def unknown_columns_notice(manifest: ManifestFile) -> tuple[str, ...]:
    """What a user is told of the columns that are not used."""
    if not manifest.unknown:
        return ()
    return (
        f"data.manifest: columns that are not used: {listed(manifest.unknown)} (used are "
        f"{', '.join(ManifestRow.model_fields)}).",
    )


def _path(image: str, root: Path) -> Path:
    if "://" in image:
        scheme = image.partition("://")[0]
        raise ValueError(
            f"{shown(image)} is a URL, and {shown(scheme)} images are not downloaded: mount the bucket or "
            "download the images, and list their paths"
        )
    path = root / image
    try:
        if path.is_file():
            return path
    except (OSError, ValueError) as error:
        raise ValueError(f"{shown(image)} is no path: {error}") from error
    raise ValueError(f"{shown(path)}: no such file; paths are relative to {shown(root)}")


def _told(error: Any) -> str:
    field, *_ = error["loc"]
    if error["type"] == "missing" or error["input"] in (None, ""):
        return f"{field}: is missing"
    return f"{field}: {shown(str(error['input']))}: {error['msg']}"


def table_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with their line in the file; of Parquet, which has no lines, the number of the row from 1."""
    if file.suffix.lower() not in MANIFEST_SUFFIXES:
        raise DataError(f"data.manifest: {shown(file)}: expected a file {', '.join(MANIFEST_SUFFIXES)}")
    try:
        match file.suffix.lower():
            case ".csv":
                yield from _csv_rows(file)
            case ".jsonl":
                yield from _jsonl_rows(file)
            case _:
                yield from _parquet_rows(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"data.manifest: {shown(file)}: cannot be read: {error}") from error


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # names of files may hold any bytes
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
        reader = csv.DictReader(opened)
        columns = set(reader.fieldnames or ())
        if "label" not in columns or columns.isdisjoint(IMAGE_COLUMNS):
            raise DataError(
                f"data.manifest: {shown(file)}: expected a header with the columns "
                "image,label[,domain][,split][,group]"
            )
        for row in reader:
            if None in row:
                raise DataError(
                    f"data.manifest: {shown(file)}: line {reader.line_num}: has more cells than the header"
                )
            yield reader.line_num, row


def _jsonl_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf-8-sig") as opened:
        for line, text in enumerate(opened, start=1):
            if not text.strip():
                continue
            try:
                tree = json.loads(text)
            except ValueError as error:
                raise DataError(f"data.manifest: {shown(file)}: line {line}: is not JSON: {error}") from error
            if not isinstance(tree, dict):
                raise DataError(f"data.manifest: {shown(file)}: line {line}: expected an object")
            yield line, tree


def _parquet_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as missing:
        raise MissingExtra("pyarrow", "parquet", "; or write the manifest as CSV or JSONL") from missing
    try:
        with parquet.ParquetFile(file) as opened:
            rows = (row for batch in opened.iter_batches() for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"data.manifest: {shown(file)}: is no Parquet file: {error}") from error
