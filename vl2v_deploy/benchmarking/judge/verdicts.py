"""Conclusions in words, each with its numbers and the threshold that decided it."""

from __future__ import annotations

from vl2v_deploy.benchmarking.judge.evidence import MAX_OOD_LOSS, NOISE_SHARE, Evidence, least_agreement
from vl2v_deploy.benchmarking.judge.statistics import wilson_interval
from vl2v_deploy.benchmarking.judge.words import (
    fraction,
    interval_words,
    joined,
    percent,
    rate,
    signed_points,
    times,
    usd,
)
from vl2v_deploy.benchmarking.schema import Verdict

# Less of a gain is not worth a second file to test, ship and watch.
WORTH_SPEED_UP = 1.2
POINTS = f"{100 * MAX_OOD_LOSS:g} points"


def headline(evidence: Evidence, primary: str | None) -> str:
    """What is saved at how many points of OOD accuracy, in one sentence."""
    if primary is None:
        return "No engine of the student could be measured."
    wrong = f" But its answers are wrong: see {primary} below." if primary in evidence.wrong else ""
    saving = _saving(evidence, primary)
    kept = _kept(evidence, primary)
    student = f"The student in {primary}"
    return f"{student} {kept}, and {saving}.{wrong}" if saving else f"{student} {kept}.{wrong}"


def verdicts(evidence: Evidence, primary: str | None) -> list[Verdict]:
    """All verdicts, those about the headline's engine first."""
    found = []
    if primary is not None:
        found += [*_accuracy(evidence, primary), *_cheaper(evidence, primary)]
        found += _break_even(evidence, primary)
        found.append(_pareto(evidence))
    found += [verdict for name in evidence.students for verdict in _precision(evidence, name)]
    return [*found, *_parity(evidence), *_missing(evidence)]


def _kept(evidence: Evidence, name: str) -> str:
    """'gives up 11.9 points of OOD accuracy on ...' and its kin; a gain is one only beyond its interval."""
    ood, target = evidence.ood(name), evidence.measurements.images.target
    mine = percent(ood.accuracy)
    if evidence.teacher is None:
        own = f"{mine} % OOD accuracy on {target!r} (95 % interval {percent(ood.low)} to {percent(ood.high)})"
        recorded = evidence.recorded_teacher_ood
        return f"has {own}" + (
            f", where the teacher's recorded one is {percent(recorded)} %" if recorded is not None else ""
        )
    difference, low, high = evidence.ood_difference(name, evidence.teacher)
    theirs = percent(evidence.ood(evidence.teacher).accuracy)
    numbers = (
        f"on {target!r} ({mine} against the teacher's {theirs}; 95 % interval of the difference "
        f"{signed_points(low, high)})"
    )
    if low > 0:
        return f"gains {100 * difference:.1f} points of OOD accuracy {numbers}"
    if difference >= 0:
        return f"is level in OOD accuracy {numbers}"
    untold = ", which so few images do not tell from none" if high >= 0 else ""
    return f"gives up {-100 * difference:.1f} points of OOD accuracy {numbers}{untold}"


def _saving(evidence: Evidence, name: str) -> str | None:
    """What an image costs beside the teacher's ways; without prices, how fast; None without a teacher."""
    mine, money = evidence.results[name].usd_per_million, evidence.money
    ways = (
        ("the teacher on a machine", money.teacher_hosted_usd_per_million),
        ("the teacher's API", money.teacher_api_usd_per_million),
    )
    if mine is not None and any(theirs is not None for _, theirs in ways):
        said = [
            f"{fraction(mine, theirs)} as {whose} (${usd(theirs)})"
            for whose, theirs in ways
            if theirs is not None
        ]
        return f"costs, at ${usd(mine)} per million images, {' and '.join(said)}"
    if evidence.teacher is None:
        return None
    ours, theirs = (evidence.results[n].best.images_per_s for n in (name, evidence.teacher))
    return (
        f"labels {times(ours / theirs)} times as many images a second ({rate(ours)} against {rate(theirs)})"
    )


