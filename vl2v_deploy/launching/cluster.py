"""Runs as jobs of a cluster, by submitit: SLURM, or its stand-in on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vl2v_deploy.errors import MissingExtra, RunError
from vl2v_deploy.launching.plan import RunCommand
from vl2v_deploy.launching.processes import Running, end_all, run_here

Launcher = Literal["local", "slurm"]


@dataclass(frozen=True)
class Resources:
    """What a job asks for; None = the cluster's default.

    minutes: after which the job is interrupted, and queued again until it is finished
    mem_gb:  of a node
    pack:    runs in one job, at once
    slurm:   further options of sbatch, by name
    """

    partition: str | None = None
    gpus: int | None = None
    minutes: int = 240
    cpus: int | None = None
    mem_gb: float | None = None
    pack: int = 1
    slurm: dict[str, str] = field(default_factory=dict)


class Job:
    """The runs of one job; at the scheduler's warning they end in order, and the job is queued again."""

    def __init__(self, commands: Sequence[RunCommand], logs: Path) -> None:
        self.commands, self.logs = tuple(commands), logs
        self._running: Running = {}

    def __call__(self) -> list[str]:
        """The names of the runs, all finished."""
        run_here(self.commands, len(self.commands), self.logs, print, self._running)
        return [command.name for command in self.commands]

    def checkpoint(self) -> Any:
        """Called by submitit, in its signal handler."""
        from submitit.helpers import DelayedSubmission

        end_all(self._running)
        return DelayedSubmission(Job(self.commands, self.logs))


def submit(
    commands: Sequence[RunCommand],
    launcher: Launcher,
    resources: Resources,
    folder: Path,
    restarts: int = 100,
) -> list[Any]:
    """submitit's jobs, submitted; on SLURM they are one array.

    folder:   of submitit's files and the runs' logs
    restarts: how many times a job that ran out of time is queued again

    Raises MissingExtra without submitit, RunError when the scheduler takes no jobs.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise MissingExtra("submitit", "cluster") from error
    limit = {f"{launcher}_max_num_timeout": restarts}
    try:
        executor = submitit.AutoExecutor(folder, cluster=launcher, **limit)
        executor.update_parameters(**_parameters(launcher, resources))
        starts = range(0, len(commands), resources.pack)
        jobs = [Job(commands[start : start + resources.pack], folder) for start in starts]
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise RunError(f"{launcher} took no jobs: {' '.join(str(error).split())}") from error
    return submitted


def wait_for(jobs: Sequence[Any]) -> None:
    """Wait until all jobs have ended; what ends this early ends them.

    Raises RunError with what the failed ones said.
    """
    try:
        errors = [job.exception() for job in jobs]
    except BaseException:
        for job in jobs:
            job.cancel()
        raise
    ended = zip(jobs, errors, strict=True)
    failed = [f"job {job.job_id}: {_last_line(error)}" for job, error in ended if error]
    if failed:
        raise RunError("; ".join(failed))


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip(" -")]
    said = [line for line in lines if "RunError: " in line] or lines or [type(error).__name__]
    return said[-1].partition("RunError: ")[2] or said[-1]


def _parameters(launcher: Launcher, resources: Resources) -> dict[str, Any]:
    asked: dict[str, Any] = {"name": "vl2v-deploy", "timeout_min": resources.minutes}
    asked["gpus_per_node"] = resources.gpus
    if launcher == "slurm":
        asked |= {"cpus_per_task": resources.cpus, "slurm_partition": resources.partition}
        asked |= {"mem_gb": resources.mem_gb, "slurm_additional_parameters": resources.slurm or None}
    return {name: value for name, value in asked.items() if value is not None}
