"""The three lines that end a benchmark."""

from __future__ import annotations

import io

from rich.console import Console

from tests.helpers.cascade_measurements import cascade_measurements
from tests.helpers.measurements import RUN, usual
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.judge.words import usd
from vl2v_deploy.benchmarking.report.in_short import in_short
from vl2v_deploy.benchmarking.report.render import print_report
from vl2v_deploy.benchmarking.schema import CascadeTerms, Prices
from vl2v_deploy.models.record import ORACLE

PRICES = Prices(usd_per_hour=1.0, usd_per_1k_queries=0.1)


def test_the_lines_hold_the_figures_of_the_report() -> None:
    report = judge(cascade_measurements(1.2, 2.2, run=RUN), PRICES, CascadeTerms())
    student, teacher = (report.results.engines[name] for name in (report.results.primary or "", "teacher"))
    target, cascade = report.measurements.images.target, report.results.cascade
    assert cascade is not None and cascade.policy.share > 0
    mine, theirs = student.domains[target].accuracy, teacher.domains[target].accuracy
    assert mine < theirs
    gives_up, saves, gets_back = in_short(report)
    both = f"{100 * mine:.1f} % against the teacher's {100 * theirs:.1f}"
    assert gives_up == f"Gives up:   {100 * (theirs - mine):.1f} points of OOD accuracy: {both}"
    mine_usd, hosted = student.usd_per_million, report.results.economics.teacher_hosted_usd_per_million
    assert mine_usd is not None and hosted is not None
    assert saves == (
        f"Saves:      ${usd(mine_usd)} per million images instead of the teacher's ${usd(hosted)} "
        "on a machine or $100 by its API"
    )
    asked = cascade.chosen.domains[target]
    assert f" about {100 * asked.share:.1f} % of the unseen images: {100 * asked.accuracy:.1f} %" in gets_back
    assert gets_back.startswith(f"Gets back:  +{100 * (asked.accuracy - mine):.1f} points")
    file = io.StringIO()
    print_report(report, Console(file=file, width=200))
    assert file.getvalue().rstrip().split("\n")[-3:] == [gives_up, saves, gets_back]


def test_what_was_seen_is_not_called_unseen() -> None:
    measured = cascade_measurements(1.2, 2.2, run=RUN.__class__(**{**vars(RUN), "selection": ORACLE}))
    text = " ".join(in_short(judge(measured, PRICES, CascadeTerms())))
    assert "target accuracy" in text and "unseen" not in text and "OOD" not in text


def test_a_student_that_is_no_worse_gives_up_nothing() -> None:
    lines = in_short(judge(cascade_measurements(20.0, 1.0, run=RUN), PRICES, CascadeTerms()))
    assert lines[0].startswith("Gives up:   no OOD accuracy: ")
    assert lines[2] == "Gets back:  nothing by asking the teacher, as far as source validation shows"


def test_without_prices_the_saving_is_in_images_a_second() -> None:
    lines = in_short(judge(usual(), Prices()))
    assert "times as many images a second; give prices to see the cost" in lines[1]
    assert len(lines) == 2  # no cascade