def _accuracy(evidence: Evidence, name: str) -> list[Verdict]:
    """Whether the student keeps the teacher's OOD accuracy."""
    if evidence.teacher is None:
        return []
    difference, low, high = evidence.ood_difference(name, evidence.teacher)
    if low >= -MAX_OOD_LOSS:
        said = f"keeps the teacher's OOD accuracy to within {POINTS}"
    elif high < -MAX_OOD_LOSS:
        said = f"loses more than {POINTS} of the teacher's OOD accuracy"
    else:
        said = f"may or may not keep the teacher's OOD accuracy to within {POINTS}: more images would tell"
    return [
        Verdict(
            about="accuracy",
            holds=low >= -MAX_OOD_LOSS,
            text=f"{name} {said} (difference {100 * difference:+.1f} points, 95 % interval "
            f"{signed_points(low, high)}, the same images).",
            threshold=f"the interval's lower end is at least -{POINTS}",
            numbers={"difference": difference, "low": low, "high": high},
        )
    ]


def _cheaper(evidence: Evidence, name: str) -> list[Verdict]:
    """Whether an image costs less than the cheapest way to have the teacher; without prices, takes less."""
    mine, money = evidence.results[name].usd_per_million, evidence.money
    theirs = [
        usd_each
        for usd_each in (money.teacher_hosted_usd_per_million, money.teacher_api_usd_per_million)
        if usd_each is not None
    ]
    if mine is not None and theirs:
        holds = mine < min(theirs) and mine * WORTH_SPEED_UP <= min(theirs)
        text = f"{name} costs {fraction(mine, min(theirs))} as the cheapest way to have the teacher."
        threshold = f"at most 1/{WORTH_SPEED_UP:g} of that"
        numbers: dict[str, float | str | None] = {"student_usd": mine, "teacher_usd": min(theirs)}
    elif evidence.teacher is not None:
        ratio, low, high = evidence.speed_up(name, evidence.teacher)
        holds = low is not None and low >= WORTH_SPEED_UP
        threshold = f"the interval's lower end is at least {WORTH_SPEED_UP:g}"
        text = (
            f"{name} labels {times(ratio)} times as many images a second as the teacher "
            f"({interval_words(low, high)})."
        )
        numbers = {"ratio": ratio, "low": low, "high": high}
    else:
        return []
    return [Verdict(about="saving", holds=holds, text=text, threshold=threshold, numbers=numbers)]


def _break_even(evidence: Evidence, name: str) -> list[Verdict]:
    found = []
    for row in evidence.money.break_even:
        if row.engine != name:
            continue
        spent = usd(evidence.money.distillation_usd)
        if row.inferences is None:
            text = f"{name} never pays for its distillation (${spent}): the {row.against} costs no more."
        else:
            text = (
                f"{name} has paid for its distillation (${spent}) after {row.inferences:,.0f} images, "
                f"against the {row.against}."
            )
        found.append(
            Verdict(
                about="break-even",
                holds=row.inferences is not None,
                text=text,
                threshold="an image costs less than the teacher's",
                numbers={"inferences": row.inferences, "against": row.against},
            )
        )
    return found


