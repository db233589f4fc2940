"""Nothing outside models/teacher knows how a teacher computes: no import, no name, no reach inside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "vl2v_deploy"
ROOM = PACKAGE / "models" / "teacher"
DOORS = {"load", "protocol", "api", "classes"}  # what others import from that room
PARTS = {"model", "transform", "tokenize", "tokenizer", "device", "encode_image", "encode_text", "visual"}
LIBRARIES = {"open_clip", "transformers", "pyarrow"}
# Predictions, lists of images and rows in Parquet, which are no teacher's embeddings.
READ_TABLES = {
    *("exporting/finished/logged.py", "data/manifest_file.py", "data/packed/tables.py"),
    *("bulk/lists.py", "bulk/rows.py", "scale/ray.py"),
}
# Where a kind's name is data: the schema, a first recipe's comment, lists of packages.
MAY_NAME = {
    *("recipe/teachers.py", "recipe/identity.py", "recipe/files.py", "recipe/whole.py"),
    *("data/starter.py", "data/starter_teachers.py", "models/versions.py", "cli/main.py", "cli/recipes.py"),
}


def breaches(file: Path, package: Path = PACKAGE) -> Iterator[str]:
    """What a file outside the room does that only the room may."""
    text, name = file.read_text(encoding="utf-8"), file.relative_to(package).as_posix()
    if "open_clip" in text and name not in MAY_NAME:
        yield f"{name} names open_clip"
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                modules = [alias.name for alias in node.names]
            case ast.ImportFrom():
                modules = [str(node.module)]
            case ast.Attribute(value=ast.Name(id=of) | ast.Attribute(attr=of), attr=part):
                if of.endswith("teacher") and part in PARTS and not name.startswith("recipe/"):
                    yield f"{name} reaches for {of}.{part}"
                continue
            case _:
                continue
        for module in modules:
            inside = module.removeprefix("vl2v_deploy.models.teacher.")
            if module.split(".")[0] == "pyarrow" and name in READ_TABLES:
                continue
            if module.split(".")[0] in LIBRARIES or (inside != module and inside.split(".")[0] not in DOORS):
                yield f"{name} imports {module}"


def test_only_the_room_knows_its_libraries() -> None:
    others = [file for file in sorted(PACKAGE.rglob("*.py")) if not file.is_relative_to(ROOM)]
    assert len(others) > 150
    assert [breach for file in others for breach in breaches(file)] == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import open_clip", "imports open_clip"),
        ("def f():\n    from open_clip.model import CLIP", "imports open_clip.model"),
        ("from transformers import AutoModel", "imports transformers"),
        ("from vl2v_deploy.models.teacher.precomputed import Table", "teacher.precomputed"),
        ("sources.teacher.device", "reaches for teacher.device"),
        ("def f(teacher): return teacher.model.visual", "reaches for teacher.model"),
        ("# as open_clip does", "names open_clip"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "bad.py").write_text(line)
    assert any(expected in breach for breach in breaches(tmp_path / "bad.py", tmp_path))
