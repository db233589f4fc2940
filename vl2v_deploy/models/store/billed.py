"""How many images were sent to a teacher for one bill, by all processes that ever booked on it."""

from __future__ import annotations

from pathlib import Path

from vl2v_deploy.models.ledger.booking import is_on
from vl2v_deploy.models.ledger.ledger import Budget, Ledger, ledgers_folder
from vl2v_deploy.models.store.asked import sent_for
from vl2v_deploy.recipe import HttpRecipe, TeacherRecipe


def images_billed(bill: str, teacher: TeacherRecipe, folder: Path) -> int:
    """What is on disk about it, which no kill loses; see models.ledger.booking.

    Of a vendor the ledgers have it: paid, possibly paid and in flight. A run that was resumed with another
    key, or at another address of the same teacher, has booked in several. Of another teacher the log in its
    folder has it, which is written before it is asked.

    Raises ModelError for a ledger or a log that cannot be read.
    """
    if not isinstance(teacher, HttpRecipe):
        return sent_for(folder, bill)
    ledgers = [Ledger(file, Budget(None, None)) for file in sorted(ledgers_folder().glob("*.sqlite"))]
    return sum(entry.images for ledger in ledgers for entry in ledger.entries() if is_on(entry.run, bill))
