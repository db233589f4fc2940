"""Parquet and Arrow files of Hugging Face `datasets`: bytes of images, and numbers of classes with names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vl2v_deploy.data.packed.shards import COLUMNS, Sample, require_size
from vl2v_deploy.errors import DataError, MissingExtra
from vl2v_deploy.names import listed, shown

_ROWS_AT_ONCE = 16


def samples_of_table(path: Path) -> Iterator[Sample]:
    """The rows of a file, in its order.

    Raises DataError for a file that is damaged or has no column of images or labels, and for a row without
    its image's bytes; MissingExtra without pyarrow.
    """
    try:
        import pyarrow
    except ImportError as missing:
        raise MissingExtra("pyarrow", "parquet") from missing
    try:
        with _opened(path) as (schema, batches):
            image = _image_column(schema)
            names = _class_names(schema)
            columns = [name for name in COLUMNS if name in schema.names]
            if image is None or "label" not in columns:
                raise DataError(
                    f"{shown(path)}: expected a column {{bytes, path}} of images and a column label, as "
                    f"`datasets` writes them; it has: {listed(map(str, schema.names), 20)}"
                )
            number = 0
            for batch in batches:
                for start in range(batch.num_rows):
                    [row] = batch.slice(start, 1).select([image, *columns]).to_pylist()
                    number += 1
                    place = f"{path}: row {number}"
                    says = {name: _named(row[name], names.get(name), f"{place}: {name}") for name in columns}
                    yield Sample(place, *_image(row[image], f"{place}: {image}"), says)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{shown(path)}: cannot be read: {error}") from error


def holds_images(path: Path) -> bool:
    """Whether a table has a column of images with their bytes; not where pyarrow cannot tell."""
    try:
        with _opened(path) as (schema, _):
            return _image_column(schema) is not None
    except (ImportError, OSError, ValueError):  # pyarrow's errors are of these, too
        return False


def _image_column(schema: Any) -> str | None:
    """The column of images with their bytes, as `datasets` keeps them: {bytes, path}; None = none."""
    from pyarrow import types

    found = [
        str(field.name)
        for field in schema
        if types.is_struct(field.type) and {"bytes", "path"} <= {child.name for child in field.type}
    ]
    return "image" if "image" in found else next(iter(found), None)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The schema, and the rows a few at a time."""
    from pyarrow import ipc, memory_map, parquet

    if path.suffix.lower() == ".arrow":
        with memory_map(str(path)) as file, ipc.open_stream(file) as stream:
            yield stream.schema, iter(stream)
    else:
        with parquet.ParquetFile(path) as table:
            yield table.schema_arrow, table.iter_batches(_ROWS_AT_ONCE)


def _class_names(schema: Any) -> dict[str, list[str]]:
    """The names of a column's numbers, by column: what `datasets` calls a ClassLabel."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {name: of["names"] for name, of in features.items() if of.get("_type") == "ClassLabel"}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}
    return {name: names for name, names in found.items() if isinstance(names, list)}


def _named(value: Any, names: list[str] | None, place: str) -> Any:
    if names is None or value is None or isinstance(value, str):
        return value
    if not (isinstance(value, int) and 0 <= value < len(names)):
        raise DataError(f"{shown(place)}: {value!r} is none of its {len(names)} classes")
    return names[value]


def _image(value: Any, place: str) -> tuple[bytes, str]:
    """The bytes of an image, and what its file was called."""
    encoded, named = (value or {}).get("bytes"), (value or {}).get("path")
    if not encoded:
        raise DataError(
            f"{shown(place)}: holds no bytes of an image"
            + (f", only the path {shown(str(named))}: list the files in a manifest" if named else "")
        )
    require_size(place, len(encoded))
    return encoded, named or ""
