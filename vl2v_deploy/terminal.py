"""The terminal that everything is printed to."""

from __future__ import annotations

from rich.console import Console

_said: set[str] = set()


def new_console(*, stderr: bool = False) -> Console:
    """A console that prints names as they are: no square bracket is taken for markup, no :x: for an emoji.

    What is to be coloured is a rich Text, or is printed with a style.
    """
    return Console(stderr=stderr, markup=False, emoji=False)


def say_once(notice: str) -> None:
    """Print a notice to standard error, once in this process."""
    if notice not in _said:
        _said.add(notice)
        new_console(stderr=True).print(notice, soft_wrap=True, highlight=False)
