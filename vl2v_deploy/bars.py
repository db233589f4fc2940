"""Progress on standard error: bars on a terminal, elsewhere a line now and then; nothing with --quiet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from vl2v_deploy.terminal import new_console

T = TypeVar("T")
LOG_EVERY_S = 30.0
_quiet = False


def be_quiet() -> None:
    """Show no progress in this process from now on."""
    global _quiet
    _quiet = True


def is_quiet() -> bool:
    """Whether this process shows no progress."""
    return _quiet


class Bars(Progress):
    """rich's Progress, which on what is no terminal prints a line of each task every half minute.

    Lines come by the clock, whether or not a task moves; one that is done sooner prints none.
    """

    def __init__(
        self,
        *columns: str | ProgressColumn,
        console: Console | None = None,
        transient: bool = False,
        disable: bool = False,
    ) -> None:
        console = console or new_console(stderr=True)
        self._lines = not (console.is_terminal or console.is_jupyter)
        self._printed_at: dict[TaskID, float] = {}
        # rich would draw the last state of a bar into a file, unless it is transient
        transient = transient or self._lines
        super().__init__(
            *columns, console=console, transient=transient, disable=disable or _quiet or console.quiet
        )

    def stop(self) -> None:
        """As of rich, which would end lines with an empty one."""
        if self._lines:
            self.live.stop()
        else:
            super().stop()

    def get_renderable(self) -> RenderableType:
        """What rich draws, and asks for several times a second; of lines nothing, they are printed here."""
        if not self._lines:
            return super().get_renderable()
        now = time.monotonic()
        for task in self.tasks:
            if task.visible and now - self._printed_at.setdefault(task.id, now) >= LOG_EVERY_S:
                self._printed_at[task.id] = now
                self.console.print(Text(line_of(task)), soft_wrap=True)
        return ""


def line_of(task: Task) -> str:
    """A task in a line of a log: how far it is, since when, how long it may take, and its fields."""
    words = [f"{task.completed:g} of {task.total:g}"] if task.total else []
    if task.elapsed is not None:
        words.append(f"{timedelta(seconds=int(task.elapsed))}")
    if task.time_remaining:
        words.append(f"{timedelta(seconds=int(task.time_remaining))} left")
    words += [f"{name} {value}" for name, value in task.fields.items() if value not in ("", "-")]
    return f"{task.description}: {', '.join(words)}"


def tracked(items: Iterable[T], description: str, total: int, *, disable: bool = False) -> Iterator[T]:
    """The items, with a bar that is gone in the end."""
    with Bars(transient=True, disable=disable) as bars:
        yield from bars.track(items, total=total, description=description)
