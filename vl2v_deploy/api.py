"""The Python API: what the command line does, for programs and notebooks.

Each function takes a recipe, a path or plain options, shows its progress, and returns a small result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vl2v_deploy.errors import RecipeError, RunError
from vl2v_deploy.results import BenchmarkResult, BundleResult, LookResult, RunResult

if TYPE_CHECKING:  # each function imports what it needs: torch for training, nothing of it for a report
    from vl2v_deploy.benchmarking.scenario import Scenario
    from vl2v_deploy.benchmarking.schema import CascadeTerms, Prices
    from vl2v_deploy.exporting.options import ExportOptions
    from vl2v_deploy.models.teacher.protocol import Teacher
    from vl2v_deploy.recipe import Recipe

RUNS, BUNDLES, REPORTS = Path("runs"), Path("bundles"), Path("reports")


def distill(
    recipe: Recipe | Path | str,
    out: Path | str | None = None,
    *,
    teacher: Teacher | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> RunResult:
    """Align and distill the student of a recipe that describes one run.

    recipe:    from `load_recipe`, or its file
    out:       run directory; None = runs/<name of the recipe's file>
    teacher:   any object with the teacher protocol, in place of the recipe's own teacher
    skip_bad:  leave out images that do not decode
    overwrite: replace a run that is already there
    resume:    continue an interrupted run; keep a finished one

    Raises RecipeError when the recipe describes several runs (see `distill_all`), and what loading the data,
    the teacher or the student raises.
    """
    from vl2v_deploy.distillation.protocol import is_one_run

    loaded, folder = _recipe_and_folder(recipe, out)
    if not is_one_run(loaded):
        raise RecipeError("the recipe describes several runs (methods, targets or trials): use distill_all")
    [result] = distill_all(
        loaded, folder, teacher=teacher, skip_bad=skip_bad, overwrite=overwrite, resume=resume
    )
    return result


def distill_all(
    recipe: Recipe | Path | str,
    out: Path | str | None = None,
    *,
    teacher: Teacher | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> tuple[RunResult, ...]:
    """Every run of a recipe: methods x targets x trials; runs that are finished already are kept.

    The arguments are those of `distill`; `out` holds the runs where there are several.
    """
    from vl2v_deploy.distillation.run import distill_recipe

    loaded, folder = _recipe_and_folder(recipe, out)
    runs = distill_recipe(
        loaded, folder, teacher=teacher, skip_bad=skip_bad, overwrite=overwrite, resume=resume
    )
    return tuple(open_run(run) for run in runs)


def open_run(path: Path | str) -> RunResult:
    """A finished run, from its directory. Raises RunError when it is none."""
    from vl2v_deploy.models.record import read_record

    return RunResult(Path(path), read_record(Path(path)))


def export(
    run: RunResult | Path | str,
    out: Path | str | None = None,
    *,
    precision: str | Sequence[str] | None = None,
    options: ExportOptions | None = None,
    overwrite: bool = False,
) -> BundleResult:
    """A run's student as a bundle, each of whose files was checked against it.

    run:       a result of `distill`, or a run directory
    out:       bundle directory; None = bundles/<path of the run below runs/>, replaced if it is there
    precision: fp32, fp16, int8, int8-symmetric: a sequence, or one text with commas; None = as in `options`
    options:   everything that `vl2v-deploy export` has options for; None = the defaults, fp32 alone

    Raises ExportError for options that do not fit together, before anything is exported; RunError, DataError,
    PrecisionError and ParityError as `vl2v-deploy export` does.
    """
    from vl2v_deploy.client import open_bundle
    from vl2v_deploy.exporting.options import ExportOptions, precisions_from_text

    asked = options or ExportOptions()
    if precision is not None:
        text = precision if isinstance(precision, str) else ",".join(precision)
        asked = replace(asked, precisions=precisions_from_text(text))
    from vl2v_deploy.exporting.run import export_run  # brings in torch

    source = run.path if isinstance(run, RunResult) else Path(run)
    target = BUNDLES / bundle_name(source) if out is None else Path(out)
    export_run(source, target, asked, overwrite=overwrite or out is None)
    return BundleResult(target, open_bundle(target))


def benchmark(
    bundle: BundleResult | Path | str,
    out: Path | str | None = None,
    *,
    scenario: Scenario | Path | str | None = None,
    prices: Prices | None = None,
    terms: CascadeTerms | None = None,
    run: RunResult | Path | str | None = None,
    data: Path | str | None = None,
    skip_bad: bool = False,
    **settings: Any,
) -> BenchmarkResult:
    """Accuracy, latency and cost of a bundle; measured, judged, and written as a report.

    bundle:   a result of `export`, a bundle directory, or a zip of one
    out:      report directory; None = reports/<name of the bundle>
    scenario: what is measured, or its YAML file; None = the defaults
    prices:   of machines and of the teacher's API; None of the API = what the recipe of a paid teacher says
    terms:    what is asked of the cascade of student and teacher; None = nothing
    run:      the run that the bundle was made from, for torch; None = looked for under runs/
    data:     where the images are now; None = as in the recipe
    settings: fields of the scenario to change, such as teacher=True, engines=("onnxruntime:int8",), seconds=5

    Raises BenchmarkError for a scenario that cannot be measured here. An engine that fails on the way is
    reported as failed.
    """
    from vl2v_deploy.benchmarking.answers import write_answers
    from vl2v_deploy.benchmarking.judge.prices import with_price_of_teacher
    from vl2v_deploy.benchmarking.options import require_options, require_price_of_teacher
    from vl2v_deploy.benchmarking.report.files import ANSWERS, require_directory, write_report
    from vl2v_deploy.benchmarking.scenario import Scenario, load_scenario, validated
    from vl2v_deploy.benchmarking.schema import CascadeTerms, Prices

    source = bundle.path if isinstance(bundle, BundleResult) else Path(bundle)
    folder = REPORTS / source.resolve().name.removesuffix(".zip") if out is None else Path(out)
    if isinstance(scenario, Scenario):
        asked = validated(Scenario, scenario.model_dump() | settings, source="scenario")
    else:
        asked = load_scenario(None if scenario is None else Path(scenario), settings)
    require_directory(folder)
    given, terms = prices or Prices.model_validate({"source": "none given"}), terms or CascadeTerms()
    of_run = _path(run.path if isinstance(run, RunResult) else run)
    require_options(asked, given, terms, of_run)
    # Imported after what can be wrong with files and options: these bring in torch.
    from vl2v_deploy.benchmarking.judge.judge import judge
    from vl2v_deploy.benchmarking.measure.display import Display
    from vl2v_deploy.benchmarking.run import Places, measure_bundle, recipe_of_bundle, why_not_timed

    places = Places(run=of_run, runs=RUNS, data=_path(data), skip_bad=skip_bad)
    teacher = recipe_of_bundle(source).teacher
    known_prices = with_price_of_teacher(given, teacher)
    require_price_of_teacher(known_prices, terms, why_not_timed(teacher))
    measurements = measure_bundle(source, asked, places, Display())
    # What took minutes to measure is kept until the report that holds it is written.
    kept = folder / "measurements.json"
    kept.write_text(measurements.model_dump_json() + "\n", encoding="utf-8")
    if measurements.answers is not None:
        write_answers(measurements.answers, folder / ANSWERS)
    report = judge(measurements, known_prices, terms)
    write_report(report, folder)
    kept.unlink()
    return BenchmarkResult(folder, report)


def look(
    student: RunResult | BundleResult | Path | str,
    out: Path | str | None = None,
    *,
    images: Path | str | None = None,
    data: Path | str | None = None,
    precision: str = "auto",
    max_images: int | None = 1000,
    skip_bad: bool = False,
    ask_teacher: bool = False,
) -> LookResult:
    """One page of pictures: mistakes, disagreements with the teacher, confusion, worst classes, a map.

    student:     a result of `distill` or `export`, a run directory, a bundle directory, or a zip of one
    out:         the HTML file; None = reports/<name>/look.html
    images:      images without labels to look at in place of the student's data
    data:        where the student's images are now; None = as in the recipe
    precision:   of a bundle's file
    max_images:  of a domain, or of `images`; None = all
    skip_bad:    leave out images that do not decode
    ask_teacher: send the teacher what it has not been asked yet; a vendor is paid for it

    Raises RunError, BundleError and DataError for what cannot be used.
    """
    from vl2v_deploy.looking.html import html_from_look, html_of_mistakes
    from vl2v_deploy.looking.run import Options, default_page, look_at, write_page
    from vl2v_deploy.looking.summary import summary_of
    from vl2v_deploy.looking.words import lines_of

    source = student.path if isinstance(student, RunResult | BundleResult) else Path(student)
    words = None if images is None else str(images)
    page = default_page(source, words, REPORTS) if out is None else Path(out)
    options = Options(words, _path(data), precision, max_images, skip_bad, ask_teacher)
    seen = look_at(source, options)
    write_page(html_from_look(seen), page)
    summary = {"page": str(page), "bytes": page.stat().st_size} | summary_of(seen)
    return LookResult(page, summary, tuple(lines_of(seen)), html_of_mistakes(seen))


def _recipe_and_folder(recipe: Recipe | Path | str, out: Path | str | None) -> tuple[Recipe, Path]:
    from vl2v_deploy.recipe import Recipe, load_recipe

    if isinstance(recipe, Recipe):
        if out is None:
            raise RunError("out: name the run directory; only a recipe's file has a name to make one from")
        return recipe, Path(out)
    return load_recipe(Path(recipe)), RUNS / Path(recipe).stem if out is None else Path(out)


def bundle_name(run: Path) -> str:
    """Name of a run's bundle: its path below runs/, so that runs of other targets and trials have others.

    >>> bundle_name(Path("runs/each/photo/trial-0"))
    'each-photo-trial-0'
    """
    path, runs = run.resolve(), RUNS.resolve()
    return "-".join(path.relative_to(runs).parts) if path.is_relative_to(runs) else path.name


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)
