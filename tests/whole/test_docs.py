"""README and docs: their commands exist, their programs run, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from tests.helpers.quickstart import DOCUMENTS, ROOT, blocks
from tests.helpers.tiny import write_recipe
from vl2v_deploy.cli.main import cli

COMMANDS = [
    shlex.split(line, comments=True)
    for document in DOCUMENTS
    for block in blocks(document, "sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith(("vl2v-deploy ", "python ", "node "))
]
PROGRAMS = [(document, program) for document in DOCUMENTS for program in blocks(document, "python")]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "vl2v-deploy"], ids=" ".join)
def test_a_command_is_understood(command: list[str]) -> None:
    found: click.Command = cli
    rest = command[1:]
    while isinstance(found, click.Group):
        found, rest = found.commands[rest[0]], rest[1:]
    values, _, _ = found.make_parser(click.Context(found)).parse_args(args=rest)
    assert values is not None


def test_every_group_of_commands_is_documented() -> None:
    assert set(cli.commands) - {command[1] for command in COMMANDS if command[0] == "vl2v-deploy"} == set()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] != "vl2v-deploy"], ids=" ".join)
def test_a_script_is_there(command: list[str]) -> None:
    scripts = [word for word in command if word.endswith((".py", ".mjs"))]
    assert all((ROOT / script).is_file() for script in scripts)
    assert scripts or command[1] == "-m"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", DOCUMENTS[document]):
        if not link.startswith("http"):
            assert ((ROOT / document).parent / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [program for _, program in PROGRAMS if "Student.load" in program],
)
def test_programs_with_a_student_run(
    program: str, quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bundles").symlink_to(quickstart / "bundles")
    Path("photo.jpg").write_bytes(Path("bundles/quickstart/golden/00.webp").read_bytes())
    exec(compile(program, "a document", "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [program for _, program in PROGRAMS if "import benchmark, distill" in program],
)
def test_programs_from_recipe_to_report_run(
    program: str, domain_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the tiny student, with the tiny recipe in the quickstart's place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    Path("recipes").mkdir()
    write_recipe(tmp_path / "recipes", domain_folder).rename("recipes/quickstart.yaml")
    names: dict[str, object] = {}
    program = program.replace("distill.steps=200", "distill.steps=4")
    if "seconds=" not in program:
        program = program.replace("teacher=True", "teacher=True, seconds=1")
    exec(compile(program, "a document", "exec"), names)
    run, bundle, report = names["run"], names["bundle"], names["report"]
    assert run.plot.is_file() and 0 <= run.ood_accuracy <= 1
    assert (report.path / "report.html").is_file()
    assert set(report.report.results.engines) == {"onnxruntime:fp32", "onnxruntime:int8", "teacher"}
    for result in (run, bundle, report):
        assert str(result.path) in repr(result)
        assert "<table>" in result._repr_html_()


def test_every_program_is_run() -> None:
    for document, program in PROGRAMS:
        elsewhere = "teacher" in document or document == "docs/ray.md"
        assert "Student.load" in program or "import benchmark, distill" in program or elsewhere
