"""What `vl2v-deploy distill` prints when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from rich.table import Table

from vl2v_deploy.client.target_words import adapted_note, oracle_note
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.distillation.dry_run import DryRun
from vl2v_deploy.distillation.forecast import Forecast, StageForecast
from vl2v_deploy.distillation.purchase.needed import Needed
from vl2v_deploy.distillation.purchase.render import shown_hours
from vl2v_deploy.method.reports import SwadReport
from vl2v_deploy.models.record import RunRecord, read_record
from vl2v_deploy.models.record_parts.measured import Agreement
from vl2v_deploy.names import command
from vl2v_deploy.recipe import DEFAULT_METHOD
from vl2v_deploy.terminal import new_console

LONG_ON_CPU_H = 6.0  # from here on it is said what would be shorter


def print_runs(runs: Sequence[Path], folder: Path) -> None:
    """A table for one run, or one line for each run of a protocol, and what to do next.

    folder: in which several runs lie
    """
    console = new_console()
    records = [read_record(run) for run in runs]
    if len(runs) == 1:
        console.print(accuracy_table(records[0]))
        if records[0].adapted:
            console.print(_adapted_note(records[0]), soft_wrap=True)
        if records[0].is_oracle:
            console.print(oracle_note(records[0].target), soft_wrap=True)
        if records[0].agreement:
            console.print(_agreement_line(records[0].agreement), soft_wrap=True)
        following = command("export", runs[0])
        if not records[0].row.student:
            following = "none: this method trains no student"
    else:
        for run, record in zip(runs, records, strict=True):
            console.print(f"{run}: {_summary(record)}", soft_wrap=True)
        following = command("table", folder)
    for run, record in zip(runs, records, strict=True):
        for stage in _without_valley(record):
            console.print(
                f"{run}: SWAD found no loss valley in {stage}: its weights are the mean of the last "
                f"segment alone. More steps, or a smaller {stage}.evaluate_every, may find one.",
                soft_wrap=True,
            )
    skipped, teacher = records[0].data.skipped, [record.teacher for record in records]
    if skipped:
        console.print(f"{len(skipped)} image(s) that cannot be used were left out: see run.json.")
    console.print(
        f"{max(each.images for each in teacher)} images were embedded by the teacher in a run; "
        f"{sum(each.queries for each in teacher)} queries were paid for, the other embeddings were in the "
        f"store.\nNext: {following}",
        soft_wrap=True,
    )


def _without_valley(record: RunRecord) -> list[str]:
    """The stages whose SWAD found no valley."""
    averaging = {stage: report.averaging for stage, report in record.stages.items()}
    return [stage for stage, how in averaging.items() if isinstance(how, SwadReport) and not how.converged]


def _summary(record: RunRecord) -> str:
    student, target = record.accuracy.student, record.target
    sources = [share for domain, share in student.items() if domain != target]
    words = record.target_words
    ood = record.ood_unknown or f"{100 * student[target]:.1f} %{words.marks}"
    return f"{words.short} {ood}, ID {100 * mean(sources):.1f} %"


def _adapted_note(record: RunRecord) -> str:
    unlabelled = record.data.unlabelled
    assert unlabelled is not None  # a run is adapted by such images
    return adapted_note(record.target, unlabelled.of_target, unlabelled.images)


def _agreement_line(agreement: Agreement) -> str:
    low, high = agreement.interval
    return (
        f"Student and teacher name the same class on {100 * agreement.same_class:.1f} % ({100 * low:.1f} to "
        f"{100 * high:.1f}) of {agreement.images} images without labels that were held out."
    )


def print_dry_runs(runs: Sequence[DryRun]) -> None:
    """What a dry run found: the models, and the loss of each stage's one step."""
    table = Table(title="Dry run on the CPU: random weights, generated images")
    for title in ("method", "teacher", "student", "parameters", "D", "losses"):
        table.add_column(title, overflow="fold")
    for run in runs:
        losses = ", ".join(f"{stage} {loss:.3f}" for stage, loss in run.losses.items()) or "trains no weights"
        table.add_row(
            run.method,
            run.teacher,
            run.student,
            f"{run.parameters / 1e6:.1f} M",
            str(run.embedding_dim),
            losses,
        )
    new_console().print(table)
    for run in runs:
        new_console().print(_protocol_table(run))


def print_queries(needed: Needed, recipe: Path) -> None:
    """What the runs ask a teacher that states no price."""
    online = " Besides, teacher_views: online asks about every image of every step." if needed.online else ""
    new_console().print(
        f"Teacher queries: {needed.queries:,} image embeddings and {len(needed.texts):,} texts are needed, "
        f"each once for all runs; {command('teacher', 'embed', recipe, '--dry-run')} says how many are in "
        f"the store already.{online}",
        soft_wrap=True,
        highlight=False,
    )


