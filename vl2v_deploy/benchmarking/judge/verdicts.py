"""The questions of a reader and their answers, each with its numbers and the threshold that decided it."""

from __future__ import annotations

from vl2v_deploy.benchmarking.judge.cost import teacher_usd_per_million
from vl2v_deploy.benchmarking.judge.evidence import MAX_OOD_LOSS, NOISE_SHARE, Evidence
from vl2v_deploy.benchmarking.judge.words import (
    cheaper,
    interval_words,
    joined,
    percent,
    rate,
    signed_points,
    usd,
)
from vl2v_deploy.benchmarking.schema import Verdict, YesNo
from vl2v_deploy.client.intervals import wilson_interval
from vl2v_deploy.exporting.precision.tolerances import least_agreement

# A smaller gain is not worth a second file to test, ship and watch.
WORTH_SPEED_UP = 1.2
POINTS = f"{100 * MAX_OOD_LOSS:g} points"


def verdicts(evidence: Evidence, primary: str | None) -> list[Verdict]:
    """All verdicts, those about the headline's engine first."""
    found = []
    if primary is not None:
        found += [*_accuracy(evidence, primary), *_cheaper(evidence, primary)]
        found += [*_break_even(evidence, primary), _pareto(evidence)]
    found += [verdict for name in evidence.students for verdict in _precision(evidence, name)]
    return [*found, *_parity(evidence), *_missing(evidence)]


def _accuracy(evidence: Evidence, name: str) -> list[Verdict]:
    if evidence.answering_teacher is None:
        return []
    difference, low, high = evidence.ood_difference(name, evidence.answering_teacher)
    least, most = (low, high) if difference >= 0 else (-high, -low)
    change = f"{'gains' if difference >= 0 else 'loses'} {abs(100 * difference):.1f} points"
    answer = _answer(yes=low >= -MAX_OOD_LOSS, no=high < -MAX_OOD_LOSS)
    return [
        Verdict(
            about="accuracy",
            question=f"Keeps the teacher's {evidence.words.marked}?",
            answer=answer,
            text=f"{name} {change} (95 % interval {100 * least:.1f} to {100 * most:.1f}); a loss of {POINTS} "
            f"is allowed.{' More images would decide.' if answer == 'unclear' else ''}",
            threshold=f"the interval's lower end is at least -{POINTS}",
            numbers={"difference": difference, "low": low, "high": high},
        )
    ]


def _cheaper(evidence: Evidence, name: str) -> list[Verdict]:
    """Whether an image costs less than the cheapest form of the teacher; without prices, takes less time."""
    mine, ways = evidence.results[name].usd_per_million, teacher_usd_per_million(evidence.money)
    numbers: dict[str, float | str | None]
    answer: YesNo
    if mine is not None and ways:
        way = min(ways, key=lambda each: ways[each])
        theirs = ways[way]
        question = "Cheaper than the teacher?"
        answer = "yes" if mine < theirs and mine * WORTH_SPEED_UP <= theirs else "no"
        prices = f"${usd(mine)} against ${usd(theirs)} per million images"
        text = f"{name} is {cheaper(mine, theirs)} {way} ({prices})."
        threshold = f"at least {WORTH_SPEED_UP:g} times cheaper"
        numbers = {"student_usd": mine, "teacher_usd": theirs}
    elif evidence.teacher is not None:
        ratio, low, high = evidence.speed_up(name, evidence.teacher)
        question = "Faster than the teacher?"
        answer = _answer(
            low is not None and low >= WORTH_SPEED_UP, high is not None and high < WORTH_SPEED_UP
        )
        text = f"{name} labels {rate(ratio)} times as many images per second ({interval_words(low, high)})."
        threshold = f"the interval's lower end is at least {WORTH_SPEED_UP:g}"
        numbers = {"ratio": ratio, "low": low, "high": high}
    else:
        return []
    return [
        Verdict(
            about="saving", question=question, answer=answer, text=text, threshold=threshold, numbers=numbers
        )
    ]


def _break_even(evidence: Evidence, name: str) -> list[Verdict]:
    spent = usd(evidence.money.distillation_usd)
    found = []
    for row in evidence.money.break_even:
        if row.engine != name:
            continue
        text = f"{name} has paid for its distillation (${spent}) after {row.inferences or 0:,.0f} images."
        if row.inferences is None:
            text = f"{name} never pays for its distillation (${spent}): the {row.against} costs no more."
        found.append(
            Verdict(
                about="break-even",
                question=f"Pays for its distillation, against the {row.against}?",
                answer="no" if row.inferences is None else "yes",
                text=text,
                threshold="an image costs less than the teacher's",
                numbers={"inferences": row.inferences, "against": row.against},
            )
        )
    return found


def _pareto(evidence: Evidence) -> Verdict:
    """Which engines are on the front of OOD accuracy and cost, and which are off it only by noise."""
    front = [name for name in evidence.results if name in evidence.front]
    level = [
        name
        for name in evidence.results
        if name not in evidence.front and name not in evidence.wrong and _within_noise(evidence, name)
    ]
    axis = "cost" if evidence.axis == "usd_per_million" else "latency"
    text = f"{joined(front)} {'is' if len(front) == 1 else 'are'} on it." if front else "No engine is on it."
    if level:
        text += f" Off it by no more than noise: {joined(level)}."
    return Verdict(
        about="pareto",
        question=f"Is the student on the Pareto front of {evidence.words.marked} and {axis}?",
        answer="yes" if evidence.front.intersection(evidence.students) else "no",
        text=text,
        threshold=f"no other engine has a lower {axis} without losing {evidence.words.accuracy}; {axis} "
        f"within {100 * NOISE_SHARE:g} % and an accuracy whose paired 95 % interval includes 0 count as "
        "equal",
        numbers={name: evidence.cost(name) for name in front},
    )


