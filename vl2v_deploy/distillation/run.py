"""From a recipe to finished run directories: every run of its protocol, trained and evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vl2v_deploy.distillation.overwriting import (
    begin_overwriting,
    end_overwriting,
    folder_of_runs,
    is_overwriting,
    is_replaced,
    note_replaced,
)
from vl2v_deploy.distillation.parallel import first_does, open_world
from vl2v_deploy.distillation.protocol import PlannedRun, is_one_run, planned_runs
from vl2v_deploy.distillation.single_run import distill_run
from vl2v_deploy.distillation.sources import Sources, open_sources, recipe_of_teacher
from vl2v_deploy.errors import RunError
from vl2v_deploy.models.device import limit_torch_threads
from vl2v_deploy.models.record import RECORD, read_record
from vl2v_deploy.models.run_directory import (
    is_interrupted_replacement,
    is_resumable,
    remove_leftovers,
    require_startable,
    start_run,
)
from vl2v_deploy.models.teacher.protocol import Teacher
from vl2v_deploy.recipe import Recipe, recipe_sha256


def distill_recipe(
    recipe: Recipe,
    out: Path,
    *,
    teacher: Teacher | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> list[Path]:
    """The finished run directories: `out`, or with several methods, targets or trials those inside it.

    With several, a run that is already there from the same recipe and data is not run again.

    teacher: used instead of the recipe's; the run's recipe then has kind: python and its identity
    resume:  go on with interrupted runs from their last checkpoint

    Raises what loading the data, the teacher or the student raises; RunError when a directory is in the way.
    """
    if teacher is not None:
        recipe = recipe_of_teacher(recipe, teacher)
    return distill_recipes(
        [(recipe, out)], teacher=teacher, skip_bad=skip_bad, overwrite=overwrite, resume=resume
    )


def distill_recipes(
    recipes: Sequence[tuple[Recipe, Path]],
    *,
    teacher: Teacher | None = None,
    skip_bad: bool,
    overwrite: bool,
    resume: bool,
) -> list[Path]:
    """The finished run directories of several recipes, each with the folder of its runs.

    Neighbours with the same teacher share it, the pretrained features and the decoded images.
    """
    limit_torch_threads()
    several = len(recipes) > 1 or not is_one_run(recipes[0][0])
    folder = folder_of_runs([out for _, out in recipes])
    with open_world() as world:
        finished: list[Path] = []
        sources: Sources | None = None
        overwrites = several and first_does(world, partial(_overwrites, folder, overwrite, resume))
        for recipe, out in recipes:
            finished_before = first_does(world, partial(_is_to_be_kept, out, overwrite, resume))
            if not several and not finished_before:  # a folder in the way is found before anything is loaded
                first_does(world, partial(require_startable, out, overwrite=overwrite, resume=resume))
            elif not is_one_run(recipe) and (out / RECORD).is_file():
                raise RunError(f"{out}: is one run; pass another --out for the runs of this recipe")
            if sources is None or not sources.serve(recipe):
                sources = open_sources(recipe, world, skip_bad=skip_bad, teacher=teacher)
            all_planned = planned_runs(recipe, out, sources.data(recipe.data)[0].domains)
            for planned in all_planned:  # an image that may not be used is found before any run
                for unlabelled in (sources.unlabelled(planned.recipe), sources.held_out(planned.recipe)):
                    sources.of_target(planned.recipe, unlabelled)
                sources.near_copies(planned.recipe)
            if overwrites and overwrite and not finished:  # nothing above was in the way
                first_does(world, partial(begin_overwriting, folder))
            for planned in all_planned:
                finished.append(planned.path)
                replaces = overwrites and not first_does(world, partial(is_replaced, folder, planned.path))
                keep = (several or resume) and not (overwrite or replaces)
                unfinished = _begin(
                    planned, sources, keep=keep, overwrite=overwrite, replaces=replaces, resume=resume
                )
                if unfinished is not None:
                    distill_run(planned, sources, unfinished)
                if replaces:
                    first_does(world, partial(note_replaced, folder, planned.path))
        if overwrites:
            first_does(world, partial(end_overwriting, folder))
        return finished


def _overwrites(folder: Path, overwrite: bool, resume: bool) -> bool:
    """Whether the runs of a folder are to be replaced: now, or since an --overwrite that was interrupted."""
    if not overwrite and not resume and is_overwriting(folder):
        raise RunError(
            f"{folder}: an --overwrite of its runs was interrupted; pass --resume to go on with it, or "
            "--overwrite to start it again"
        )
    return overwrite or is_overwriting(folder)


def _is_to_be_kept(out: Path, overwrite: bool, resume: bool) -> bool:
    return resume and not overwrite and (out / RECORD).is_file()


def _begin(
    planned: PlannedRun, sources: Sources, *, keep: bool, overwrite: bool, replaces: bool, resume: bool
) -> Path | None:
    """The folder in which a run is written until it is complete; None for a finished run that is kept.

    replaces: whether a finished run is of before an --overwrite, which may have been interrupted since
    """
    fingerprint = sources.fingerprint(planned.recipe)

    def begin() -> Path | None:
        interrupted = resume and is_interrupted_replacement(planned.path)
        if keep and not interrupted and _is_done(planned, fingerprint, sources.teacher.identity):
            return None
        starts_again = overwrite or (replaces and not is_resumable(planned.path))
        return start_run(planned.path, planned.recipe, overwrite=starts_again, resume=resume)

    folder: Path | None = first_does(sources.world, begin)
    return folder


def _is_done(planned: PlannedRun, fingerprint: str, teacher: str) -> bool:
    run = planned.path
    if not run.exists():
        return False
    remove_leftovers(run)
    record = read_record(run)
    for what, was, is_now in (
        ("recipe", record.recipe_sha256, recipe_sha256(planned.recipe)),
        ("data", record.data.whole_fingerprint, fingerprint),
        ("teacher", record.teacher.identity, teacher),
    ):
        if was != is_now:
            raise RunError(f"{run}: is of another {what}; pass --overwrite to replace it, or another --out")
    return True
