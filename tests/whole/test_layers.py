"""Imports point only downwards, between floors and between the rooms of a floor, and never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "vl2v_deploy"
# Of a package that has rooms, the floor of each room and module inside it; "" is vl2v_deploy itself.
FLOORS = {
    "": {
        "__main__": 10,
        "cli": 9,
        "api": 8,
        "results": 7,
        "looking": 7,
        "shortlist": 7,
        "benchmarking": 6,
        "launching": 6,
        "serving": 6,
        "doctor": 5,
        "testing": 5,
        "scale": 5,
        "distillation": 5,
        "exporting": 5,
        "models": 4,
        "bulk": 4,
        "method": 3,
        "data": 3,
        "recipe": 2,
        "client": 2,
        "folders": 1,
        "terminal": 1,
        "bars": 2,
        "escapes": 2,
        "names": 1,
        "signals": 1,
        "regular_files": 0,
        "torchrun": 0,
        "errors": 0,
    },
    "launching": {"cluster": 2, "processes": 1, "plan": 0},
    "looking": {
        "run": 5,
        "html": 4,
        "summary": 3,
        "words": 3,
        "choosing": 2,
        "component_map": 2,
        "answering": 2,
        "images": 2,
        "student": 2,
        "teacher": 2,
        "answers": 1,
        "thumbnails": 0,
        "page": 0,
    },
    "shortlist": {"render": 2, "run": 1, "candidates": 0, "exported": 0, "timing": 0},
    "doctor": {
        "command": 4,
        "run": 3,
        "render": 2,
        "accelerators": 2,
        "network": 2,
        "packages": 1,
        "pillow": 1,
        "places": 1,
        "processor": 1,
        "environment": 1,
        "findings": 0,
        "importing": 0,
        "children": 0,
    },
    "benchmarking": {
        "run": 5,
        "report": 4,
        "measure": 4,
        "options": 3,
        "judge": 3,
        "worker": 3,
        "cascade": 2,
        "schema": 1,
        "answers": 0,
        "scenario": 0,
        "engine_names": 0,
    },
    "distillation": {
        "sweep": 8,
        "sweep_file": 8,
        "report": 8,
        "run": 7,
        "single_run": 6,
        "run_record": 5,
        "meanwhile": 4,
        "forecast": 6,
        "dry_run": 5,
        "pace": 5,
        "purchase": 5,
        "train": 4,
        "evaluate": 3,
        "sources": 2,
        "features": 1,
        "parallel": 0,
        "guidance": 0,
        "overwriting": 0,
        "protocol": 0,
        "study": 0,
    },
    "distillation.purchase": {
        "render": 4,
        "check": 3,
        "ahead": 2,
        "estimate": 1,
        "needed": 0,
        "probes": 0,
        "selection": 0,
    },
    "distillation.train": {
        "stages": 3,
        "training_data": 2,
        "loop": 2,
        "checkpoint": 1,
        "objectives": 0,
        "progress": 0,
    },
    "distillation.evaluate": {"agreement": 3, "predictions": 2, "zero_shot": 1, "probe": 0, "scores": 0},
    "distillation.study": {
        "table_formats": 5,
        "figures": 4,
        "sweep_plots": 3,
        "table": 4,
        "selection": 3,
        "comparison": 2,
        "results": 1,
        "training_plot": 1,
        "latency": 0,
    },
    "bulk": {
        "run": 5,
        "kept": 4,
        "answering": 3,
        "inputs": 3,
        "rows": 2,
        "tars": 2,
        "images": 1,
        "globs": 0,
        "lists": 0,
        "parts": 0,
        "progress": 0,
    },
    "method": {
        "hand_over": 4,
        "averaging": 3,
        "swad_authors": 2,
        "losses": 1,
        "swad": 1,
        "confidence": 1,
        "metrics": 0,
        "patience": 0,
        "reports": 0,
        "weights": 0,
        "rise": 0,
        "schedule": 0,
        "zero_shot": 0,
    },
    "recipe": {
        "files": 4,
        "identity": 4,
        "single": 4,
        "whole": 3,
        "training": 2,
        "teachers": 2,
        "vendors": 1,
        "protocol": 1,
        "inputs": 0,
        "methods": 0,
        "problems": 0,
        "yaml_text": 0,
    },
    "exporting": {
        "finished": 6,
        "run": 5,
        "targets": 4,
        "tensorrt": 3,
        "accuracy": 3,
        "golden": 3,
        "reference": 4,
        "trial": 3,
        "confidence": 2,
        "precision": 2,
        "manifest": 2,
        "graph": 1,
        "images": 1,
        "model_card": 0,
        "bill_of_materials": 0,
        "options": 0,
        "progress": 0,
    },
    "client.cascade": {
        "cascade": 6,
        "answering": 5,
        "summary": 5,
        "asking": 4,
        "options": 3,
        "tally": 3,
        "kept": 2,
        "teacher": 2,
        "answers": 2,
        "budget": 1,
        "decision": 1,
        "estimates": 1,
        "chosen_for": 2,
        "policy": 1,
        "breaker": 0,
        "queue": 0,
    },
    "client.monitor": {
        "monitor": 6,
        "exposition": 5,
        "kinds": 5,
        "reference": 4,
        "drift": 3,
        "scores": 2,
        "watched": 2,
        "design_effect": 2,
        "betting": 1,
        "operations": 0,
    },
    "serving": {
        "run": 5,
        "app": 4,
        "kserve": 3,
        "openai": 3,
        "service": 2,
        "batcher": 1,
        "tensors": 1,
        "inputs": 0,
        "limits": 0,
        "metrics": 0,
        "settings": 0,
        "connections": 0,
        "protocol": 0,
    },
    "models": {
        "run_directory": 4,
        "student": 3,
        "store": 3,
        "teacher": 2,
        "ledger": 1,
        "backbone_weights": 0,
        "batches": 0,
        "depthwise": 0,
        "device": 0,
        "efficientnet_lite": 0,
        "group_commit": 0,
        "image_sizes": 0,
        "memory": 0,
        "record": 1,
        "record_parts": 0,
        "versions": 0,
    },
    "models.ledger": {
        "spending": 2,
        "merging": 2,
        "ledger": 1,
        "booking": 0,
        "copied": 0,
        "owners": 0,
        "pacer": 0,
        "tables": 0,
    },
    "models.store": {
        "billed": 6,
        "repair": 6,
        "stats": 6,
        "kept": 6,
        "merging": 6,
        "store": 5,
        "buying": 4,
        "held": 4,
        "questions": 4,
        "journal": 3,
        "asking": 3,
        "canaries": 2,
        "shards": 1,
        "asked": 1,
        "damage": 0,
        "disk": 0,
        "keys": 0,
        "mapped": 0,
        "reading": 0,
        "views": 0,
    },
    "models.teacher": {
        "load": 3,
        "api": 3,
        "http": 2,
        "open_clip": 2,
        "precomputed": 2,
        "transformers": 2,
        "open_clip_model": 1,
        "builtin": 0,
        "protocol": 0,
        "classes": 1,
    },
    "models.teacher.http": {
        "teacher": 3,
        "asking": 2,
        "identity": 2,
        "answers": 1,
        "images": 1,
        "transport": 1,
        "apis": 0,
        "key": 0,
        "purchase": 0,
        "retries": 0,
    },
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


def place(module: str, package: str) -> str:
    """The room or module of `package` that a dotted module is in: 'models.teacher.open_clip' -> 'teacher'.

    "" when it is the package itself, or lies outside it.
    """
    inside = module.removeprefix(f"{package}.") if package else module
    return "" if package and inside == module else inside.split(".")[0]


def violations(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        here = ".".join(path.relative_to(package).with_suffix("").parts)
        for module in imports(path):
            if module.startswith("vl2v_deploy."):
                there = module.removeprefix("vl2v_deploy.")
                found += [
                    f"{here} imports {there}: {problem}"
                    for of, floors in FLOORS.items()
                    if (problem := _problem(floors, place(here, of), place(there, of)))
                ]
    return found


def _problem(floors: dict[str, int], here: str, there: str) -> str | None:
    # A name from a package's __init__.py has no floor of its own; the import of that package was checked.
    if here == there or here not in floors or there not in floors or floors[there] < floors[here]:
        return None
    return f"floor {floors[here]} -> {floors[there]}"


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


@pytest.mark.parametrize("package", FLOORS)
def test_every_place_has_a_floor(package: str) -> None:
    folder = PACKAGE.joinpath(*package.split(".")) if package else PACKAGE
    places = {p.name.removesuffix(".py") for p in folder.iterdir()} - {"__init__", "__pycache__", "py.typed"}
    assert places == FLOORS[package].keys()


def test_the_architecture_page_shows_these_floors() -> None:
    page = (PACKAGE.parent / "docs/architecture.md").read_text(encoding="utf-8")
    shown = {
        place.removesuffix(".py").removesuffix("/"): int(floor)
        for floor, place in re.findall(r"^\| (\d) \| `([^`]+)` \|", page, flags=re.MULTILINE)
    }
    assert shown == {place: floor for place, floor in FLOORS[""].items() if place != "__main__"}


def test_no_circles() -> None:
    assert circle(module_graph(PACKAGE)) is None


def test_client_imports_only_what_ships() -> None:
    for path in (PACKAGE / "client").rglob("*.py"):
        for module in imports(path):
            top = module.split(".")[0]
            if re.match(r"vl2v_deploy\.(client|errors|names|regular_files)\b|vl2v_deploy$", module):
                continue
            assert top in CLIENT_MAY_IMPORT or top in __import__("sys").stdlib_module_names, (
                f"{path}: {module}"
            )
            assert top != "vl2v_deploy", f"{path}: {module}"


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("method/bad.py", "from vl2v_deploy.distillation.run import x", "floor 3 -> 5"),
        ("distillation/bad.py", "import vl2v_deploy.exporting.run", "floor 5 -> 5"),
        ("client/bad.py", "def f():\n    from vl2v_deploy import recipe", "floor 2 -> 2"),
        ("models/teacher/bad.py", "from vl2v_deploy.models import student", "floor 2 -> 3"),
        ("exporting/graph/bad.py", "import vl2v_deploy.exporting.precision.parity", "floor 1 -> 2"),
        ("benchmarking/judge/bad.py", "import vl2v_deploy.benchmarking.worker.timing", "floor 3 -> 3"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, line: str, expected: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    [found] = [v for v in violations(tmp_path) if expected in v][:1]
    assert ".".join(Path(file).with_suffix("").parts) in found


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
