"""A training stage as the user sees it: a progress bar, and lines in metrics.jsonl."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from vl2v_deploy.bars import Bars
from vl2v_deploy.errors import ModelError

LOG_EVERY = 10  # steps: reading the loss makes the host wait for the device


class StageProgress:
    """Progress of one stage, used as a context manager around its loop.

    start: the step at which a resumed stage goes on
    log:   metrics.jsonl, to which lines are added; None = neither bar nor lines (all but the first process)
    """

    def __init__(self, stage: str, steps: int, log: Path | None, start: int = 0) -> None:
        self.stage, self.steps, self.log, self.start = stage, steps, log, start
        self._bar = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  val {task.fields[val]}  {task.fields[speed]} images/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            disable=log is None,
        )
        self._images = 0
        self._paused_s = 0.0

    def __enter__(self) -> StageProgress:
        self._file: TextIO | None = self.log.open("a", encoding="utf-8") if self.log else None
        self._started = time.perf_counter()
        self._task = self._bar.add_task(
            self.stage.capitalize(), total=self.steps, completed=self.start, loss="-", val="-", speed="-"
        )
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._file:
            self._file.close()

    @property
    def training_seconds(self) -> float:
        """Seconds since the stage began here, without evaluations and checkpoints."""
        return time.perf_counter() - self._started - self._paused_s

    @contextmanager
    def paused(self, loss: Tensor) -> Iterator[None]:
        """What happens inside is not training: its seconds do not count in images/s.

        loss: of the last step; reading it makes the device finish its steps first
        """
        loss.item()
        started = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - started

    def advance(self, step: int, loss: Tensor, images: int) -> None:
        """One step is done; every few steps its loss is read, shown and logged.

        images: of this process in this step

        Raises ModelError when the loss is not a finite number.
        """
        self._images += images
        self._bar.advance(self._task)
        if step % LOG_EVERY and step != self.steps - 1:
            return
        value, seconds = loss.item(), self.training_seconds
        if not math.isfinite(value):
            raise ModelError(
                f"{self.stage}: the loss is {value} at step {step}: lower {self.stage}.learning_rate"
            )
        speed = self._images / seconds
        self._bar.update(self._task, loss=f"{value:.4f}", speed=f"{speed:.0f}")
        self._write(step, loss=value, images_per_s=round(speed, 1), seconds=round(seconds, 3))

    def evaluated(self, step: int, loss: float, accuracy: float) -> None:
        """The validation loss and accuracy (in [0, 1]) after `step`, shown and logged."""
        self._bar.update(self._task, val=f"{accuracy:.3f}")
        self._write(step, val_loss=loss, val_accuracy=accuracy)

    def _write(self, step: int, **values: Any) -> None:
        if self._file:
            self._file.write(json.dumps({"stage": self.stage, "step": step} | values) + "\n")
            self._file.flush()
