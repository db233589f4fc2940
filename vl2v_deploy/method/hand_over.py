"""The checkpoint that Align hands over in the authors' code of VL2V-ADiP, in place of averaged weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vl2v_deploy.method.averaging import Averager
from vl2v_deploy.method.reports import AveragingReport
from vl2v_deploy.method.weights import fp32_copies, named_like, restored


class BestCheckpoint:
    """The weights of the evaluation with the highest accuracy, of equals the last; an Averager.

    within:     the averager that says when the stage ends; its own result is not used
    first_step: an earlier evaluation does not count
    """

    def __init__(self, within: Averager, first_step: int) -> None:
        self.within, self.first_step = within, first_step
        self.tensors: list[Tensor] = []
        self.step: int | None = None
        self.accuracy: float | None = None

    def after_step(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        self.within.after_step(step, parameters)

    def after_evaluation(
        self, step: int, parameters: Mapping[str, Tensor], loss: float, accuracy: float
    ) -> bool:
        if step >= self.first_step and (self.accuracy is None or accuracy >= self.accuracy):
            self.tensors = fp32_copies(parameters.values())
            self.step, self.accuracy = step, accuracy
        # A valley that is dead before the first step that counts leaves nothing to hand over: it goes on.
        return self.within.after_evaluation(step, parameters, loss, accuracy) and self.step is not None

    def result(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return named_like(parameters, self.tensors)

    def report(self) -> AveragingReport:
        """Of the averager within."""
        return self.within.report()

    def state(self) -> dict[str, Any]:
        own = {"tensors": self.tensors, "step": self.step, "accuracy": self.accuracy}
        return own | {"within": self.within.state()}

    def restore(self, state: dict[str, Any], parameters: Mapping[str, Tensor]) -> None:
        self.tensors = restored(state["tensors"], parameters)
        self.step, self.accuracy = state["step"], state["accuracy"]
        self.within.restore(state["within"], parameters)
