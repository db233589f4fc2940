"""A picture of what a command prints: an SVG that shows its output, with colours, as a terminal does.

    python benchmarks/terminal_picture.py benchmarks/results/teacher_stats.svg -- vl2v-deploy teacher stats

The command runs here and now, so the picture shows what it really says. The SVG names only fonts that its
viewer has: it loads nothing from the network.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

FONT_FACE = re.compile(r"@font-face\s*\{[^}]*\}\s*")
FONT = re.compile(r"font-family:\s*Fira Code[^;]*;")
LOADED = re.compile(r"url\(\s*['\"]?(?!#)|@import|<image|<script|href\s*=\s*['\"](?!#)")


def terminal_svg(output: str, title: str, columns: int) -> str:
    """The SVG of a terminal window with this output, which may hold ANSI colours.

    Raises ClickException where it would load anything.
    """
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(output.rstrip("\n")), soft_wrap=True)
    # The id is made of the content otherwise, and of the day.
    svg = console.export_svg(title=title, unique_id="terminal")
    svg = FONT.sub("font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace;", svg)
    svg = FONT_FACE.sub("", svg)
    if found := LOADED.search(svg):
        raise click.ClickException(f"the SVG would load something: {svg[found.start() : found.end() + 60]!r}")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("command", nargs=-1, required=True)
@click.option("--columns", default=100, show_default=True, type=click.IntRange(20), help="Width.")
def main(out: Path, command: tuple[str, ...], columns: int) -> None:
    """Run COMMAND and write OUT, an SVG picture of what it prints."""
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(columns), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(f"{shlex.join(command)} ended with exit code {done.returncode}")
    if not done.stdout.strip():
        raise click.ClickException(f"{shlex.join(command)} printed nothing on standard output")
    out.write_text(terminal_svg(done.stdout, shlex.join(command), columns), encoding="utf-8")
    click.echo(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
