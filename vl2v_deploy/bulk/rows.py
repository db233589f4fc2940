"""Rows of answers in three formats: JSON lines, CSV and Parquet.

Rows are encoded some hundred at a time, by the process that answered, and appended to a file of raw rows. At
the end it becomes the file that was asked for. Raw rows are JSON lines and lines of CSV as they will stand
there; for Parquet they are streams of Arrow's.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from vl2v_deploy.bulk.images import Image
from vl2v_deploy.client.answers import Prediction
from vl2v_deploy.errors import ImageError, MissingExtra, RunError, did_you_mean
from vl2v_deploy.escapes import csv_cell

Format: TypeAlias = Literal["parquet", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ROWS_IN_A_GROUP = 16_384  # of Parquet: 33 MB of embeddings of 512 numbers
IDENTITY = "vl2v_deploy"  # key of a Parquet file's metadata

Answers: TypeAlias = Sequence[tuple[Image, Prediction | ImageError]]


class Columns(NamedTuple):
    """What the rows hold besides image, label, probability, abstained, provider, precision and error.

    top:        how many classes, each with its probability
    embeddings: whether each image's embedding
    """

    top: int
    embeddings: bool


def format_of(out: Path, named: str | None = None) -> tuple[Format, bool]:
    """The format of an output, by its ending or as named, and whether it is a folder.

    Raises RunError for an ending that is none of them, MissingExtra for Parquet without pyarrow.
    """
    ending = out.suffix.lower().removeprefix(".")
    is_folder = out.is_dir() or not ending
    asked = named or ("parquet" if is_folder else ending)
    found = next((known for known in FORMATS if known == asked), None)
    if found is None or not (is_folder or found == ending):
        raise RunError(
            f"{out}: expected a file that ends in {', '.join(f'.{known}' for known in FORMATS)}, or a folder"
            f"{did_you_mean(ending, FORMATS)}"
        )
    if found == "parquet":
        _arrow()
    return found, is_folder


def row_of(image: Image, answer: Prediction | ImageError) -> dict[str, Any]:
    """One image's answer, or why there is none, as `predict --json` prints it."""
    if isinstance(answer, ImageError):
        return {"image": image.name, "error": str(answer)}
    row: dict[str, Any] = {"image": image.name, "label": answer.label, "probability": answer.probability}
    row |= {"top": answer.top, "abstained": answer.abstained}
    row |= {"provider": answer.runtime.provider, "precision": answer.runtime.precision}
    if answer.embedding is not None:
        # As many digits as tell float32 apart; float64's would be twice as many.
        row["embedding"] = [float(f"{value:.9g}") for value in answer.embedding]
    return row


def raw_rows(answers: Answers, format: Format, columns: Columns) -> bytes:
    """Answers as rows of a format."""
    rows = [row_of(image, answer) for image, answer in answers]
    match format:
        case "jsonl":
            return "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        case "csv":
            return _csv_lines(_csv_cells(row, columns) for row in rows)
        case "parquet":
            return _arrow_stream(rows, columns)


def finish_rows(raw: Path, target: Path, format: Format, columns: Columns, identity: str) -> None:
    """Make the file of a file of raw rows; memory does not grow with their number.

    identity: what made the rows, as text; only Parquet has a place for it
    """
    unfinished = target.with_name(f"_{target.name}")
    if format == "parquet":
        _write_parquet(raw, unfinished, columns, identity)
    else:
        with raw.open("rb") as rows, unfinished.open("wb") as file:
            if format == "csv":
                file.write(_csv_lines([_csv_header(columns)]))
            shutil.copyfileobj(rows, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
    unfinished.replace(target)


def identity_of_parquet(file: Path) -> str | None:
    """What a finished Parquet file says that made it; None where it does not say."""
    try:
        metadata = _arrow().parquet.read_schema(file).metadata or {}
    except (OSError, ValueError):
        return None
    found = metadata.get(IDENTITY.encode())
    return None if found is None else found.decode()


def _csv_header(columns: Columns) -> list[str]:
    names = ["image", "label", "probability", "abstained"]
    for place in range(1, columns.top + 1):
        names += [f"label_{place}", f"probability_{place}"]
    return [*names, "provider", "precision", *(["embedding"] if columns.embeddings else []), "error"]


def _csv_cells(row: Mapping[str, Any], columns: Columns) -> Iterator[object]:
    """The cells of a row, as many as the header has; texts are escaped for spreadsheets."""
    flat = dict(row)
    for place, (label, probability) in enumerate(flat.pop("top", ()), 1):
        flat |= {f"label_{place}": label, f"probability_{place}": probability}
    if "embedding" in flat:
        flat["embedding"] = json.dumps(flat["embedding"])
    for name in _csv_header(columns):
        value = flat.get(name, "")
        match value:
            case bool():
                yield str(value).lower()
            case str() if name != "embedding":
                yield csv_cell(value)
            case _:
                yield value


def _csv_lines(lines: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as missing:
        raise MissingExtra("pyarrow", "parquet", "; or write .csv or .jsonl") from missing
    return pyarrow


def _schema(columns: Columns) -> Any:
    arrow = _arrow()
    fields = [("image", arrow.string()), ("label", arrow.string()), ("probability", arrow.float64())]
    fields += [("abstained", arrow.bool_())]
    fields += [("top_labels", arrow.list_(arrow.string()))]
    fields += [("top_probabilities", arrow.list_(arrow.float64()))]
    fields += [("provider", arrow.string()), ("precision", arrow.string())]
    fields += [("embedding", arrow.list_(arrow.float32()))] if columns.embeddings else []
    return arrow.schema([*fields, ("error", arrow.string())])


def _arrow_stream(rows: Sequence[Mapping[str, Any]], columns: Columns) -> bytes:
    arrow = _arrow()
    flat = []
    for row in rows:
        top = row.get("top")
        labels = None if top is None else [label for label, _ in top]
        probabilities = None if top is None else [probability for _, probability in top]
        flat.append({**row, "top_labels": labels, "top_probabilities": probabilities})
    batch = arrow.RecordBatch.from_pylist(flat, schema=_schema(columns))
    with arrow.BufferOutputStream() as stream:
        with arrow.ipc.new_stream(stream, batch.schema) as writer:
            writer.write_batch(batch)
        return bytes(stream.getvalue())


def _write_parquet(raw: Path, target: Path, columns: Columns, identity: str) -> None:
    arrow = _arrow()
    schema = _schema(columns).with_metadata({IDENTITY: identity})
    with arrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        group: list[Any] = []
        for batch in _batches(raw):
            group.append(batch)
            if sum(map(len, group)) >= _ROWS_IN_A_GROUP:
                writer.write_table(arrow.Table.from_batches(group).cast(schema))
                group = []
        if group:
            writer.write_table(arrow.Table.from_batches(group).cast(schema))
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _batches(raw: Path) -> Iterator[Any]:
    arrow, length = _arrow(), raw.stat().st_size
    with arrow.OSFile(str(raw)) as file:
        while file.tell() < length:
            with arrow.ipc.open_stream(file) as stream:
                yield from stream
