"""What a cascade comes to in words: its headline, and the verdicts."""

from __future__ import annotations

from vl2v_deploy.benchmarking.cascade.choose import SHARE_OF_GAIN
from vl2v_deploy.benchmarking.judge.evidence import Evidence
from vl2v_deploy.benchmarking.judge.words import percent, signed_points, usd
from vl2v_deploy.benchmarking.schema import CascadeAccuracy, CascadeResult, Verdict, YesNo
from vl2v_deploy.client.target_words import TargetWords

FEW_VALIDATION = 100  # images; with fewer a share of 5 % is five of them
Numbers = dict[str, float | str | None]
RULES = {
    "max_probability": "1 - its largest probability",
    "margin": "1 - (its largest probability - the second)",
    "entropy": "the entropy of its probabilities, of at most 1",
}


def cascade_headline(result: CascadeResult, target: str, words: TargetWords) -> str:
    """What the chosen threshold buys on the target, in one sentence."""
    change, ood = result.domains[target], result.chosen.domains[target]
    if result.policy.share == 0:
        why = "no budget is left for it" if _broke(result) else f"on source validation that {_gain(result)}"
        return f"Cascade: the teacher is never asked, as {why}."
    asked = (
        f"Cascade: asking the teacher where {result.engine} is unsure ({percent(ood.share)} % of the "
        f"{words.images})"
    )
    mine, both = percent(change.student), percent(ood.accuracy)
    if change.difference < 0:
        return f"{asked} lowers {words.marked} from {mine} to {both} %."
    reached = (
        f"{asked} gives {both} % {words.marked}; the student alone has {mine}, the teacher "
        f"{percent(change.teacher)}"
    )
    if ood.usd_per_million is None or result.teacher_usd_per_million is None:
        return f"{reached}."
    return (
        f"{reached}. It costs ${usd(ood.usd_per_million)} instead of the teacher's "
        f"${usd(result.teacher_usd_per_million)} per million images."
    )


def cascade_verdicts(evidence: Evidence, result: CascadeResult) -> list[Verdict]:
    """Whether asking is worth it, where it is not, and what a budget or a wanted accuracy come to."""
    target, words = evidence.measurements.images.target, evidence.words
    found = [_worth(result, target, words)]
    for domain in result.domains:
        if domain != target and result.domains[domain].falls:
            found.append(_falls_elsewhere(result, domain))
    if result.budget is not None:
        found.append(_budget(result, target, words))
    if result.wanted is not None:
        found.append(_wanted(result, target, words))
    return found


def cascade_caveats(evidence: Evidence, primary: str | None, result: CascadeResult | None) -> list[str]:
    """Where a cascade's numbers do not mean what a reader would expect, or why there is none."""
    measurements = evidence.measurements
    if result is None:
        if measurements.answers_sha256 is None or primary is None:
            return []
        return [f"No cascade: source validation was not answered by {primary} and the teacher."]
    images, found = measurements.images, []
    for domain, of in images.validation.items():
        if set(of.names) & set(images.domains[domain].names):
            found.append(
                "Cascade: ID accuracy is measured on source validation itself, as DomainBed's protocol has "
                "no third split; in domain the cascade looks better than it is."
            )
            break
    if result.images < FEW_VALIDATION:
        found.append(
            f"Cascade: chosen on {result.images} source validation images; with so few, promised shares are "
            "rough."
        )
    return found


def fall_in_words(result: CascadeResult, domain: str) -> str:
    """'Asking lowers accuracy on photo by 1.2 points ...: the teacher is worse there ...'."""
    change = result.domains[domain]
    if result.policy.share == 0:
        how = " where a fifth of the images is asked about"
    else:
        proof = "" if change.high < 0 else "; too few images to be sure"
        how = f" (95 % interval of the change {signed_points(change.low, change.high)}{proof})"
    both = f"{percent(change.teacher)} against {percent(change.student)} %"
    why = (
        "the teacher is worse there"
        if change.teacher < change.student
        else "the teacher is wrong about those images"
    )
    return (
        f"Asking lowers accuracy on {domain} by {100 * change.fallen:.1f} points{how}: {why} ({both} in all)."
    )


def _worth(result: CascadeResult, target: str, words: TargetWords) -> Verdict:
    change, ood, policy = result.domains[target], result.chosen.domains[target], result.policy
    answer: YesNo = "yes" if change.low > 0 else "no" if change.difference <= 0 else "unclear"
    if change.falls:
        text = fall_in_words(result, target)
    elif policy.share == 0:
        why = (
            "The budget does not pay for a query"
            if _broke(result)
            else f"On source validation it {_gain(result)}"
        )
        text = f"{why}: the threshold is set so that the teacher is never asked."
    else:
        text = (
            f"It gains {100 * change.difference:.1f} points of {words.marked} (95 % interval "
            f"{signed_points(change.low, change.high)}), {percent(ood.accuracy)} %, with "
            f"{percent(ood.share)} % of the {words.images} sent; source validation promised "
            f"{percent(policy.share)} %{_choice_in_words(result)}."
        )
        text += " More images would decide." if answer == "unclear" else ""
    return Verdict(
        about="cascade",
        question="Worth asking the teacher where the student is unsure?",
        answer=answer,
        text=f"{text} {_policy_in_words(result)}" if policy.share else text,
        threshold=f"the paired interval of the gain in {words.accuracy} is above 0; a gain of 0 or less is a "
        "no",
        numbers={
            "threshold": policy.threshold,
            "difference": change.difference,
            "low": change.low,
            "high": change.high,
            "promised_share": policy.share,
            "ood_share": ood.share,
        },
    )


