"""The report in three lines, for who decides: what the student gives up, saves, and gets back by asking."""

from __future__ import annotations

from vl2v_deploy.benchmarking.judge.words import percent, rate, usd
from vl2v_deploy.benchmarking.schema import EngineResult, Report


def in_short(report: Report) -> list[str]:
    """Against the teacher, where both were measured; of a cascade only with one."""
    results, target = report.results, report.measurements.images.target
    engines = [engine.name for engine in report.measurements.engines if engine.kind == "teacher"]
    teacher = next((results.engines[name] for name in engines if name in results.engines), None)
    if results.primary is None or teacher is None:
        return []
    student = results.engines[results.primary]
    return [
        _given_up(report, student.domains[target].accuracy, teacher.domains[target].accuracy),
        _saved(report, student, teacher),
        *_given_back(report),
    ]


def _given_up(report: Report, mine: float, theirs: float) -> str:
    both = f"{percent(mine)} % against the teacher's {percent(theirs)}"
    accuracy = report.measurements.target_words.accuracy
    if mine >= theirs:
        return f"Gives up:   no {accuracy}: {both}"
    return f"Gives up:   {100 * (theirs - mine):.1f} points of {accuracy}: {both}"


def _saved(report: Report, student: EngineResult, teacher: EngineResult) -> str:
    money = report.results.economics
    ways = {
        "on a machine": money.teacher_hosted_usd_per_million,
        "by its API": money.teacher_api_usd_per_million,
    }
    theirs = [f"${usd(price)} {way}" for way, price in ways.items() if price is not None]
    if student.usd_per_million is None or not theirs:
        return (
            f"Saves:      {rate(student.best.images_per_s / teacher.best.images_per_s)} times as many images "
            "a second; give prices to see the cost"
        )
    return (
        f"Saves:      ${usd(student.usd_per_million)} per million images instead of the teacher's "
        f"{' or '.join(theirs)}"
    )


def _given_back(report: Report) -> list[str]:
    cascade, words = report.results.cascade, report.measurements.target_words
    if cascade is None:
        return []
    target = report.measurements.images.target
    change, chosen = cascade.domains[target], cascade.chosen.domains[target]
    if cascade.policy.share == 0:
        return ["Gets back:  nothing by asking the teacher, as far as source validation shows"]
    cost = "" if chosen.usd_per_million is None else f", at ${usd(chosen.usd_per_million)} per million"
    return [
        f"Gets back:  {100 * change.difference:+.1f} points by asking the teacher about "
        f"{percent(chosen.share)} % of the {words.images}: {percent(chosen.accuracy)} %{cost}"
    ]
