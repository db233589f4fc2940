"""The command line. Each command imports what is heavy only when it runs."""

from __future__ import annotations

import io
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import click

from vl2v_deploy import __version__
from vl2v_deploy.cli.benchmark import benchmark_commands
from vl2v_deploy.cli.bundle import relabel
from vl2v_deploy.cli.doctor import doctor
from vl2v_deploy.cli.export import export_commands
from vl2v_deploy.cli.interruption import what_was_kept
from vl2v_deploy.cli.launching import Launch, launch, launch_options
from vl2v_deploy.cli.look import look
from vl2v_deploy.cli.monitor import monitor
from vl2v_deploy.cli.options import (
    ALLOW_DUPLICATES,
    ANY_PATH,
    OVERWRITE,
    RESUME,
    RUNS,
    SETTINGS,
    SKIP_BAD,
)
from vl2v_deploy.cli.predict import predict
from vl2v_deploy.cli.recipes import init, recipe
from vl2v_deploy.cli.serve import serve
from vl2v_deploy.cli.shortlist import shortlist
from vl2v_deploy.cli.study import study_commands
from vl2v_deploy.cli.teacher import teacher as teacher_commands
from vl2v_deploy.cli.trying import try_recipe
from vl2v_deploy.errors import MissingExtra, VL2VError
from vl2v_deploy.names import shown
from vl2v_deploy.signals import Interrupted, end_with_parent, ended_by_signals, received
from vl2v_deploy.torchrun import is_first_process, is_started_by_torchrun


class Commands(click.Group):
    """Turns errors that a user can act on into one line and their exit code; a signal n into 128 + n."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _print_any_name()
        words = kwargs.get("args") or (args[0] if args else None) or sys.argv[1:]
        if is_started_by_torchrun():  # which, when it is killed, leaves its processes behind
            end_with_parent()
        with ended_by_signals():
            return self._run(list(words), *args, **kwargs)

    def _run(self, words: list[str], *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **(kwargs | {"standalone_mode": False}))
        except click.exceptions.Abort as abort:
            by = abort.__cause__
            # libraries that call back into Python raise a plain KeyboardInterrupt again
            self._end(words, by.number if isinstance(by, Interrupted) else received() or signal.SIGINT)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except VL2VError as error:
            for line in f"Error: {error}".split("\n"):  # a name in it may hold what moves the cursor
                click.echo(shown(line), err=True)
            sys.exit(error.exit_code)
        except OSError as error:
            if error.filename is None:
                raise
            click.echo(f"Error: {shown(str(error.filename))}: {error.strerror}", err=True)
            sys.exit(1)
        except ModuleNotFoundError as error:
            extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
            if extra is None:
                raise  # one of our own modules, or of a package that is half installed: a bug
            click.echo(f"Error: {MissingExtra(str(error.name), extra)}", err=True)
            sys.exit(1)
        except Exception:
            # C libraries make errors of their own of an `Interrupted`, as matplotlib of one in __array__.
            if (number := received()) is None:
                raise
            self._end(words, number)

    def _end(self, words: list[str], number: int) -> NoReturn:
        if is_first_process():
            click.echo(what_was_kept(self, words, signal.Signals(number)), err=True)
        sys.exit(128 + number)


def _print_any_name() -> None:
    """A name that the terminal's encoding lacks is printed with escapes, in place of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_TRAIN = (
    "torch torchvision timm open_clip onnx onnxscript pydantic yaml rich safetensors matplotlib jinja2 "
    "platformdirs filelock httpx"
)
_EXTRA_OF = dict.fromkeys(_TRAIN.split(" "), "train") | {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
_EXTRA_OF |= dict.fromkeys(("fastapi", "starlette", "uvicorn", "prometheus_client"), "serve")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="vl2v-deploy")
@click.option("--quiet", is_flag=True, help="Show no progress; errors, notices and results as always.")
def cli(quiet: bool) -> None:
    """Distill a vision-language teacher into a small student, export it, measure what it costs.

    \b
    vl2v-deploy init data/pacs > pacs.yaml      write a recipe for a folder of domains
    vl2v-deploy distill pacs.yaml               align and distill a student
    vl2v-deploy export                          turn the newest run into a bundle
    vl2v-deploy inspect bundles/pacs            what is in it; verify: does it answer right here?
    vl2v-deploy predict bundles/pacs cat.jpg    use the bundle
    vl2v-deploy look bundles/pacs               its mistakes, as pictures on a page
    vl2v-deploy benchmark bundles/pacs --teacher --usd-per-hour 1.0
    vl2v-deploy doctor                          what is wrong here, and what to do
    """
    if quiet and find_spec("rich"):  # without it there are no bars
        from vl2v_deploy.bars import be_quiet

        be_quiet()


@cli.command()
@click.argument("recipe", type=ANY_PATH)
@click.option("--out", type=ANY_PATH, help="Run directory.  [default: runs/<recipe name>]")
@SETTINGS
@SKIP_BAD
@ALLOW_DUPLICATES
@OVERWRITE
@RESUME
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only try the models: random weights, a few steps, the export; say how long all steps would take "
    "here, and what the teacher is asked and costs.",
)
@launch_options
def distill(
    recipe: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    skip_bad: bool,
    allow_duplicates: bool,
    overwrite: bool,
    resume: bool,
    dry_run: bool,
    **launching: Any,
) -> None:
    """Align and distill the student that RECIPE describes.

    A recipe of several methods, targets (data.target: each) or trials makes one run of each; those that are
    finished are not run again. Several GPUs: torchrun --nproc_per_node 4 -m vl2v_deploy distill RECIPE.

    \b
    vl2v-deploy distill recipes/quickstart.yaml
    vl2v-deploy distill recipes/quickstart.yaml --set data.target=each --set trials=3 --resume
    vl2v-deploy distill recipes/pacs.yaml --dry-run
    """
    from vl2v_deploy.recipe import load_recipe

    given = Launch(**launching)
    given.check(overwrite=overwrite)
    if allow_duplicates:
        overrides = (*overrides, "data.split.duplicates=allow")
    loaded = load_recipe(recipe, overrides)  # a bad recipe fails before torch is imported
    if dry_run:
        if is_first_process():
            try_recipe(recipe, loaded, skip_bad=skip_bad)
        return
    from vl2v_deploy.api import distill_all
    from vl2v_deploy.distillation.protocol import is_one_run
    from vl2v_deploy.distillation.report import print_runs
    from vl2v_deploy.launching.plan import run_commands, write_plan
    from vl2v_deploy.models.ledger.booking import billed_to

    folder = out or RUNS / recipe.stem
    several = not is_one_run(loaded)
    if given.elsewhere and not several:
        raise click.UsageError(
            "the recipe is one run: nothing to launch; see --set data.target=each, trials=3"
        )
    if several:
        commands = run_commands(recipe, [(overrides, folder)], folder, ["--skip-bad"] if skip_bad else [])
        if given.elsewhere:
            if launch(given, commands, folder):
                print_runs([each.path for each in commands], folder)
            return
        if is_first_process():
            write_plan(commands, folder)
    with billed_to(recipe.stem):
        runs = distill_all(loaded, folder, skip_bad=skip_bad, overwrite=overwrite, resume=resume)
    if is_first_process():
        print_runs([run.path for run in runs], folder)


teacher_commands.add_command(serve)
cli.add_command(teacher_commands)
for subcommand in (
    *(*benchmark_commands, *study_commands, *export_commands),
    *(recipe, init, predict, relabel, monitor, look, doctor, shortlist),
):
    cli.add_command(subcommand)
