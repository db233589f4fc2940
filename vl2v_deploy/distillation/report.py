"""What `vl2v-deploy distill` prints when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from rich.table import Table

from vl2v_deploy.client.target_words import adapted_note, oracle_note
from vl2v_deploy.distillation.dry_run import DryRun
from vl2v_deploy.method.reports import SwadReport
from vl2v_deploy.models.record import RunRecord, read_record
from vl2v_deploy.models.record_parts.measured import Agreement
from vl2v_deploy.names import command
from vl2v_deploy.recipe import DEFAULT_METHOD
from vl2v_deploy.terminal import new_console


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
