"""A training stage as the user sees it: a progress bar, and lines in metrics.jsonl."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from vl2v_deploy.errors import ModelError

LOG_EVERY = 10  # steps: reading the loss makes the host wait for the device


class StageProgress:
    """Progress of one stage, used as a context manager around its loop."""

    def __init__(self, stage: str, steps: int, log: Path) -> None:
        self.stage, self.steps, self.log = stage, steps, log
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} images/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._images = 0

    def __enter__(self) -> StageProgress:
        self._file: TextIO = self.log.open("a", encoding="utf-8")
        self._started = time.perf_counter()
        self._task = self._bar.add_task(self.stage.capitalize(), total=self.steps, loss="-", speed="-")
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._file.close()

    def advance(self, step: int, loss: Tensor, images: int) -> None:
        """One step is done; every few steps its loss is read, shown and logged.

        Raises ModelError when the loss is not a finite number.
        """
        self._images += images
        self._bar.advance(self._task)
        if step % LOG_EVERY and step != self.steps - 1:
            return
        value, seconds = loss.item(), time.perf_counter() - self._started
        if not math.isfinite(value):
            raise ModelError(
                f"{self.stage}: the loss is {value} at step {step}: lower {self.stage}.learning_rate"
            )
        speed = self._images / seconds
        self._bar.update(self._task, loss=f"{value:.4f}", speed=f"{speed:.0f}")
        line = {
            "stage": self.stage,
            "step": step,
            "loss": value,
            "images_per_s": round(speed, 1),
            "seconds": round(seconds, 3),
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
