"""A part of a campaign whose attempts end in every way there is, as their random numbers say."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from vl2v_deploy.errors import RecipeError

DOCUMENTED = (RecipeError,)
Ending: TypeAlias = Literal["ok", "refused", "foreign", "crashed", "hung", "too large", "unprintable"]


def ending_of(seed: int, number: int) -> Ending:
    """How an attempt ends."""
    return _ending(random.Random(f"{__name__} {seed} {number}"))


def prepared(folder: Path) -> Path:
    assert not list(folder.iterdir())
    return folder


def attempt(shared: Path, rng: random.Random) -> None:
    """Fine, refused, foreign, crashed, hung, more memory than there is, or an error that moves the cursor."""
    assert shared.is_dir()
    match _ending(rng):
        case "refused":
            raise RecipeError("refused")
        case "foreign":
            raise KeyError("a\nb")
        case "crashed":
            os.abort()
        case "hung":
            while True:
                pass
        case "too large":
            bytearray(1 << 40)
        case "unprintable":
            raise RecipeError("moves the cursor \x1b[2J")


def _ending(rng: random.Random) -> Ending:
    return rng.choice(get_args(Ending))
