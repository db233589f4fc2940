"""One progress display for all that a benchmark does, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from vl2v_deploy.bars import Bars


class Advance(Protocol):
    """Reports progress of a task: how many more steps are done, and what it does now."""

    def __call__(self, steps: int, doing: str = "") -> None: ...


class Display(Bars):
    """A bar for each running task; removed at the end."""

    def __init__(self, console: Console | None = None) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        doing = TextColumn("{task.fields[doing]}", markup=False)
        super().__init__(*columns, doing, console=console, transient=True)

    @contextmanager
    def task(self, words: str, total: int) -> Iterator[Advance]:
        """A bar of so many steps, removed when the work in the context is done."""
        task = self.add_task(words, total=total, doing="")

        def advance(steps: int, doing: str = "") -> None:
            self.update(task, advance=steps)
            if doing:
                self.update(task, doing=doing)

        try:
            yield advance
        finally:
            self.remove_task(task)
