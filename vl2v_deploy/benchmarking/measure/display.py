"""One progress display for all that a benchmark does, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Advance(Protocol):
    """How a task says that it goes on: how many more steps are done, and with what it is busy now."""

    def __call__(self, steps: int, doing: str = "") -> None: ...


class Display:
    """A bar for each task that runs; entered once, and gone when it is left."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[doing]}"),
            console=console or Console(stderr=True),
            transient=True,
        )

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @contextmanager
    def task(self, words: str, total: int) -> Iterator[Advance]:
        """A bar of so many steps, gone when the work in the context is done."""
        task = self._progress.add_task(words, total=total, doing="")

        def advance(steps: int, doing: str = "") -> None:
            self._progress.advance(task, steps)
            if doing:
                self._progress.update(task, doing=doing)

        try:
            yield advance
        finally:
            self._progress.remove_task(task)