def _pareto(evidence: Evidence) -> Verdict:
    """Who is on the front of OOD accuracy and cost, and who is off it only by noise."""
    front = [name for name in evidence.results if name in evidence.front]
    level = [
        name
        for name in evidence.results
        if name not in evidence.front and name not in evidence.wrong and _within_noise(evidence, name)
    ]
    axis = "cost" if evidence.axis == "usd_per_million" else "latency"
    text = f"On the Pareto front of OOD accuracy and {axis}: {joined(front)}." if front else "No front."
    if level:
        text += f" Not told apart from it: {joined(level)}."
    students = [name for name in front if name in evidence.students]
    return Verdict(
        about="pareto",
        holds=bool(students),
        text=text,
        threshold=f"no other engine has a lower {axis} without losing OOD accuracy; {axis} within "
        f"{100 * NOISE_SHARE:g} % and an accuracy whose paired 95 % interval includes 0 are not told apart",
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
    """Whether fp16 or int8 is worth it beside the same runtime's fp32."""
    engine = evidence.engines[name]
    if engine.precision == "fp32" or name in evidence.wrong:
        return []  # a wrong engine is not worth anything; parity says so
    fp32 = [
        other
        for other in evidence.students
        if evidence.engines[other].precision == "fp32"
        and other not in evidence.wrong
        and evidence.engines[other].runtime == engine.runtime
        and evidence.engines[other].processes[0].provider == engine.processes[0].provider
    ]
    if not fp32:
        return []
    speed, slow, fast = evidence.speed_up(name, fp32[0])
    latency = evidence.latency_ratio(name, fp32[0])[0]
    difference, low, high = evidence.ood_difference(name, fp32[0])
    faster = speed >= WORTH_SPEED_UP and slow is not None and slow > 1
    loss = f"{100 * difference:+.1f} points of OOD accuracy ({signed_points(low, high)})"
    holds = faster and low >= -MAX_OOD_LOSS
    if holds:
        said = "is worth it here"
    elif (fast is not None and fast < WORTH_SPEED_UP) or high < -MAX_OOD_LOSS:
        said = "is not worth it here"
    else:
        said = "is not shown to be worth it here, more rounds or images would tell"
    size = ""
    if engine.model_bytes and evidence.engines[fp32[0]].model_bytes:
        size = f"; its file is {fraction(engine.model_bytes, evidence.engines[fp32[0]].model_bytes or 0)}"
        size = size.replace(" as much", " of the size")
    text = (
        f"{name} {said}: {times(speed)} times the throughput of {fp32[0]} "
        f"({interval_words(slow, fast)}), {times(latency)} times its latency, {loss}{size}."
    )
    threshold = (
        f"throughput at least {WORTH_SPEED_UP:g} times, its interval above 1; the paired interval of OOD "
        f"accuracy not below -{POINTS}"
    )
    numbers: dict[str, float | str | None] = {"against": fp32[0], "speed_up": speed, "latency": latency}
    numbers |= {"ood_difference": difference, "low": low, "high": high}
    about = engine.precision.partition("-")[0]
    return [Verdict(about=about, holds=holds, text=text, threshold=threshold, numbers=numbers)]


def _parity(evidence: Evidence) -> list[Verdict]:
    """Whether every engine answers as the reference does."""
    reference = evidence.reference
    others = [name for name in evidence.students if name != reference]
    if reference is None or not others:
        return []
    found = []
    for name, share in evidence.wrong.items():
        agreed, n = evidence.agreement(name)
        least = least_agreement(evidence.engines[name].precision)
        found.append(
            Verdict(
                about="parity",
                holds=False,
                text=f"{name} is WRONG: it gives {reference}'s label to {percent(share)} % of {n:,} images "
                "only. Do not use it; its speed and cost mean nothing.",
                threshold=f"the upper end of the agreement's 95 % interval "
                f"({percent(wilson_interval(agreed, n)[1])} %) is at least {percent(least)} %",
                numbers={"agreement": share, "least": least},
            )
        )
    right = [name for name in others if name not in evidence.wrong]
    if right:
        shares = {name: evidence.agreement(name)[0] / evidence.agreement(name)[1] for name in right}
        lowest = min(shares, key=lambda name: shares[name])
        bounds = {least_agreement(evidence.engines[name].precision) for name in right}
        least_shares = [percent(bound) for bound in sorted(bounds, reverse=True)]
        found.append(
            Verdict(
                about="parity",
                holds=True,
                text=f"{joined(right)} give{'s' if len(right) == 1 else ''} {reference}'s labels (least: "
                f"{lowest}, {percent(shares[lowest])} % of the images).",
                threshold=f"at least {joined(least_shares)} % of the images, by precision",
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
    found = []
    for (status, reason), names in by_reason.items():
        is_or_are = "is" if len(names) == 1 else "are"
        what = "failed" if status == "failed" else f"{is_or_are} not available here"
        found.append(
            Verdict(
                about=status,
                holds=False,
                text=f"{joined(names)} {what}: {reason.rstrip('.')}.",
                threshold="loads, answers every image and is timed",
                numbers={},
            )
        )
    return found