def print_forecast(found: Forecast) -> None:
    """How long all runs would train, what that leaves out, and what makes it shorter where it is long."""
    console = new_console()
    if not found.stages:
        console.print("Training time: none, no method of the recipe trains weights.", soft_wrap=True)
        return
    table = Table(title=f"Training time on {found.device}, estimated")
    table.add_column("method", overflow="fold")
    table.add_column("stage")
    for title in ("runs", "steps", "images\nin a step", "seconds\nof a step", "all runs"):
        table.add_column(title, justify="right")
    for stage in found.stages:
        counts = (f"{count:,}" for count in (stage.runs, stage.steps, stage.images))
        is_last = stage is found.stages[-1]
        row = (stage.method, stage.stage, *counts, f"{stage.step_s:.3g}", shown_hours(stage.hours))
        table.add_row(*row, end_section=is_last)
    table.add_row("all", "", "", "", "", "", shown_hours(found.hours))
    console.print(table)
    console.print(_how_measured(found), soft_wrap=True, highlight=False)
    if found.device == "cpu" and (found.load or 0.0) > 1.5 * default_threads().count:
        console.print(
            f"Other programs are running (load {found.load:.1f} on {default_threads().count} cores), and "
            "steps may take several times as long as without them: try again on an idle machine.",
            soft_wrap=True,
            highlight=False,
            style="yellow",
        )
    if found.device == "cpu" and found.hours > LONG_ON_CPU_H:
        console.print(_what_is_shorter(found), soft_wrap=True, highlight=False, style="yellow")


def _how_measured(found: Forecast) -> str:
    few = [stage for stage in found.stages if stage.pace.images < stage.images]
    scaled = "".join(
        f"; of {stage.method}'s {stage.stage} they had {stage.pace.images} images and are scaled to "
        f"{stage.images}"
        for stage in few
    )
    elsewhere = ", the answers that each step waits for (teacher_views: online)" if found.elsewhere else ""
    return (
        f"Extrapolated from the fastest of {found.stages[0].pace.steps} steps of each stage after warm-up, "
        f"with random weights and generated images{scaled}. It leaves out decoding and augmenting images, "
        f"evaluations, the teacher's embeddings and the linear probe{elsewhere}; other programs that "
        "ran meanwhile make it longer; a stage that ends early (SWAD's valley, patience) takes less."
    )


def _what_is_shorter(found: Forecast) -> str:
    longest: StageForecast = max(found.stages, key=lambda stage: stage.hours)
    size_px = found.image_size_px
    return (
        f"That is long for a CPU. Shorter: a GPU (--set device=cuda), fewer {longest.stage}.steps "
        f"({longest.steps:,} now), a smaller student.image_size_px ({size_px} now; half of it has a quarter "
        "of the pixels), or a smaller student.backbone (vl2v-deploy shortlist)."
    )


def _protocol_table(run: DryRun) -> Table:
    """Each setting in which the authors' code departs from our defaults."""
    table = Table(title=f"Protocol of {run.method}: {run.protocol}")
    for title in ("setting", "used", "authors", "default"):
        table.add_column(title, overflow="fold")
    for setting in run.settings:
        table.add_row(setting.field, *map(_shown, (setting.used, setting.authors, setting.default)))
    return table


def _shown(value: bool | int | str) -> str:
    """As a recipe spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def accuracy_table(record: RunRecord) -> Table:
    """Accuracy in percent: a row for each domain, a column each for student, teacher and linear probe."""
    accuracy, evaluated, target = record.accuracy, record.data.evaluated, record.target
    sources = [domain for domain in evaluated if domain != target]
    table = Table(title="Accuracy on held-out images, %")
    table.add_column("domain")
    table.add_column("images", justify="right")
    of_method = "student" if record.method == DEFAULT_METHOD else record.method
    for title in (of_method, "zero-shot\nteacher", "linear probe\nof the student"):
        table.add_column(title, justify="right")

    def add(name: str, images: int, domains: Sequence[str], *, last: bool = False) -> None:
        columns = (accuracy.student, accuracy.teacher, accuracy.linear_probe)
        cells = (_mean_percent([shares[domain] for domain in domains]) for shares in columns)
        table.add_row(name, str(images), *cells, end_section=last)

    for domain in sources:
        note = _classes_note(record, domain)
        add(
            f"{domain} ({note[2:]})" if note else domain,
            evaluated[domain],
            [domain],
            last=domain == sources[-1],
        )
    add("mean of the sources (ID)", sum(evaluated[domain] for domain in sources), sources)
    if record.ood_unknown:
        table.add_row("unseen domain (OOD)", "-", record.ood_unknown, "-", "-")
    else:
        add(f"{target} ({record.target_role}{_classes_note(record, target)})", evaluated[target], [target])
    return table


def _classes_note(record: RunRecord, domain: str) -> str:
    """How many of the classes a domain has, where it lacks some."""
    have, total = (record.data.classes or {}).get(domain), len(record.classes)
    return "" if have is None or have == total else f", {have} of {total} classes"


def _mean_percent(shares: Sequence[float | None]) -> str:
    """Their mean in percent; - where one of them is not known."""
    known = [share for share in shares if share is not None]
    return f"{100 * mean(known):.1f}" if len(known) == len(shares) else "-"
