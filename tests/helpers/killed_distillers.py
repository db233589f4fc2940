"""Distills in forked children, each killed by SIGKILL at a chosen moment (for test_kill_bills).

python -m tests.helpers.killed_distillers RECIPE OUT MOMENT...

MOMENT: kept-N after the N-th answers were kept; answered-N when an answer came that is not kept yet, after
N that were; evaluate before the evaluation; renamed when the directory has its name; end not at all. Every
child but the first resumes. The modules are imported once. Prints the exit status of each child, negative
for a signal.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from vl2v_deploy.distillation import single_run
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.models import run_directory
from vl2v_deploy.models.store.buying import Purchase
from vl2v_deploy.models.teacher.http import asking
from vl2v_deploy.recipe import load_recipe


def killed(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str) -> None:
    """Has this process killed at the moment."""
    name, _, number = moment.partition("-")
    keep, numbers = Purchase.keep, count(1)

    def kept(self: Purchase, *answer: Any) -> None:
        keep(self, *answer)
        if next(numbers) == int(number):
            if name == "kept":
                killed()
            asking.read_rows = killed  # type: ignore[assignment]

    if number:
        Purchase.keep = kept  # type: ignore[method-assign]
    elif name == "evaluate":
        single_run.predictions = killed  # type: ignore[assignment]
    elif name == "renamed":
        leave: Callable[[Path], None] = run_directory.remove_leftovers
        run_directory.remove_leftovers = lambda out: killed() if out.exists() else leave(out)


def main(recipe: Path, out: Path, moments: list[str]) -> None:
    loaded = load_recipe(recipe)
    for number, moment in enumerate(moments):
        child = os.fork()
        if child == 0:
            arm(moment)
            distill_recipe(loaded, out, resume=number > 0)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
