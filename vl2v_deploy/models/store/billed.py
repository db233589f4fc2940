"""How many images were sent to a teacher for one bill, by all processes that ever booked on it."""

from __future__ import annotations

from pathlib import Path

from vl2v_deploy.models.ledger.booking import is_on
from vl2v_deploy.models.ledger.ledger import Budget, Ledger, ledger_file
from vl2v_deploy.models.store.asked import sent_for
from vl2v_deploy.recipe import HttpRecipe, TeacherRecipe


def images_billed(bill: str, teacher: TeacherRecipe, folder: Path) -> int:
    """What is on disk about it, which no kill loses; see models.ledger.booking.

    Of a vendor the ledger has it: paid, possibly paid and in flight. Of another teacher the log in its folder
    has it, which is written before it is asked.
    """
    if not isinstance(teacher, HttpRecipe):
        return sent_for(folder, bill)
    ledger = Ledger(ledger_file(teacher.host, teacher.key_env), Budget(None, None))
    return sum(entry.images for entry in ledger.entries() if is_on(entry.run, bill))