def _choice_in_words(result: CascadeResult) -> str:
    choice = result.choice
    if choice is None or choice.best == choice.share:
        return ""
    gained, best = 100 * (choice.gain - choice.lost), 100 * choice.gain
    return (
        f", the smallest share with at least {percent(SHARE_OF_GAIN)} % of what asking can gain there: "
        f"{gained:.1f} of {best:.1f} points, for which {percent(choice.best)} % would have to be sent"
    )


def _policy_in_words(result: CascadeResult) -> str:
    policy = result.policy
    answers = {
        "teacher": "the teacher's answer is taken",
        "more_confident": "of the two answers the more confident is taken",
        "mixed": f"the probabilities of both are averaged, {100 * policy.student_weight:g} % the student's",
    }
    never = f" It is never asked about: {', '.join(policy.never)}." if policy.never else ""
    where = f"where {RULES[policy.deferral]} is above {policy.threshold:.3g}"
    if policy.threshold == 0:
        where = "about every image"
    return f"It is asked {where}; then {answers[policy.combine]}.{never}"


def _falls_elsewhere(result: CascadeResult, domain: str) -> Verdict:
    change = result.domains[domain]
    return Verdict(
        about="cascade-domain",
        question=f"Worth asking on {domain}?",
        answer="no",
        text=fall_in_words(result, domain),
        threshold="accuracy does not fall",
        numbers={"difference": -change.fallen, "student": change.student, "teacher": change.teacher},
    )


def _gain(result: CascadeResult) -> str:
    """What asking gains on source validation where the teacher is never asked: no more than chance may."""
    choice = result.choice
    if choice is None or choice.best == 0:
        return "gains nothing"
    return (
        f"gains {100 * choice.gain:.1f} points, no more than the standard error of "
        f"{100 * choice.standard_error:.1f}"
    )


def _broke(result: CascadeResult) -> bool:
    return result.budget is not None and result.budget.most == 0


def _cost(accuracy: CascadeAccuracy) -> str:
    return "" if accuracy.usd_per_million is None else f", ${usd(accuracy.usd_per_million)} per million"


def _budget(result: CascadeResult, target: str, words: TargetWords) -> Verdict:
    assert result.budget is not None
    limit, policy = result.budget.max_usd_per_million, result.policy
    ood, ids = result.chosen.domains[target], result.chosen.in_domain
    within = max(ood.usd_per_million or 0.0, ids.usd_per_million or 0.0) <= limit
    text = (
        f"It pays for asking about {percent(result.budget.most)} % of the images. The threshold "
        f"{policy.threshold:.3g} asks about {percent(ids.share)} % in the source domains{_cost(ids)}, and "
        f"about {percent(ood.share)} % in {target}{_cost(ood)}, with {percent(ood.accuracy)} % "
        f"{words.marked}."
    )
    if not policy.share:
        text = (
            "It does not pay for a query."
            if _broke(result)
            else f"With the share that it could pay for, asking {_gain(result)} on source validation."
        )
    elif not within:
        text += " More are unsure than on source validation; Cascade's max_usd_per_day is never passed."
    numbers: Numbers = {
        "max_usd_per_million": limit,
        "threshold": policy.threshold,
        "promised_share": policy.share,
        "usd_ood": ood.usd_per_million,
    }
    return Verdict(
        about="budget",
        question=f"Does ${usd(limit)} per million images pay for asking?",
        answer="no" if not policy.share or not within else "yes",
        text=text,
        threshold="the teacher is asked, and no domain's images cost more",
        numbers=numbers,
    )


def _wanted(result: CascadeResult, target: str, words: TargetWords) -> Verdict:
    assert result.wanted is not None
    least, point = result.wanted.min_ood_accuracy, result.wanted.point
    oracle = "This is chosen on the target's labels, which nobody has in production; cascade.json is not."
    if point is None:
        best = max(one.domains[target].accuracy for one in result.points)
        text = f"No threshold reaches it; the best of the curve is {percent(best)} %. {oracle}"
    else:
        ood = point.domains[target]
        text = (
            f"A threshold of {point.threshold:.3g} does, with {percent(ood.share)} % of the {words.images} "
            f"sent{_cost(ood)} ({percent(ood.accuracy)} %). {oracle}"
        )
    return Verdict(
        about="wanted-accuracy",
        question=f"Can the cascade reach {percent(least)} % {words.marked}?",
        answer="no" if point is None else "yes",
        text=text,
        threshold="the smallest share that reaches it on the measured images of the target",
        numbers={"min_ood_accuracy": least, "threshold": point.threshold if point else None},
    )