def _within_noise(evidence: Evidence, name: str) -> bool:
    for other in evidence.front:
        near = evidence.cost(name) <= evidence.cost(other) * (1 + NOISE_SHARE)
        _, low, high = evidence.ood_difference(name, other)
        if near and low <= 0 <= high:
            return True
    return False


def _precision(evidence: Evidence, name: str) -> list[Verdict]:
    """Whether fp16 or int8 is worth it beside the same runtime's fp32; nothing of wrong engines."""
    engine = evidence.engines[name]
    fp32 = _fp32_beside(evidence, name)
    if engine.precision == "fp32" or name in evidence.wrong or fp32 is None:
        return []
    speed, slow, fast = evidence.speed_up(name, fp32)
    latency = evidence.latency_ratio(name, fp32)
    difference, low, high = evidence.ood_difference(name, fp32)
    size = _file_ratio(evidence, name, fp32)
    smaller = f", a file {rate(1 / size)} times smaller" if size else ""
    return [
        Verdict(
            about=engine.precision.partition("-")[0],
            question=f"Is {name} worth it here?",
            answer=_answer(
                yes=speed >= WORTH_SPEED_UP and slow is not None and slow > 1 and low >= -MAX_OOD_LOSS,
                no=(fast is not None and fast < WORTH_SPEED_UP) or high < -MAX_OOD_LOSS,
            ),
            text=f"{rate(speed)} times the throughput of {fp32} ({interval_words(slow, fast)}), "
            f"{rate(latency)} times its latency, {100 * difference:+.1f} points of {evidence.words.marked} "
            f"({signed_points(low, high)}){smaller}.",
            threshold=f"throughput at least {WORTH_SPEED_UP:g} times, its interval above 1; the paired "
            f"interval of {evidence.words.accuracy} not below -{POINTS}",
            numbers={
                "against": fp32,
                "speed_up": speed,
                "latency": latency,
                "ood_difference": difference,
                "low": low,
                "high": high,
                "file_size": size,
            },
        )
    ]


def _fp32_beside(evidence: Evidence, name: str) -> str | None:
    """The fp32 engine of the same runtime and provider, if it was measured and is not wrong."""

    def place(other: str) -> tuple[str, str]:
        engine = evidence.engines[other]
        return engine.runtime, engine.processes[0].provider

    same = [other for other in evidence.students if evidence.engines[other].precision == "fp32"]
    return next((o for o in same if o not in evidence.wrong and place(o) == place(name)), None)


def _file_ratio(evidence: Evidence, ours: str, theirs: str) -> float | None:
    mine, other = (evidence.engines[name].model_bytes for name in (ours, theirs))
    return mine / other if mine and other else None


def _parity(evidence: Evidence) -> list[Verdict]:
    """Whether every engine gives the reference's labels: one verdict per wrong engine, one for the rest."""
    reference = evidence.reference
    others = [name for name in evidence.students if name != reference]
    if reference is None or not others:
        return []
    question = f"Same labels as {reference}?"
    found = []
    for name, share in evidence.wrong.items():
        agreed, n = evidence.agreement(name)
        least = least_agreement(evidence.engines[name].precision)
        found.append(
            Verdict(
                about="parity",
                question=question,
                answer="no",
                text=f"{name} is WRONG: it gives the same label to only {percent(share)} % of {n:,} images. "
                "Do not use it; its speed and cost mean nothing.",
                threshold=f"the upper end of the agreement's 95 % interval "
                f"({percent(wilson_interval(agreed, n)[1])} %) is at least {percent(least)} %",
                numbers={name: share, "least": least},
            )
        )
    right = [name for name in others if name not in evidence.wrong]
    if right:
        shares = {name: evidence.agreement(name)[0] / evidence.agreement(name)[1] for name in right}
        lowest = min(shares, key=lambda name: shares[name])
        bounds = {least_agreement(evidence.engines[name].precision) for name in right}
        allowed = joined([percent(bound) for bound in sorted(bounds, reverse=True)])
        found.append(
            Verdict(
                about="parity",
                question=question,
                answer="yes",
                text=f"{joined(right)}; the least is {percent(shares[lowest])} % of the images, by {lowest}.",
                threshold=f"at least {allowed} % of the images, by precision",
                numbers=dict(shares),
            )
        )
    return found


def _missing(evidence: Evidence) -> list[Verdict]:
    """Engines that were asked for and are not in the tables; those with the same reason together."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for engine in evidence.measurements.engines:
        if engine.status != "measured":
            reason = engine.reason or "no reason was recorded"
            by_reason.setdefault((engine.status, reason), []).append(engine.name)
    return [
        Verdict(
            about=status,
            question="Could be measured?" if status == "failed" else "Available here?",
            answer="no",
            text=f"{joined(names)}: {reason.rstrip('.')}.",
            threshold="loads, answers every image and is timed",
            numbers={},
        )
        for (status, reason), names in by_reason.items()
    ]


def _answer(yes: bool, no: bool) -> YesNo:
    return "yes" if yes else "no" if no else "unclear"
