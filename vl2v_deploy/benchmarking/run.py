"""The measuring half of the benchmark, from a bundle to `schema.Measurements`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vl2v_deploy.benchmarking.answers import Answers, Halves, Key
from vl2v_deploy.benchmarking.engine_names import ALL, FILES, TEACHER, parse_engine
from vl2v_deploy.benchmarking.measure.answers import (
    NO_CASCADE_WITHOUT_TARGET,
    TeacherAnswers,
    ask_teacher,
    no_cascade,
)
from vl2v_deploy.benchmarking.measure.candidates import find_candidates
from vl2v_deploy.benchmarking.measure.display import Display
from vl2v_deploy.benchmarking.measure.images import Images, load_images, prompts_of
from vl2v_deploy.benchmarking.measure.phases import run_phases
from vl2v_deploy.benchmarking.measure.roofline import count_work_of_engines, peaks_of_devices
from vl2v_deploy.benchmarking.measure.subject import Subject, teacher_subject
from vl2v_deploy.benchmarking.measure.time_box import TimeBox
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.benchmarking.schema import BundleFacts, Measurements, Provenance
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client import Bundle
from vl2v_deploy.client.archive import opened_bundle
from vl2v_deploy.client.cascade.chosen_for import onnx_sha256_of
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.data.domains import data_fingerprint
from vl2v_deploy.errors import BenchmarkError, RecipeError
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import Recipe, TeacherRecipe, load_run_recipe, recipe_sha256


@dataclass(frozen=True)
class Places:
    """Where to find what a bundle does not hold.

    run:      the run directory that it was made from, for torch; None = searched for under `runs`
    runs:     folder of run directories
    data:     root of the images; None = as the recipe says
    skip_bad: skip images that do not decode
    """

    run: Path | None = None
    runs: Path = Path("runs")
    data: Path | None = None
    skip_bad: bool = False


def measure_bundle(path: Path, scenario: Scenario, places: Places, display: Display) -> Measurements:
    """Accuracy, speed, memory and energy of a bundle's engines, and of its teacher if asked for.

    path: directory written by `vl2v-deploy export`, or a zip file of it

    An engine that fails on the way has the reason in its own measurement; the others go on.

    Raises BenchmarkError, before anything is measured, for an engine asked for by name that cannot run here,
    and when none of the student's can; BundleError, RecipeError, DataError and ModelError for a bundle,
    recipe, data or teacher that cannot be used.
    """
    with opened_bundle(path) as bundle:
        return _measure(bundle, scenario, places, display)


def _measure(bundle: Bundle, scenario: Scenario, places: Places, display: Display) -> Measurements:
    box = TimeBox(scenario.limit_s)
    recipe = load_run_recipe(bundle.path / "recipe.yaml")
    subjects = find_candidates(bundle, scenario, places.run, places.runs)
    _require_one_that_runs(subjects)
    with_teacher = scenario.teacher or TEACHER in scenario.engines
    images = load_images(
        bundle,
        recipe,
        places.data,
        skip_bad=places.skip_bad,
        max_images=scenario.max_images,
        validation=with_teacher,
    )
    teacher, notes = None, list[str]()
    logits: dict[Key, Halves] = {}
    if with_teacher:
        teacher, subject = _teacher(bundle, recipe, scenario, images)
        subjects.append(subject)
        logits |= teacher.logits
        if images.record.ood_unknown:
            notes.append(NO_CASCADE_WITHOUT_TARGET)
        if teacher.lacking:
            notes.append(no_cascade(teacher.lacking))
            images = images.without_validation()
    scenario = scenario.model_copy(update={"threads": scenario.threads or (default_threads().count,)})
    with display:
        run_phases(subjects, scenario, images, display, box, logits)
        machine = peaks_of_devices(subjects, scenario, display, box, notes) if scenario.roofline else []
    if scenario.roofline:
        count_work_of_engines(subjects, bundle, notes)
    if left_out := box.note():
        notes.append(left_out)
    answers = Answers(logits) if logits else None
    return Measurements(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        bundle=_bundle_facts(bundle),
        recipe_sha256=recipe_sha256(recipe),
        device=describe_device(),
        versions=package_versions(),
        scenario=scenario,
        images=images.record,
        provenance=_provenance(bundle, images, teacher),
        engines=[subject.found for subject in subjects],
        machine=machine,
        notes=notes,
        answers_sha256=answers.sha256() if answers else None,
        answers=answers,
    )


def recipe_of_bundle(path: Path) -> Recipe:
    """The recipe of a bundle directory, or of a zip file of it; raises what reading them raises."""
    with opened_bundle(path) as bundle:
        return load_run_recipe(bundle.path / "recipe.yaml")


def failures(measurements: Measurements) -> list[str]:
    """The reasons of failed engines: those asked for by name; all of the student's if none was measured.

    An engine of 'files' or 'all' may fail: the report says so, and the others were measured.
    """
    scenario, engines = measurements.scenario, measurements.engines
    students = [engine for engine in engines if engine.kind == "student"]
    named = {TEACHER}
    for text in scenario.engines:
        if text not in (FILES, ALL, TEACHER):
            named.add(str(parse_engine(text, scenario.device)))
    if not any(engine.status == "measured" for engine in students):
        named.update(engine.name for engine in students)
    return [str(engine.reason) for engine in engines if engine.status == "failed" and engine.name in named]


def _teacher(
    bundle: Bundle, recipe: Recipe, scenario: Scenario, images: Images
) -> tuple[TeacherAnswers, Subject]:
    """The teacher's answers, and the teacher as an engine to be timed."""
    prompts = prompts_of(bundle, recipe, tuple(images.samples))
    scale = bundle.manifest.logit_scale
    answers = ask_teacher(
        recipe.teacher,
        prompts,
        scale,
        images.samples,
        scenario.device,
        images.validation,
        buy_validation=scenario.buy_validation,
    )
    settings = {
        "teacher": recipe.teacher.model_dump(mode="json"),
        "prompts": prompts,
        "logit_scale": scale,
    }
    reason = why_not_timed(recipe.teacher)
    return answers, teacher_subject(settings, scenario.device, answers.predictions, reason)


def _require_one_that_runs(students: Sequence[Subject]) -> None:
    if students and not any(student.goes_on for student in students):
        reasons = dict.fromkeys(str(student.found.reason) for student in students)
        raise BenchmarkError(f"none of the student's engines can run here: {'; '.join(reasons)}")


def why_not_timed(teacher: TeacherRecipe) -> str | None:
    """Why a teacher cannot be timed in torch on this machine; None where it can."""
    from vl2v_deploy.models.teacher.load import require_white_box  # which needs torch, as the teacher does

    try:
        require_white_box(teacher, "timing it")
    except RecipeError as error:
        return str(error)
    return None


def _bundle_facts(bundle: Bundle) -> BundleFacts:
    return BundleFacts(
        name=bundle.name,
        classes=list(bundle.classes),
        image_size_px=bundle.image_size_px,
        recorded_accuracy=bundle.manifest.accuracy,
        run=bundle.manifest.run,
        onnx_sha256=onnx_sha256_of(bundle),
    )


def _provenance(bundle: Bundle, images: Images, teacher: TeacherAnswers | None) -> Provenance:
    """What the student was distilled from, beside what it is measured with; None where not known."""
    run = bundle.manifest.run
    return Provenance(
        distilled_teacher=run.teacher.identity if run else None,
        teacher=teacher.identity if teacher else None,
        teacher_queries=teacher.queries if teacher else None,
        distilled_data=run.data.fingerprint if run else None,
        data=data_fingerprint(images.domain_set),
    )
