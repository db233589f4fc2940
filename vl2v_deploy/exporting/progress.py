"""The display of an export: what it is doing now, with a bar where the work can be counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

from vl2v_deploy.bars import Bars

Say = Callable[[str], None]


class ExportProgress:
    """The live display of one export; `bar` also shows the phases of an engine's build."""

    def __init__(self, bar: Bars) -> None:
        self.bar = bar
        self._task = bar.add_task("Exporting", total=None)

    def say(self, doing: str) -> None:
        """Show what is done now, for as long as it takes."""
        self.bar.update(self._task, description=f"Exporting: {doing}", total=None)

    def count(self, doing: str, total: int) -> Callable[[int], None]:
        """Show what is done now and how far it is; the answer is called with how many more are done."""
        self.bar.update(self._task, description=f"Exporting: {doing}", total=total, completed=0)
        return lambda more: self.bar.advance(self._task, more)


@contextmanager
def export_progress(console: Console) -> Iterator[ExportProgress]:
    """The display, gone when the export is over."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bar:
        yield ExportProgress(bar)
