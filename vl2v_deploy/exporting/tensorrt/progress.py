"""The builder's progress as a progress bar, and Ctrl-C while it builds."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from rich.progress import Progress


def progress_monitor(trt: ModuleType, progress: Progress | None) -> Any:
    """The library's IProgressMonitor: a bar for each phase that runs; `interrupted` after Ctrl-C.

    The library swallows what its callbacks raise, so a Ctrl-C that arrives in one is noted, the build
    cancelled, and the caller has to raise it again.

    progress: a live display, to which the bars are added while they run; None = nothing is shown
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.tasks: dict[str, Any] = {}
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            try:
                if progress is not None:
                    indent = "  " if parent_phase else ""
                    self.tasks[phase_name] = progress.add_task(f"{indent}{phase_name}", total=num_steps)
            except KeyboardInterrupt:
                self.interrupted = True

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if progress is not None and phase_name in self.tasks:
                    progress.update(self.tasks[phase_name], completed=step + 1)
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            try:
                if progress is not None and phase_name in self.tasks:
                    progress.remove_task(self.tasks.pop(phase_name))
            except KeyboardInterrupt:
                self.interrupted = True

    return Monitor()
