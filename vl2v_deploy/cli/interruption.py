"""What a command that was told to end has kept, and how to go on; in one line."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from itertools import groupby

import click

from vl2v_deploy.names import command
from vl2v_deploy.torchrun import process_count

_MOST_NAMED = 7  # words between two options, of which otherwise
_KEPT = 4  # are repeated


def what_was_kept(root: click.Group, words: Sequence[str], by: signal.Signals) -> str:
    """What is said when a signal has ended a command.

    words: the command line without the program
    by:    the signal
    """
    groups, ran = _command_of(root, words)
    if ran is not None and _keeps(ran, words):
        # --overwrite would start it again
        what = "every row so far" if ran.name == "predict" else "what was paid for and trained"
        kept = f"{what} is kept"
        words = [*(word for word in words if word not in ("--overwrite", "--resume")), "--resume"]
    elif "teacher" in groups:
        kept = "what was paid for is kept"
    else:
        kept = "nothing half-written is left"
    words, left_out = _cut(words)
    again = command(*words)
    if process_count() > 1:
        again = again.replace("vl2v-deploy", "torchrun ... -m vl2v_deploy", 1)
    if left_out:
        again += f" (... stands for {left_out} more)"
    return f"Interrupted by {by.name}: {kept}; go on with: {again}"


def _cut(words: Sequence[str]) -> tuple[list[str], int]:
    """The words without most of a long list, as a shell makes of a pattern, and how many are left out.

    >>> _cut(["predict", "b", "1.png", "2.png", "3.png", "4.png", "5.png", "6.png", "--out", "o.csv"])
    (['predict', 'b', '1.png', '2.png', '...', '--out', 'o.csv'], 4)
    """
    kept: list[str] = []
    left_out = 0
    for is_option, run in groupby(words, lambda word: word.startswith("-")):
        named = list(run)
        if not is_option and len(named) > _MOST_NAMED:
            left_out += len(named) - _KEPT
            named = [*named[:_KEPT], "..."]
        kept += named
    return kept, left_out


def _keeps(ran: click.Command, words: Sequence[str]) -> bool:
    """Whether the command goes on where it was; `predict` does where it writes a file."""
    if ran.name == "predict" and not any(word.partition("=")[0] == "--out" for word in words):
        return False
    return any(option.name == "resume" for option in ran.params)


def _command_of(root: click.Group, words: Sequence[str]) -> tuple[list[str], click.Command | None]:
    """The groups that the words name below `root`, and the command; None where they name none."""
    groups: list[str] = []
    found: click.Command = root
    for word in words:
        if not isinstance(found, click.Group):
            break
        if word in found.commands:
            found = found.commands[word]
            groups += [word] if isinstance(found, click.Group) else []
    return groups, None if found is root else found
