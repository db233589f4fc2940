"""A cascade of student and teacher: chosen on source validation, applied to the measured images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vl2v_deploy.benchmarking.cascade.calibrate import answered_sets, teacher_temperature
from vl2v_deploy.benchmarking.cascade.choose import (
    SHARES,
    Candidate,
    candidates_of,
    chosen_rule,
    chosen_share,
    policy_from_validation,
)
from vl2v_deploy.benchmarking.cascade.curve import Answered
from vl2v_deploy.benchmarking.judge.cascade.latency import cascade_latency
from vl2v_deploy.benchmarking.judge.cascade.words import cascade_headline
from vl2v_deploy.benchmarking.judge.evidence import Evidence
from vl2v_deploy.benchmarking.judge.statistics import (
    accuracy_interval,
    mean_of_domains_interval,
    paired_difference,
)
from vl2v_deploy.benchmarking.schema import (
    AccuracyAnswer,
    BudgetAnswer,
    CascadeAccuracy,
    CascadeChange,
    CascadeChoice,
    CascadePoint,
    CascadeResult,
    CascadeRule,
    CascadeTerms,
)
from vl2v_deploy.client.cascade.policy import CascadePolicy, ChosenFor
from vl2v_deploy.errors import BenchmarkError

# Where the policy asks about nothing, what asking would change is shown at this share.
SHOWN_SHARE = 0.2
# Thresholds that are tried for an accuracy that was asked for.
TRIED = 101


@dataclass(frozen=True)
class Setting:
    """What a cascade is judged from.

    validation, measured: answers of both, by domain; the policy is a function of `validation` alone
    student_usd, teacher_usd: per million; None without a price
    chosen_for:  the student that answered; None in reports that do not say which it was
    """

    classes: list[str]
    target: str
    temperature: float
    validation: Mapping[str, Answered]
    measured: Mapping[str, Answered]
    student_usd: float | None
    teacher_usd: float | None
    chosen_for: ChosenFor | None

    def policy(self, best: Candidate, share: float) -> CascadePolicy:
        found = policy_from_validation(self.validation, self.classes, self.temperature, best, share)
        return replace(found, chosen_for=self.chosen_for)

    def usd(self, share: float) -> float | None:
        """What a million images cost where that share of them is escalated."""
        if self.student_usd is None or self.teacher_usd is None:
            return None
        return self.student_usd + share * self.teacher_usd


def cascade_result(evidence: Evidence, primary: str | None, terms: CascadeTerms) -> CascadeResult | None:
    """The cascade of an engine of the student and the teacher; None without the answers of both.

    Raises BenchmarkError where the report's answers.npz was not there to be read.
    """
    measurements, teacher = evidence.measurements, evidence.answering_teacher
    answers, images = measurements.answers, measurements.images
    if answers is None:
        if measurements.answers_sha256 is None:
            return None
        raise BenchmarkError(
            "answers.npz, which lay beside this report, is missing: without it the cascade cannot be judged "
            "again; put it back, or measure again"
        )
    if primary is None or teacher is None or not images.validation:
        return None
    for name in (primary, teacher):
        if not answers.has(name, images.domains, "measured"):
            return None
        if not answers.has(name, images.validation, "validation"):
            return None
    temperature = teacher_temperature(answers, teacher, images.validation)
    teacher_usd, priced_as = _teacher_price(evidence)
    setting = Setting(
        classes=measurements.bundle.classes,
        target=images.target,
        temperature=temperature,
        validation=answered_sets(answers, primary, teacher, "validation", images.validation, temperature),
        measured=answered_sets(answers, primary, teacher, "measured", images.domains, temperature),
        student_usd=evidence.results[primary].usd_per_million,
        teacher_usd=teacher_usd,
        chosen_for=_chosen_for(evidence, primary),
    )
    result = _result(evidence, primary, terms, setting, priced_as)
    return result.model_copy(update={"headline": cascade_headline(result, images.target, evidence.words)})


def _result(
    evidence: Evidence,
    primary: str,
    terms: CascadeTerms,
    setting: Setting,
    priced_as: Literal["API", "hosted"] | None,
) -> CascadeResult:
    rules = candidates_of(setting.validation)
    best = chosen_rule(rules)
    budget = _budget(setting, terms)
    choice = chosen_share(setting.validation, best, 1.0 if budget is None else budget.most)
    policy = setting.policy(best, choice.share)
    chosen = _point(setting, policy)
    student = evidence.engines[primary]
    timed = evidence.engines[evidence.teacher] if evidence.teacher else None
    return CascadeResult(
        engine=primary,
        policy=policy,
        choice=CascadeChoice(**choice._asdict()),
        chosen=chosen,
        points=[_point(setting, setting.policy(best, promised)) for promised in SHARES],
        rules=[CascadeRule(**rule._asdict()) for rule in rules],
        domains=_changes(setting, policy, setting.policy(best, SHOWN_SHARE)),
        latency_in_domain=cascade_latency(student, timed, chosen.in_domain.share, terms),
        latency_ood=cascade_latency(student, timed, chosen.domains[setting.target].share, terms),
        teacher_usd_per_million=setting.teacher_usd,
        teacher_priced_as=priced_as,
        images=sum(len(one.labels) for one in setting.validation.values()),
        budget=budget,
        wanted=_wanted(setting, best, terms),
    )


def _chosen_for(evidence: Evidence, primary: str) -> ChosenFor | None:
    bundle = evidence.measurements.bundle
    if bundle.onnx_sha256 is None:
        return None
    return ChosenFor(bundle.name, bundle.onnx_sha256, evidence.engines[primary].precision)


def _teacher_price(evidence: Evidence) -> tuple[float | None, Literal["API", "hosted"] | None]:
    money = evidence.money
    if money.teacher_api_usd_per_million is not None:
        return money.teacher_api_usd_per_million, "API"
    if money.teacher_hosted_usd_per_million is not None:
        return money.teacher_hosted_usd_per_million, "hosted"
    return None, None


def _point(setting: Setting, policy: CascadePolicy) -> CascadePoint:
    followed = {name: one.followed(policy, setting.classes) for name, one in setting.measured.items()}
    on_validation = [one.followed(policy, setting.classes)[0].mean() for one in setting.validation.values()]
    domains = {}
    for name, (hits, asked) in followed.items():
        (low, high), _ = accuracy_interval(hits, setting.measured[name].groups)
        share = float(asked.mean())
        domains[name] = CascadeAccuracy(
            share=share, accuracy=float(hits.mean()), low=low, high=high, usd_per_million=setting.usd(share)
        )
    sources = [name for name in followed if name != setting.target]
    mean, low, high = mean_of_domains_interval(
        [followed[name][0] for name in sources], [setting.measured[name].groups for name in sources]
    )
    share = float(np.mean([domains[name].share for name in sources]))
    return CascadePoint(
        promised=policy.share,
        threshold=policy.threshold,
        validation_accuracy=float(np.mean(on_validation)),
        domains=domains,
        in_domain=CascadeAccuracy(
            share=share, accuracy=mean, low=low, high=high, usd_per_million=setting.usd(share)
        ),
    )


def _changes(setting: Setting, policy: CascadePolicy, shown: CascadePolicy) -> dict[str, CascadeChange]:
    """What asking changes in each domain.

    shown: the policy that is looked at where `policy` asks about nothing
    """
    changes = {}
    for name, images in setting.measured.items():
        alone = images.student_hits()
        hits = images.followed(policy, setting.classes)[0]
        difference, low, high = paired_difference(hits, alone, images.groups)
        seen = images.followed(shown if policy.share == 0 else policy, setting.classes)[0]
        fallen = float(alone.mean() - seen.mean())
        changes[name] = CascadeChange(
            student=float(alone.mean()),
            teacher=float((images.teacher.argmax(1) == images.labels).mean()),
            difference=difference,
            low=low,
            high=high,
            falls=fallen > 0,
            fallen=max(0.0, fallen),
        )
    return changes


def _budget(setting: Setting, terms: CascadeTerms) -> BudgetAnswer | None:
    usd = terms.max_usd_per_million
    if usd is None:
        return None
    if setting.student_usd is None or setting.teacher_usd is None:
        raise BenchmarkError(
            "--max-usd-per-million: the price of student or teacher is not known; pass --usd-per-hour, and "
            "--usd-per-1k-queries for a teacher that is not timed here"
        )
    left = usd - setting.student_usd
    pays_for_all = left >= setting.teacher_usd
    most = 1.0 if pays_for_all else max(0.0, left / setting.teacher_usd)
    return BudgetAnswer(max_usd_per_million=usd, most=most)


def _wanted(setting: Setting, best: Candidate, terms: CascadeTerms) -> AccuracyAnswer | None:
    """The fewest queries that reach the accuracy that was asked for, found with the target's labels."""
    least = terms.min_ood_accuracy
    if least is None:
        return None
    target = setting.measured[setting.target]
    for share in np.linspace(0.0, 1.0, TRIED):
        policy = setting.policy(best, float(share))
        if target.followed(policy, setting.classes)[0].mean() >= least:
            return AccuracyAnswer(min_ood_accuracy=least, point=_point(setting, policy))
    return AccuracyAnswer(min_ood_accuracy=least, point=None)
