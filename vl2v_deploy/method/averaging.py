"""The weights that a stage ends with. Sources: SWAD (Cha et al. 2021), DomainBed's model selection."""
# ruff: noqa: ARG002 - every averager gets the same arguments and uses those that it needs

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from vl2v_deploy.method.reports import AveragingReport, BestReport, EmaReport, LastReport
from vl2v_deploy.method.swad import Swad
from vl2v_deploy.method.swad_authors import AuthorsSwad
from vl2v_deploy.method.weights import fp32_copies, move_towards, named_like, restored
from vl2v_deploy.recipe import StageRecipe


class Averager(Protocol):
    """What turns a stage's trajectory of weights into its result.

    parameters: the trained tensors by name; the same names in the same order in every call. `step` is
    whatever the caller counts by, rising; the last step of a stage has to be evaluated.
    """

    def after_step(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Take note of the weights after an optimizer step; never makes the host wait for the device."""

    def after_evaluation(
        self, step: int, parameters: Mapping[str, Tensor], loss: float, accuracy: float
    ) -> bool:
        """Take note of an evaluation of the current weights; True = nothing can change the result any more.

        loss:     cross-entropy on the sources' val split, nats; its mean is the recipe's validation_mean
        accuracy: on the sources' val split; with `oracle`, on the target's
        """

    def result(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The stage's final weights, copies, in the dtype of `parameters`, the current ones."""

    def report(self) -> AveragingReport:
        """What was averaged or chosen."""

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, to be saved before the next call."""

    def restore(self, state: dict[str, Any], parameters: Mapping[str, Tensor]) -> None:
        """Go on from a `state()` bit for bit; its tensors may lie on another device than `parameters`."""


def start_averaging(recipe: StageRecipe) -> Averager:
    """The averager that a stage's recipe names, at the start of the stage."""
    match recipe.averaging:
        case "swad":
            return AuthorsSwad(recipe) if recipe.swad.variant == "authors" else Swad(recipe.swad)
        case "ema":
            return Ema(recipe.ema_decay)
        case "last":
            return Last()
        case "best" | "oracle":
            return Best(recipe.averaging)


@dataclass
class Last:
    """The weights of the last step."""

    def after_step(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        pass

    def after_evaluation(
        self, step: int, parameters: Mapping[str, Tensor], loss: float, accuracy: float
    ) -> bool:
        return False

    def result(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in parameters.items()}

    def report(self) -> LastReport:
        return LastReport("last")

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any], parameters: Mapping[str, Tensor]) -> None:
        pass


@dataclass
class Best:
    """The weights with the highest accuracy at an evaluation; of equals, the first.

    kind: best = accuracy on the sources' val split; oracle = on the target's, which the caller measures
    """

    kind: Literal["best", "oracle"]
    tensors: list[Tensor] = field(default_factory=list)
    step: int | None = None
    loss: float | None = None
    accuracy: float | None = None

    def after_step(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        pass

    def after_evaluation(
        self, step: int, parameters: Mapping[str, Tensor], loss: float, accuracy: float
    ) -> bool:
        if self.accuracy is None or accuracy > self.accuracy:
            self.tensors = fp32_copies(parameters.values())
            self.step, self.loss, self.accuracy = step, loss, accuracy
        return False

    def result(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return named_like(parameters, self.tensors)

    def report(self) -> BestReport:
        return BestReport(self.kind, self.step, self.loss, self.accuracy)

    def state(self) -> dict[str, Any]:
        return {"tensors": self.tensors, "step": self.step, "loss": self.loss, "accuracy": self.accuracy}

    def restore(self, state: dict[str, Any], parameters: Mapping[str, Tensor]) -> None:
        self.tensors = restored(state["tensors"], parameters)
        self.step, self.loss, self.accuracy = state["step"], state["loss"], state["accuracy"]


@dataclass
class Ema:
    """Exponential moving average: step i of n weighs (1 - d) d^(n - i) / (1 - d^n).

    The divisor makes the weights sum to 1 (Adam's bias correction): without it the first step would weigh
    d^(n - 1), which is two thirds of all after 400 steps of decay 0.999.

    decay: d in (0, 1)
    """

    decay: float
    tensors: list[Tensor] = field(default_factory=list)
    steps: int = 0

    def after_step(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        self.steps += 1
        if not self.tensors:
            self.tensors = fp32_copies(parameters.values())
            return
        newest = (1 - self.decay) / (1 - self.decay**self.steps)
        move_towards(self.tensors, parameters.values(), newest)

    def after_evaluation(
        self, step: int, parameters: Mapping[str, Tensor], loss: float, accuracy: float
    ) -> bool:
        return False

    def result(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return named_like(parameters, self.tensors)

    def report(self) -> EmaReport:
        return EmaReport("ema", self.decay, self.steps)

    def state(self) -> dict[str, Any]:
        return {"tensors": self.tensors, "steps": self.steps}

    def restore(self, state: dict[str, Any], parameters: Mapping[str, Tensor]) -> None:
        self.tensors, self.steps = restored(state["tensors"], parameters), state["steps"]
