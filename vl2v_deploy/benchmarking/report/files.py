"""A report on disk: report.json, report.md, report.html and accuracy_cost.png, all or none of them.

With a cascade also answers.npz, which it is judged from, cascade.png, and cascade.json, which the client
follows.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vl2v_deploy.benchmarking.answers import read_answers, write_answers
from vl2v_deploy.benchmarking.schema import FORMAT, Measurements, Prices, Report
from vl2v_deploy.client.cascade.policy import text_of_policy
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.folders import scratch_folder
from vl2v_deploy.recipe.problems import problems_of
from vl2v_deploy.regular_files import read_text

REPORT_JSON, REPORT_MD, REPORT_HTML = "report.json", "report.md", "report.html"
PICTURE, CASCADE_PICTURE = "accuracy_cost.png", "cascade.png"
ANSWERS, CASCADE_JSON = "answers.npz", "cascade.json"
PROBLEMS_SHOWN = 3
FORMAT_WITHOUT_ANSWERS = 2  # its verdicts were sentences
FORMAT_WITHOUT_CASCADE = 3


def write_report(report: Report, out: Path) -> None:
    """Write the files into `out`; all are made before the first is put in place.

    Raises BenchmarkError where `out` cannot be a directory, MissingExtra without matplotlib or jinja2.
    """
    # Imported here, as reading reports (`compare`) needs neither matplotlib nor jinja2.
    from vl2v_deploy.benchmarking.report.charts import write_cascade_picture, write_picture
    from vl2v_deploy.benchmarking.report.html import html_from_report
    from vl2v_deploy.benchmarking.report.render import markdown_from_report

    require_directory(out)
    with scratch_folder(out / "report") as made:
        names = [REPORT_HTML, REPORT_MD, REPORT_JSON]
        if report.results.engines:  # else there is nothing to draw
            write_picture(report, made / PICTURE)
            names.insert(0, PICTURE)
        cascade, answers = report.results.cascade, report.measurements.answers
        if cascade is not None:
            write_cascade_picture(report, made / CASCADE_PICTURE)
            (made / CASCADE_JSON).write_text(text_of_policy(cascade.policy), encoding="utf-8")
            names = [CASCADE_PICTURE, CASCADE_JSON, *names]
        if answers is not None:
            write_answers(answers, made / ANSWERS)
            names.insert(0, ANSWERS)
        (made / REPORT_HTML).write_text(html_from_report(report), encoding="utf-8")
        (made / REPORT_MD).write_text(
            markdown_from_report(report, PICTURE, CASCADE_PICTURE), encoding="utf-8"
        )
        (made / REPORT_JSON).write_text(json_from_report(report), encoding="utf-8")
        for name in names:
            (made / name).replace(out / name)
        for name in {CASCADE_PICTURE, CASCADE_JSON, ANSWERS}.difference(names):
            (out / name).unlink(missing_ok=True)  # of an earlier report


def read_report(path: Path) -> Report:
    """The report in a report.json, or in a directory that holds one.

    The answers.npz beside it is read where it is there; without it the cascade cannot be judged again.

    Raises BenchmarkError for a file that is not there, not JSON, of another format, or not a report, and for
    an answers.npz that is not of this report.
    """
    file = path / REPORT_JSON if path.is_dir() else path
    try:
        tree = json.loads(read_text(file))
    except OSError as error:
        raise BenchmarkError(f"{file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise BenchmarkError(f"{file}: is not JSON: {error}") from error
    found = tree.get("format", tree.get("schema")) if isinstance(tree, dict) else None
    if found not in (FORMAT_WITHOUT_ANSWERS, FORMAT_WITHOUT_CASCADE, FORMAT):
        raise BenchmarkError(
            f"{file}: format: expected {FORMAT}, got {found!r}; measure again with this vl2v-deploy"
        )
    try:
        if found == FORMAT_WITHOUT_ANSWERS:
            return _judged_again(tree)
        report = Report.model_validate({**tree, "format": FORMAT})
    except ValidationError as error:
        problems = [f"{field}: {what}" for field, what in problems_of(error, Report).items()]
        more = f" (and {len(problems) - PROBLEMS_SHOWN} more)" if len(problems) > PROBLEMS_SHOWN else ""
        raise BenchmarkError(
            f"{file}: is not a report: {'; '.join(problems[:PROBLEMS_SHOWN])}{more}"
        ) from error
    return _with_answers(report, file.parent / ANSWERS)


def _with_answers(report: Report, file: Path) -> Report:
    """The report with the logits in answers.npz, if it is there."""
    measurements = report.measurements
    if measurements.answers_sha256 is None or not file.is_file():
        return report
    answers = read_answers(file, measurements.answers_sha256)
    return report.model_copy(update={"measurements": measurements.model_copy(update={"answers": answers})})


def _judged_again(tree: dict[str, Any]) -> Report:
    """A report of format 2 in today's form: the same measurements and prices, judged again."""
    from vl2v_deploy.benchmarking.judge.judge import judge  # brings in torch

    measured = tree.get("measurements")
    engines = measured.get("engines") if isinstance(measured, dict) else None
    for engine in engines if isinstance(engines, list) else ():
        if isinstance(engine, dict) and isinstance(engine.get("work"), dict):
            engine["work"].pop("activation_bytes", None)
    return judge(Measurements.model_validate(measured), Prices.model_validate(tree.get("prices")))


def json_from_report(report: Report) -> str:
    """Indented JSON, but each list of numbers or of strings on one line."""
    text = json.dumps(report.model_dump(mode="json"), indent=1, allow_nan=False, ensure_ascii=False)
    # A JSON string holds no raw newline, so only whole lists of plain values can match.
    item = r'(?:"(?:[^"\\]|\\.)*"|[-+.\deE]+)'
    return re.sub(rf"\[\s+{item}(?:,\s+{item})*\s+\]", _on_one_line, text) + "\n"


def require_directory(out: Path) -> None:
    """Make `out` a directory; BenchmarkError where it cannot be one."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchmarkError(f"{out}: cannot be a report directory: {error.strerror or error}") from error


def _on_one_line(found: re.Match[str]) -> str:
    return " ".join(line.strip() for line in found[0].split("\n"))
