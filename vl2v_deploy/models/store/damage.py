"""Damaged parts of the store: set aside by name, and bought again only when the user agrees.

<part>.damaged     set aside; of a teacher that is paid nothing is bought while there is one
<part>.given-up    the user agreed that what it held is bought again
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from vl2v_deploy.errors import ModelError

DAMAGED, GIVEN_UP = ".damaged", ".given-up"
AGREE = "vl2v-deploy teacher repair --buy-again"
MOST_NAMED = 3  # parts in a message


class Damage(ModelError):
    """A part of the store is damaged.

    what: the same without what to do about it
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what}; to have what it held bought again: {AGREE}")


def set_aside(part: Path) -> str:
    """Renames a damaged part; what happened, in words."""
    aside = part.with_name(part.name + DAMAGED)
    with suppress(OSError):
        part.replace(aside)
        return f"it was set aside as {aside.name}"
    return "it cannot be set aside there; remove it"


def parts_set_aside(folder: Path) -> list[Path]:
    """The damaged parts of a teacher's folder that nobody has given up, by name."""
    return sorted(folder.glob(f"*{DAMAGED}"))


def require_agreement(folder: Path) -> None:
    """ModelError while damaged parts are set aside: what they held must not be paid again unasked."""
    parts = [part.name for part in parts_set_aside(folder)]
    if not parts:
        return
    more = f" and {len(parts) - MOST_NAMED} more" if len(parts) > MOST_NAMED else ""
    raise ModelError(
        f"{folder}: {', '.join(parts[:MOST_NAMED])}{more}: damaged and set aside, so nothing is bought: "
        f"embeddings that were paid for may be among what is missing. Put back a copy of the undamaged "
        f"file, or agree to have them bought again: {AGREE}"
    )


def give_up(folder: Path) -> int:
    """Agrees that what the damaged parts held is bought again; how many parts there are.

    Raises OSError where they cannot be renamed.
    """
    parts = parts_set_aside(folder)
    for part in parts:
        part.replace(part.with_suffix(GIVEN_UP))
    return len(parts)
