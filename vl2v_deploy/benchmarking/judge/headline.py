"""The benchmark in one sentence: what the student keeps of the teacher's accuracy, and what it saves."""

from __future__ import annotations

from vl2v_deploy.benchmarking.judge.cost import teacher_usd_per_million
from vl2v_deploy.benchmarking.judge.evidence import Evidence
from vl2v_deploy.benchmarking.judge.words import cheaper, percent, rate, signed_points, usd


def headline(evidence: Evidence, primary: str | None) -> str:
    """What is saved at how many points of OOD accuracy, in one sentence."""
    if primary is None:
        return "No engine of the student could be measured."
    wrong = f" But its answers are wrong: see {primary} below." if primary in evidence.wrong else ""
    parts = [_kept(evidence, primary), _saving(evidence, primary)]
    return f"The student in {primary} {', and '.join(part for part in parts if part)}.{wrong}"


def _kept(evidence: Evidence, name: str) -> str:
    """'gives up 11.9 points of OOD accuracy on ...' and the like; a gain is one only beyond its interval."""
    ood, target = evidence.ood(name), evidence.measurements.images.target
    mine, words = percent(ood.accuracy), evidence.words
    teacher = evidence.answering_teacher
    if teacher is None:
        own = (
            f"{mine} % {words.marked} on {target!r} (95 % interval {percent(ood.low)} to {percent(ood.high)})"
        )
        recorded = evidence.recorded_teacher_ood
        return f"has {own}" + (
            f", where the teacher's recorded one is {percent(recorded)} %" if recorded is not None else ""
        )
    difference, low, high = evidence.ood_difference(name, teacher)
    theirs = percent(float(evidence.hits(teacher, target).mean()))
    numbers = (
        f"on {target!r} ({mine} against the teacher's {theirs}; 95 % interval of the difference "
        f"{signed_points(low, high)})"
    )
    if low > 0:
        return f"gains {100 * difference:.1f} points of {words.marked} {numbers}"
    if difference >= 0:
        return f"is level in {words.marked} {numbers}"
    uncertain = ", a difference that so few images do not prove" if high >= 0 else ""
    return f"gives up {-100 * difference:.1f} points of {words.marked} {numbers}{uncertain}"


def _saving(evidence: Evidence, name: str) -> str | None:
    """What an image costs, compared to the teacher; without prices, how fast; None without a teacher."""
    mine, ways = evidence.results[name].usd_per_million, teacher_usd_per_million(evidence.money)
    if mine is not None and ways:
        compared = [f"{cheaper(mine, theirs)} {way} (${usd(theirs)})" for way, theirs in ways.items()]
        return f"costs ${usd(mine)} per million images: {' and '.join(compared)}"
    if evidence.teacher is None:
        return None
    ours, theirs = (evidence.results[n].best.images_per_s for n in (name, evidence.teacher))
    return (
        f"labels {rate(ours / theirs)} times as many images per second ({rate(ours)} against {rate(theirs)})"
    )
