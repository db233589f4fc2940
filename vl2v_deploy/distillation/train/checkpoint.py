"""checkpoint.pt of an unfinished run: everything that the next step depends on, so that none is repeated.

Batches and augmentations are pure functions of (seed, step); with the weights, the optimizer's moments and
the averaging's sums, a run that was killed goes on to the very weights it would have had.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vl2v_deploy.errors import RunError
from vl2v_deploy.method.averaging import Averager
from vl2v_deploy.models.record_parts.measured import StageReport
from vl2v_deploy.models.run_directory import CHECKPOINT, METRICS
from vl2v_deploy.models.student import Student

DONE = "done"  # the stage after the last


@dataclass
class Progress:
    """How far a run is.

    fingerprint: of the data it was started with
    teacher:     identity of the teacher it was started with
    stage:       the stage that comes next or is under way; "done" after the last
    step:        the next step of that stage
    unevaluated: whether the evaluation after the step before it is still to be made
    ended:       whether the last evaluation ended the stage before its last step
    student:     state dict at that point
    optimizer:   state of the stage's optimizer; None before its first step
    averager:    state of the stage's averaging; None before its first step
    accuracies:  of the stage's evaluations so far
    reports:     of finished stages
    seconds:     spent on each part so far
    queries:     images that the run sent to the teacher before it had a bill, in an earlier version
    embedded:    (N,) bool, the training images whose teacher embeddings the run uses, where it uses only
                 those that the store held at its start; None = all
    scale:       of its zero-shot classifier's logits, as evaluate.zero_shot.FittedScale has it; None = not
                 known yet
    """

    fingerprint: str
    teacher: str
    stage: str
    step: int
    student: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None = None
    averager: dict[str, Any] | None = None
    reports: dict[str, StageReport] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    queries: int = 0
    embedded: torch.Tensor | None = None
    accuracies: list[float] = field(default_factory=list)
    scale: tuple[Any, ...] | None = None
    unevaluated: bool = False
    ended: bool = False

    def start_stage(self, stage: str) -> None:
        """The one before is finished; nothing that belongs to its steps is kept."""
        self.stage, self.step, self.unevaluated, self.ended = stage, 0, False, False
        self.optimizer, self.averager, self.accuracies = None, None, []


class Checkpointer:
    """Writes checkpoint.pt into a run's folder now and then.

    every_s: seconds between checkpoints; 0 = whenever it is asked
    """

    def __init__(self, partial: Path, every_s: float) -> None:
        self.partial, self.every_s = partial, every_s
        self._written = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._written >= self.every_s

    def save_stage(
        self, progress: Progress, student: Student, optimizer: torch.optim.Optimizer, averager: Averager
    ) -> None:
        """Save the middle of a stage; `progress` keeps none of these tensors afterwards."""
        progress.student = student.state_dict()
        progress.optimizer, progress.averager = optimizer.state_dict(), averager.state()
        self.save(progress)
        progress.student, progress.optimizer, progress.averager = {}, None, None

    def save(self, progress: Progress) -> None:
        """Write a new file and rename it over the old one: a kill at any moment leaves a complete one."""
        metrics = self.partial / METRICS
        content = vars(progress) | {
            "reports": {stage: report.model_dump(mode="json") for stage, report in progress.reports.items()},
            "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
        }
        unfinished = self.partial / f"{CHECKPOINT}.partial"
        with unfinished.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.partial / CHECKPOINT)
        self._written = time.monotonic()


def load_checkpoint(partial: Path) -> Progress | None:
    """How far the unfinished run in `partial` came; None when it has no checkpoint yet.

    Lines of metrics.jsonl that were written after the checkpoint are removed: those steps run again.

    Raises RunError for a damaged checkpoint.
    """
    path, metrics = partial / CHECKPOINT, partial / METRICS
    if not path.is_file():
        metrics.unlink(missing_ok=True)
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        metrics_bytes = content.pop("metrics_bytes")
        reports = {stage: StageReport.model_validate(tree) for stage, tree in content.pop("reports").items()}
        progress = Progress(**content, reports=reports)
    except Exception as error:  # torch.load raises many types for a file that is not a checkpoint
        raise RunError(f"{path}: is damaged ({error}); pass --overwrite to start the run again") from error
    if metrics.exists():
        os.truncate(metrics, metrics_bytes)
    return progress
