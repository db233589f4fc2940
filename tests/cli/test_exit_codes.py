"""docs/cli.md says which exit codes there are, which commands print JSON, and how a shell completes them."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from vl2v_deploy import errors
from vl2v_deploy.cli import benchmark
from vl2v_deploy.cli.main import cli
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.signals import SIGNALS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
# What a call of sys.exit names, beside numbers.
NAMED = {"UNUSABLE": benchmark.UNUSABLE, "REGRESSION": benchmark.REGRESSION}


def rows_of(heading: str) -> dict[str, str]:
    """The first two columns of the table below a heading."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| (?!-|code |command |shell )(.+?) \| (.+) \|$", section, re.MULTILINE))


def kinds(of: type[VL2VError] = VL2VError) -> Iterator[type[VL2VError]]:
    yield of
    for kind in of.__subclasses__():
        yield from kinds(kind)


def commands(group: click.Group = cli, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_the_table_has_every_exit_code_and_no_other() -> None:
    told = rows_of("Exit codes")
    of_errors = {kind.exit_code for kind in kinds()}
    of_commands = {code for file in (ROOT / "vl2v_deploy").rglob("*.py") for code in exits_in(file)}
    assert told.keys() == {"128 + n", *map(str, {0, click.UsageError.exit_code} | of_errors | of_commands)}
    for kind in kinds():
        if kind.exit_code != 1:
            assert f"`{kind.__name__}`" in told[str(kind.exit_code)]
    assert errors.BudgetError.exit_code == 3
    assert set(map(int, re.findall(r"\b1\d\d\b(?! \+)", told["128 + n"]))) == {128 + n for n in SIGNALS}


def exits_in(file: Path) -> Iterator[int]:
    """The numbers with which a file's code ends the program, where it spells them."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        if ast.unparse(node.func) in ("sys.exit", "SystemExit", "click.exceptions.Exit"):
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, int):
                yield argument.value
            elif isinstance(argument, ast.Name) and argument.id in NAMED:
                yield NAMED[argument.id]


def test_the_table_has_every_command_that_prints_json() -> None:
    prints = {name for name, command in commands() if any(o.name == "as_json" for o in command.params)}
    assert {name.strip("`") for name in rows_of("JSON")} == prints


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_program_prints_its_completion_script(shell: str) -> None:
    line = rows_of("Shell completion")[shell]
    [variable, value] = re.findall(r"(_[A-Z0-9_]+)=(\w+)", line)[0]
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['vl2v-deploy']; from vl2v_deploy.__main__ import main; main()",
        ],
        env=os.environ | {variable: value},
        capture_output=True,
        text=True,
        check=False,
    )
    if shell == "bash" and "bash" in ran.stderr.lower() and ran.returncode:
        pytest.skip(ran.stderr)  # click asks for bash 4.4
    assert ran.returncode == 0, ran.stderr
    assert "_vl2v_deploy_completion" in ran.stdout and f"{variable}={shell}_complete" in ran.stdout


def test_commands_and_options_are_completed() -> None:
    def completed(*words: str) -> list[str]:
        ran = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; sys.argv = ['vl2v-deploy']; from vl2v_deploy.__main__ import main; main()",
            ],
            env=os.environ
            | {
                "_VL2V_DEPLOY_COMPLETE": "bash_complete",
                "COMP_WORDS": " ".join(["vl2v-deploy", *words]),
                "COMP_CWORD": str(len(words)),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return [line.partition(",")[2] for line in ran.stdout.splitlines()]

    assert completed("doc") == ["doctor"]
    assert completed("doctor", "--j") == ["--json"]
