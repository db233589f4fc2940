"""A target that the run has seen in some way is called unseen or OOD nowhere in a report."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tests.helpers.cascade_measurements import cascade_measurements
from tests.helpers.measurements import RUN, usual
from vl2v_deploy.benchmarking.judge.compare import compare_reports
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.report.html import html_from_report
from vl2v_deploy.benchmarking.report.render import markdown_from_report, print_report
from vl2v_deploy.benchmarking.schema import CascadeTerms, Prices, Report
from vl2v_deploy.client.run_facts import RunFacts, UnlabelledFacts
from vl2v_deploy.models.record import ORACLE

PRICES = Prices(usd_per_hour=1.0, usd_per_1k_queries=0.1)
TERMS = CascadeTerms(
    max_usd_per_million=40.0, min_ood_accuracy=0.9, teacher_p50_ms=180.0, teacher_p99_ms=900.0
)
ADAPTED = replace(RUN, data=replace(RUN.data, unlabelled=UnlabelledFacts(images=90, of_target=30)))
RUNS = {
    "adapted": (ADAPTED, "(adapted to the target)"),
    "oracle": (replace(RUN, selection=ORACLE), "(oracle: weights selected on it)"),
    "both": (replace(ADAPTED, selection=ORACLE), "(adapted to the target) (oracle: weights selected on it)"),
    "other images": (
        replace(RUN, data=replace(RUN.data, unlabelled=UnlabelledFacts(images=90, of_target=0))),
        "",
    ),
}
# The sentences that say that it is not an unseen domain.
DENIED = r"no unseen domain here|not that on an unseen domain"
CLAIMS = re.compile(r"\bOOD\b|\bunseen\b", re.IGNORECASE)


def report_of(run: RunFacts) -> Report:
    return judge(cascade_measurements(1.2, 2.2, run=run), PRICES, TERMS)


def everything_shown(report: Report) -> dict[str, str]:
    file = io.StringIO()
    print_report(report, Console(file=file, width=10_000))
    return {
        "terminal": file.getvalue(),
        "markdown": markdown_from_report(report, "cost.png", "cascade.png"),
        "html": html_from_report(report),
    }


@pytest.mark.parametrize("what", ["adapted", "oracle", "both"])
def test_a_target_that_was_seen_is_not_called_unseen(what: str) -> None:
    run, marks = RUNS[what]
    report = report_of(run)
    cascade = report.results.cascade
    assert cascade is not None
    assert marks in report.results.headline and marks in cascade.headline
    assert cascade.headline.count("target images") == 1
    asked = {verdict.about: verdict for verdict in report.results.verdicts}
    for about in ("accuracy", "pareto", "wanted-accuracy"):
        assert marks in asked[about].question, about
    for about in ("cascade", "budget"):
        assert marks in asked[about].text, about
    for name, text in everything_shown(report).items():
        assert CLAIMS.findall(re.sub(DENIED, "", text)) == [], name
        assert marks in text, name
    captions = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", html_from_report(report))
    assert sum(f"The target is no unseen domain here {marks}." in caption for caption in captions) == 4
    notes = [warning for warning in report.results.warnings if "not that on an unseen domain" in warning]
    assert len(notes) == (2 if what == "both" else 1)
    assert ("30 of the 90 images" in notes[0]) == (what != "oracle")


@pytest.mark.parametrize("run", [RUN, RUNS["other images"][0]])
def test_a_target_that_was_not_seen_is_called_ood(run: RunFacts) -> None:
    report = report_of(run)
    assert report == report_of(run) and report.results.warnings == report_of(RUN).results.warnings
    assert report.results.cascade is not None
    assert "% of the unseen images" in report.results.cascade.headline
    for text in (
        report.results.headline,
        report.results.cascade.headline,
        *everything_shown(report).values(),
    ):
        assert "OOD accuracy" in text
        assert "adapted to" not in text and "weights selected" not in text


@pytest.mark.parametrize("seen_in", ["first", "second"])
def test_a_comparison_with_a_run_that_saw_the_target_is_of_the_target(seen_in: str) -> None:
    seen, unseen = (judge(usual(run=run), PRICES) for run in (ADAPTED, RUN))
    pair = (seen, unseen) if seen_in == "first" else (unseen, seen)
    whats = {row.what for row in compare_reports(*pair).rows}
    assert "target accuracy %" in whats and "OOD accuracy %" not in whats
    assert "OOD accuracy %" in {row.what for row in compare_reports(unseen, unseen).rows}
