"""How long backbones take, as `vl2v-deploy shortlist` measured them before any was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vl2v_deploy.recipe import StudentRecipe


@dataclass(frozen=True)
class Latency:
    """Of one image, at one size, on one machine.

    median_ms: by backbone and precision
    machine:   and threads, in words
    """

    image_size_px: int
    median_ms: Mapping[str, Mapping[str, float]]
    machine: str

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(precision for found in self.median_ms.values() for precision in found))

    def of(self, student: StudentRecipe) -> Mapping[str, float]:
        """Milliseconds by precision; none where this backbone was not measured at this size."""
        if student.image_size_px != self.image_size_px:
            return {}
        return self.median_ms.get(student.backbone, {})

    def note(self) -> str:
        """What a reader of a column must know."""
        return (
            f"{', '.join(f'{precision} ms' for precision in self.precisions)}: median of one image of "
            f"{self.image_size_px} px, from pixels to logits, by shortlist with random weights on "
            f"{self.machine}; layers that an export of int8 puts back into fp32 are not in it."
        )
