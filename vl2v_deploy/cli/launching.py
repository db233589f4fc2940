"""How `distill` and `sweep` start many runs: printed as commands, as processes here, or as jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vl2v_deploy.errors import RunError
from vl2v_deploy.names import command, listed
from vl2v_deploy.torchrun import process_count

if TYPE_CHECKING:
    from vl2v_deploy.launching.cluster import Launcher, Resources
    from vl2v_deploy.launching.plan import RunCommand

_COUNT = click.IntRange(min=1)
_OPTIONS = (
    click.option(
        "--print-commands", is_flag=True, help="Run nothing: print a resumable command for each run."
    ),
    click.option("--jobs", type=_COUNT, help="Processes on this machine, each with one run at a time."),
    click.option(
        "--launcher",
        type=click.Choice(["local", "slurm"]),
        help="Hand the runs to submitit: jobs of SLURM, or its stand-in on this machine.",
    ),
    click.option("--pack", type=_COUNT, help="Runs per job, at the same time.  [default: 1]"),
    click.option("--partition", help="SLURM partition of the jobs."),
    click.option("--gpus", type=click.IntRange(min=0), help="GPUs per job."),
    click.option(
        "--minutes",
        type=_COUNT,
        help="Time limit of a job, which is then queued again and goes on from checkpoints.  [default: 240]",
    ),
    click.option("--cpus", type=_COUNT, help="Processor cores per job, on SLURM."),
    click.option("--mem-gb", type=click.FloatRange(min=0, min_open=True), help="Memory per job, on SLURM."),
    click.option("--slurm", multiple=True, metavar="KEY=VALUE", help="Another option of sbatch; repeatable."),
)


def launch_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options whose values make a `Launch`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True)
class Launch:
    """The values of the options, under their names."""

    print_commands: bool
    jobs: int | None
    launcher: Launcher | None
    pack: int | None
    partition: str | None
    gpus: int | None
    minutes: int | None
    cpus: int | None
    mem_gb: float | None
    slurm: tuple[str, ...]

    @property
    def elsewhere(self) -> bool:
        """Whether the runs are not made in this process."""
        return self.print_commands or self.jobs is not None or self.launcher is not None

    def check(self, *, overwrite: bool) -> None:
        """RunError for options that do not go together."""
        of_slurm: dict[str, object] = {
            "--partition": self.partition,
            "--cpus": self.cpus,
            "--mem-gb": self.mem_gb,
        }
        of_slurm["--slurm"] = self.slurm or None
        of_jobs = of_slurm | {"--pack": self.pack, "--gpus": self.gpus, "--minutes": self.minutes}
        needless = {None: of_jobs, "local": of_slurm, "slurm": {}}[self.launcher]
        if given := [option for option, value in needless.items() if value is not None]:
            raise RunError(f"{listed(given)}: only with --launcher {'local or ' * (not self.launcher)}slurm")
        if sum((self.print_commands, self.jobs is not None, self.launcher is not None)) > 1:
            raise RunError("--print-commands, --jobs and --launcher: give one of them")
        if self.elsewhere and process_count() > 1:
            raise RunError(
                "--print-commands, --jobs, --launcher: not in torchrun, whose processes share a run"
            )
        if self.elsewhere and overwrite:
            raise RunError(
                "--overwrite: a command that is run again would delete what it has; delete the folder instead"
            )
        if bad := [setting for setting in self.slurm if not all(setting.partition("=")[::2])]:
            raise RunError(f"--slurm {bad[0]}: expected KEY=VALUE, such as account=vision")


def launch(given: Launch, commands: Sequence[RunCommand], out: Path) -> bool:
    """Start the runs as asked for; whether all are finished now.

    Raises RunError when runs failed, MissingExtra without submitit.
    """
    from vl2v_deploy.launching.cluster import submit, wait_for
    from vl2v_deploy.launching.plan import write_plan
    from vl2v_deploy.launching.processes import run_here

    write_plan(commands, out)
    logs = out / "logs"
    if given.print_commands:
        for each in commands:
            click.echo(command(*each.words))
        return False
    if given.launcher is None:
        run_here(commands, given.jobs or 1, logs, click.echo)
        return True
    jobs = submit(commands, given.launcher, _resources(given), logs.resolve())
    click.echo(f"Submitted {len(commands)} runs as {len(jobs)} jobs: {listed([j.job_id for j in jobs], 20)}")
    if given.launcher == "slurm":
        click.echo(f"Logs: {logs}. What is finished, and what is missing: {command('table', out)}")
        return False
    wait_for(jobs)
    return True


def _resources(given: Launch) -> Resources:
    from vl2v_deploy.launching.cluster import Resources

    return Resources(
        partition=given.partition,
        gpus=given.gpus,
        minutes=given.minutes or Resources.minutes,
        cpus=given.cpus,
        mem_gb=given.mem_gb,
        pack=given.pack or Resources.pack,
        slurm=dict(setting.split("=", 1) for setting in given.slurm),
    )
