"""The page of all commands and their options, from click's own objects."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click
from fields import cell, code, table

from vl2v_deploy.cli.main import cli

_DEFAULT = re.compile(r"\s*\[default: (.*?)\]$")  # as a help text says it where click cannot


def commands_page() -> str:
    """Every command, with its usage, help, arguments and options."""
    lines = [
        "# Commands and options",
        "",
        "Made from the code. Exit codes, JSON and shell completion: [the command line](../cli.md).",
        "",
    ]
    for words, command in _commands("vl2v-deploy", cli):
        lines += _section(words, command)
    return "\n".join(lines)


def _commands(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(f"{words} {name}", command.commands[name])
    else:
        yield words, command


def _section(words: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=words)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {words.removeprefix('vl2v-deploy ')}", "", "```text", f"{words} {usage}", "```", ""]
    lines += [_help(command.help or ""), ""]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    rows = [_row(option, context) for option in options]
    columns = {"option": "---", "what it does": "---", "default": "---"}
    return [*lines, *(table(columns, rows) if rows else [])]


def _help(text: str) -> str:
    """click's help: \\b keeps the lines of a paragraph, which are examples here."""
    paragraphs = inspect.cleandoc(text).split("\f")[0].split("\n\n")
    return "\n\n".join(
        "```text\n" + inspect.cleandoc(p.lstrip("\b\n")) + "\n```" if p.startswith("\b") else cell(p)
        for p in paragraphs
        if p.strip("\b\n ")
    )


def _row(option: click.Option, context: click.Context) -> tuple[str, str, str]:
    names = ", ".join([*option.opts, *option.secondary_opts])
    record = option.get_help_extra(context)
    kind = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
    if "range" in record:  # INTEGER RANGE: which one
        kind = kind.replace(" RANGE", f" {record['range']}")
    text, in_words = _DEFAULT.sub("", option.help or ""), _DEFAULT.search(option.help or "")
    default = cell(in_words[1]) if in_words else code(str(record.get("default", "")))
    needed = " **Required.**" if option.required else ""
    many = " May be given several times." if option.multiple and "repeat" not in text else ""
    return code(f"{names}{kind}"), cell(text) + needed + many, default
