"""What follows from asking the teacher where the student is unsure."""

from __future__ import annotations

from typing import Literal

from vl2v_deploy.benchmarking.scenario import Strict
from vl2v_deploy.client.cascade.policy import CascadePolicy, Combine, Deferral


class CascadeRule(Strict):
    """A deferral rule with a way of joining; `area` is its mean accuracy on source validation over the shares
    from 0 to 50 %, the mean over the source domains.
    """

    deferral: Deferral
    combine: Combine
    student_weight: float
    area: float


class CascadeChoice(Strict):
    """The share of source validation that was chosen, beside the most accurate one there.

    gain:           accuracy there that the best share adds to the student's
    lost:           accuracy there that the best share has more than the chosen one
    standard_error: of `gain`; where that is no larger, the teacher is never asked
    """

    share: float
    best: float
    gain: float
    lost: float
    standard_error: float


class CascadeAccuracy(Strict):
    """A cascade at one threshold on some images; shares in [0, 1].

    share:           of the images that is sent to the teacher
    low, high:       95 % interval of `accuracy`
    usd_per_million: the student's cost plus `share` of the teacher's; None without prices
    """

    share: float
    accuracy: float
    low: float
    high: float
    usd_per_million: float | None


class CascadePoint(Strict):
    """A cascade at one threshold.

    promised:            share of source validation that is sent to the teacher, mean over the source domains
    validation_accuracy: there, mean over the source domains
    domains:             of the measured images of each domain; what was promised is not what they get
    in_domain:           mean over the source domains
    """

    promised: float
    threshold: float
    validation_accuracy: float
    domains: dict[str, CascadeAccuracy]
    in_domain: CascadeAccuracy


class CascadeChange(Strict):
    """What asking changes in one domain at the chosen threshold, against the student alone.

    student, teacher: accuracy of each alone
    difference:       accuracy of the cascade less the student's; low, high: its paired 95 % interval
    falls:            whether asking lowers accuracy there: at the chosen threshold, or where none asks, at a
                      share of 20 %
    fallen:           by how much there
    """

    student: float
    teacher: float
    difference: float
    low: float
    high: float
    falls: bool
    fallen: float


class CascadeLatency(Strict):
    """Latency of a cascade where `share` of the images waits for student and teacher, the others for the
    student alone; a percentile with fewer than ten samples beyond it is None.

    teacher: where the teacher's latency is from, in words
    """

    share: float
    p50_ms: float | None
    p99_ms: float | None
    teacher: str


class BudgetAnswer(Strict):
    """What `--max-usd-per-million` buys.

    most: the share of images that it pays to ask about; 0 where it does not even pay the student. The policy
          is chosen among the shares up to there.
    """

    max_usd_per_million: float
    most: float


class AccuracyAnswer(Strict):
    """The point that reaches `--min-ood-accuracy` with the fewest queries, found with the target's labels.

    point: None where no threshold reaches it
    """

    min_ood_accuracy: float
    point: CascadePoint | None


class CascadeResult(Strict):
    """A cascade of the headline's engine and the teacher.

    policy:       chosen on source validation alone; cascade.json
    choice:       how its share was chosen; None in reports of earlier versions, which chose by another rule
    chosen:       the same on the measured images
    points:       the curve, from asking never to asking always
    rules:        that were compared on source validation, the best first
    domains:      what asking changes in each
    latency_in_domain, latency_ood: at the chosen threshold; None where the teacher has none
    teacher_usd_per_million, teacher_priced_as: one query each; None without a price
    images:       of source validation
    headline:     what the chosen threshold buys, in a sentence
    """

    engine: str
    policy: CascadePolicy
    choice: CascadeChoice | None = None
    chosen: CascadePoint
    points: list[CascadePoint]
    rules: list[CascadeRule]
    domains: dict[str, CascadeChange]
    latency_in_domain: CascadeLatency | None
    latency_ood: CascadeLatency | None
    teacher_usd_per_million: float | None
    teacher_priced_as: Literal["API", "hosted"] | None
    images: int
    headline: str = ""
    budget: BudgetAnswer | None
    wanted: AccuracyAnswer | None
