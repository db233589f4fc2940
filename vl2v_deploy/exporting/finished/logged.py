"""Predictions that were logged, as JSON lines or Parquet: what `vl2v-deploy predict --json` prints.

Read of each: label, probability, abstained, precision and, where there is one, embedding. Lines with an error
in place of an answer are counted. Everything else is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.errors import DataError, MissingExtra

_KINDS: Mapping[str, type | tuple[type, ...]] = {"label": str, "probability": (int, float), "abstained": bool}


@dataclass(frozen=True)
class Logged:
    """N predictions, in the order in which they were logged.

    index:       (N,) of the class
    probability: (N,)
    abstained:   (N,)
    embeddings:  (N, D); None where the log has none
    precision:   of the file that answered
    errors:      lines that hold an error in place of an answer
    """

    index: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    abstained: npt.NDArray[np.bool_]
    embeddings: Floats | None
    precision: str
    errors: int


def read_predictions(path: Path, bundle: Bundle, precision: str | None = None) -> Logged:
    """The predictions in a log of the bundle's student.

    path:      a .parquet file; any other is read as JSON lines
    precision: of the file that answered, where the log does not say; else only its predictions are read

    Raises DataError that names the line for what is no prediction of this bundle, or when the log holds
    several precisions or embeddings of some images only; MissingExtra where pyarrow is needed and missing.
    """
    rows, errors, places = [], 0, {name: index for index, name in enumerate(bundle.classes)}
    for where, row in _parquet(path) if path.suffix == ".parquet" else _json_lines(path):
        if row.get("label") is None and row.get("error") is not None:
            errors += 1
            continue
        _check(row, where, places)
        if precision is None or row.get("precision") in (None, precision):
            rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no prediction{f' in {precision}' if precision else ''}")
    return Logged(
        index=np.array([places[row["label"]] for row in rows], np.int64),
        probability=np.array([row["probability"] for row in rows], np.float64),
        abstained=np.array([row["abstained"] for row in rows], bool),
        embeddings=_embeddings(path, rows, bundle.embedding_dim),
        precision=precision or _one_precision(path, rows),
        errors=errors,
    )


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}: line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
            yield where, row


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as missing:
        raise MissingExtra("pyarrow", "parquet", "; or log JSON lines") from missing
    try:
        file = parquet.ParquetFile(path)
        named = ["label", "probability", "abstained", "precision", "embedding", "error"]
        columns = [name for name in named if name in file.schema_arrow.names]
        number = 0
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row
    except (OSError, ValueError) as error:  # pyarrow's errors are of these too
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error


def _check(row: Mapping[str, Any], where: str, places: Mapping[str, int]) -> None:
    for name, kind in _KINDS.items():
        if not isinstance(row.get(name), kind):
            raise DataError(
                f"{where}: {name}: got {row.get(name)!r}; expected predictions as "
                "`vl2v-deploy predict BUNDLE IMAGES --json` prints them"
            )
    if row["label"] not in places:
        raise DataError(f"{where}: label: {row['label']!r} is no class of this bundle: {', '.join(places)}")
    if not 0.0 <= row["probability"] <= 1.0:
        raise DataError(f"{where}: probability: expected 0 to 1, got {row['probability']}")


def _embeddings(path: Path, rows: list[Mapping[str, Any]], dim: int) -> Floats | None:
    found = [row["embedding"] for row in rows if row.get("embedding") is not None]
    if not found:
        return None
    if len(found) < len(rows):
        raise DataError(f"{path}: {len(found)} of {len(rows)} predictions have an embedding: all, or none")
    try:
        embeddings = np.array(found, np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: embedding: not {dim} numbers in each prediction: {error}") from error
    if embeddings.shape != (len(rows), dim):
        raise DataError(f"{path}: embedding: expected {dim} numbers in each, got {embeddings.shape[1:]}")
    return embeddings


def _one_precision(path: Path, rows: list[Mapping[str, Any]]) -> str:
    found = sorted({str(row.get("precision")) for row in rows})
    if len(found) > 1 or found == ["None"]:
        held = "does not say which file answered" if found == ["None"] else f"holds {' and '.join(found)}"
        raise DataError(f"{path}: {held}: name the precision to judge with --precision")
    return found[0]
