"""Committed results, read for docs_figures.py: BenchmarkError for one that is missing or of another form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vl2v_deploy.errors import BenchmarkError


def text_of(path: Path) -> str:
    """The text of a result."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"{path}: cannot be read: {error.strerror or error}") from error


def json_of(path: Path) -> dict[str, Any]:
    """The JSON object in a result."""
    try:
        found: dict[str, Any] = json.loads(text_of(path))
    except ValueError as error:
        raise BenchmarkError(f"{path}: is not JSON: {error}") from error
    return found


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a result of one object for each line."""
    return [json.loads(line) for line in text_of(path).splitlines()]
