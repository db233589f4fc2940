"""Imports point only downwards (README, architecture), never sideways between packages, never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vl2v_deploy"
LAYERS = {
    "__main__": 9,
    "cli": 8,
    "cli_export": 7,
    "cli_benchmark": 7,
    "cli_bundle": 7,
    "cli_study": 7,
    "cli_teacher": 7,
    "cli_options": 6,
    "benchmark": 5,
    "distill": 4,
    "export": 4,
    "models": 3,
    "method": 2,
    "data": 2,
    "recipe": 1,
    "client": 1,
    "errors": 0,
    "__init__": 0,
}
# data preprocesses as the client does, models speak of recipes: one place may use any place below it
CLIENT_MAY_IMPORT = {"numpy", "onnxruntime", "PIL", "vl2v_deploy"}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth of nesting, as a dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(module: str) -> str:
    """'vl2v_deploy.models.teacher' -> 'models'."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def violations(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        here = relative.parts[0].removesuffix(".py")
        for module in imports(path):
            if not module.startswith("vl2v_deploy"):
                continue
            there = place(module)
            if there not in LAYERS:  # a name from vl2v_deploy/__init__.py
                there = "__init__"
            if there != here and LAYERS[there] >= LAYERS[here]:
                found.append(f"{relative} imports {module}: layer {LAYERS[here]} -> {LAYERS[there]}")
    return found


def module_graph(package: Path) -> dict[str, set[str]]:
    names = {
        "vl2v_deploy." + ".".join(p.relative_to(package).with_suffix("").parts) for p in package.rglob("*.py")
    }
    graph = {}
    for name in names:
        path = package / Path(*name.split(".")[1:]).with_suffix(".py")
        graph[name] = {module for module in imports(path) if module in names and module != name}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for other in sorted(graph[name]):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return None

    for start in sorted(graph):
        if found := visit(start, []):
            return found
    return None


def test_imports_point_downwards() -> None:
    assert violations(PACKAGE) == []


def test_every_place_has_a_layer() -> None:
    places = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("__pycache__")}
    assert places - {"py.typed", "builtin"} <= LAYERS.keys()


def test_no_circles() -> None:
    assert circle(module_graph(PACKAGE)) is None


def test_client_imports_only_what_ships() -> None:
    for path in (PACKAGE / "client").glob("*.py"):
        for module in imports(path):
            top = module.split(".")[0]
            if re.match(r"vl2v_deploy\.(client|errors)\b|vl2v_deploy$", module):
                continue
            assert top in CLIENT_MAY_IMPORT or top in __import__("sys").stdlib_module_names, (
                f"{path}: {module}"
            )
            assert top != "vl2v_deploy", f"{path}: {module}"


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("method/bad.py", "from vl2v_deploy.distill.run import x", "layer 2 -> 4"),
        ("distill/bad.py", "import vl2v_deploy.export.run", "layer 4 -> 4"),
        ("client/bad.py", "def f():\n    from vl2v_deploy import recipe", "layer 1 -> 1"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, line: str, expected: str) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(line)
    [found] = [v for v in violations(tmp_path) if expected in v][:1]
    assert file in found


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
