"""Lists of weight tensors in fp32: copies and running means, without the host waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


def fp32_copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """A copy of each tensor, in fp32, detached, where it lies."""
    return [tensor.detach().to(torch.float32, copy=True) for tensor in tensors]


def restored(tensors: Iterable[Tensor], parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """Copies of saved fp32 tensors where the parameters lie: there, arithmetic goes on bit for bit."""
    device = next(iter(parameters.values())).device
    return [tensor.to(device, copy=True) for tensor in tensors]


def named_like(parameters: Mapping[str, Tensor], tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Copies of `tensors` under the names and in the dtypes of `parameters`, which have the same order.

    Raises RuntimeError when there are no tensors yet.
    """
    if not tensors:
        raise RuntimeError("no weights were seen yet: a stage needs a step and an evaluation after the last")
    return {
        name: tensor.to(like.dtype, copy=True)
        for (name, like), tensor in zip(parameters.items(), tensors, strict=True)
    }


@torch.no_grad()
def move_towards(tensors: list[Tensor], others: Iterable[Tensor], share: float) -> None:
    """tensors += share * (others - tensors), in place; share in [0, 1]."""
    torch._foreach_lerp_(tensors, [other.detach().float() for other in others], share)


@dataclass
class RunningMean:
    """Mean of the weights seen so far, in fp32.

    steps: how many it is the mean of; with 0 of them there are no tensors
    """

    tensors: list[Tensor] = field(default_factory=list)
    steps: int = 0

    def add(self, tensors: Iterable[Tensor], steps: int = 1) -> None:
        """Take in weights, or a mean of `steps` >= 1 of them."""
        self.steps += steps
        if self.tensors:
            move_towards(self.tensors, tensors, steps / self.steps)
        else:
            self.tensors = fp32_copies(tensors)

    def merge(self, other: RunningMean) -> None:
        """Add everything that another mean was taken over."""
        if other.steps:
            self.add(other.tensors, other.steps)

    def state(self) -> dict[str, Any]:
        return {"tensors": self.tensors, "steps": self.steps}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> RunningMean:
        return cls(restored(state["tensors"], parameters), state["steps"])
