"""What a cascade has done until now, for those who run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vl2v_deploy.client.cascade.answers import By, Reason
from vl2v_deploy.client.cascade.asking import Asker
from vl2v_deploy.client.cascade.tally import Accuracy, Disagreement
from vl2v_deploy.errors import SettingError


@dataclass(frozen=True)
class CascadeSummary:
    """Since the cascade was made, but for `spent_today_usd`.

    images:          that the student answered
    answered_by:     whose answer was given
    reasons:         why (see CascadePrediction.reason)
    escalated:       images about which the teacher was to be asked, audits aside; answered or not
    share_escalated: their share
    queries:         images that were sent to the teacher, audits among them
    spent_usd:       what these cost, or may have cost
    spent_today_usd: of the day's budget, by all processes that share its file; None without one, or where
                     that cannot be read
    budget_problem:  why the budget's file cannot be used, so that the teacher is not asked; None where it can
    waiting:         images that wait for the teacher now
    disagreement:    how often student and teacher differ: needs no labels
    accuracy:        on the labels that `feedback` brought
    forgotten:       answers that got no label while they were remembered
    not_kept:        images that `keep` had no room for or could not write; problem says why of the last one
    problem:         the last thing that went wrong in keeping, or nothing
    """

    images: int
    answered_by: Mapping[By, int]
    reasons: Mapping[Reason, int]
    escalated: int
    share_escalated: float
    queries: int
    spent_usd: float
    spent_today_usd: float | None
    waiting: int
    disagreement: Disagreement
    accuracy: Accuracy
    forgotten: int
    not_kept: int = 0
    problem: str = ""
    budget_problem: str | None = None

    @property
    def budget_usable(self) -> bool | None:
        """Whether what was spent today can be read; None without a budget's file."""
        if self.budget_problem is not None:
            return False
        return None if self.spent_today_usd is None else True


def summary_of(asker: Asker, waiting: int) -> CascadeSummary:
    """The summary of what an asker and its tally have counted; raises nothing."""
    tally, kept = asker.tally, asker.kept
    sizes = tally.sizes
    images = sum(sizes.values())
    spent_today_usd, budget_problem = None, None
    try:
        spent_today_usd = asker.budget.spent_today_usd if asker.budget else None
    except SettingError as error:
        budget_problem = str(error)
    return CascadeSummary(
        images=images,
        answered_by=tally.answered_by,
        reasons=tally.reasons,
        escalated=sizes["unsure"],
        share_escalated=sizes["unsure"] / images if images else 0.0,
        queries=asker.queries,
        spent_usd=asker.spent_usd,
        spent_today_usd=spent_today_usd,
        waiting=waiting,
        disagreement=tally.disagreement(),
        accuracy=tally.accuracy(),
        forgotten=tally.forgotten,
        not_kept=kept.not_kept if kept else 0,
        problem=kept.problem if kept else "",
        budget_problem=budget_problem,
    )
