"""What a command that was told to end has kept, and how to go on; in one line."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import click

from vl2v_deploy.names import command
from vl2v_deploy.torchrun import process_count


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
    again = command(*words)
    if process_count() > 1:
        again = again.replace("vl2v-deploy", "torchrun ... -m vl2v_deploy", 1)
    return f"Interrupted by {by.name}: {kept}; go on with: {again}"


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
