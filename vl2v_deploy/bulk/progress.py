"""How far a bulk prediction is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from vl2v_deploy.errors import VL2VError

if TYPE_CHECKING:  # `predict` of a few images needs no rich
    from rich.console import Console

LINE_EVERY_S = 30.0

# called with how many images are answered and how many of them failed, earlier attempts included
Show = Callable[[int, int], None]


class Total:
    """How many images there will be, counted by a thread while they are answered; None until it is known."""

    def __init__(self, images: Iterable[object] | None) -> None:
        """images: a stream of its own; None = they cannot be counted ahead"""
        self.count: int | None = None
        self._ended = False
        if images is not None:
            threading.Thread(target=self._count, args=(images,), daemon=True, name="count").start()

    def end(self) -> None:
        """Stop counting."""
        self._ended = True

    def _count(self, images: Iterable[object]) -> None:
        count = 0
        try:
            for _ in images:
                count += 1
                if self._ended:
                    return
        except (VL2VError, OSError):
            return  # whoever answers the images meets it, too
        self.count = count


@contextmanager
def shown_progress(console: Console, total: Total, before: int) -> Iterator[Show]:
    """What shows how far it is.

    total:  of all attempts together
    before: images that an earlier attempt has answered
    """
    began = time.monotonic()

    def state(images: int, failed: int) -> str:
        return in_words(images, failed, images - before, time.monotonic() - began, total.count)

    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    from vl2v_deploy.bars import is_quiet

    try:
        if is_quiet():
            yield lambda _, __: None
            return
        if console.is_terminal:
            columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}", markup=False))
            with Progress(*columns, console=console, transient=True) as bar:
                task = bar.add_task("loading the student", total=None)
                yield lambda images, failed: bar.update(
                    task, description=state(images, failed), completed=images, total=total.count
                )
            return
        said = began

        def say(images: int, failed: int) -> None:
            nonlocal said
            if time.monotonic() - said >= LINE_EVERY_S:
                said = time.monotonic()
                console.print(state(images, failed), soft_wrap=True, highlight=False)

        yield say
    finally:
        total.end()


def in_words(images: int, failed: int, now: int, seconds: float, total: int | None) -> str:
    """How many images are answered, how fast, and for how long it will go on.

    now: of them, those of this attempt

    >>> in_words(1500, 2, 1000, 10.0, 2500)
    '1,500 of 2,500 images, 2 failed, 100 images/s, 0:00:10 left'
    >>> in_words(3, 0, 3, 6.0, None)
    '3 images, 0.5 images/s'
    """
    rate = now / seconds if seconds else 0.0
    words = [f"{images:,}{'' if total is None else f' of {total:,}'} images"]
    words += [f"{failed:,} failed"] if failed else []
    words += [f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.1f} images/s"]
    if total is not None and rate:
        words += [f"{timedelta(seconds=round(max(0, total - images) / rate))} left"]
    return ", ".join(words)
