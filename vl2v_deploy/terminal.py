"""The terminal that everything is printed to."""

from __future__ import annotations

from rich.console import Console

_said: set[str] = set()
_only_errors = False


def leave_to_first_process() -> None:
    """From now on this process, one of several on the same run, prints neither notices nor progress.

    Errors are not printed here: each process says its own.
    """
    global _only_errors
    _only_errors = True


def new_console(*, stderr: bool = False) -> Console:
    """A console that prints names as they are: no square bracket is taken for markup, no :x: for an emoji.

    What is to be coloured is a rich Text, or is printed with a style.
    """
    return Console(stderr=stderr, markup=False, emoji=False, quiet=_only_errors)


def say_once(notice: str) -> None:
    """Print a notice to standard error, once in this process."""
    if notice not in _said:
        _said.add(notice)
        new_console(stderr=True).print(notice, soft_wrap=True, highlight=False)
