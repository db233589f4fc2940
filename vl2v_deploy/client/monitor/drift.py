"""What a Monitor answers: how far from the reference, in which statistic, since when."""

from __future__ import annotations

from dataclasses import dataclass

from vl2v_deploy.client.monitor.watched import Statistic


@dataclass(frozen=True)
class Alarm:
    """That the images are no longer as source validation was; wrong with probability alpha at most.

    at:        image at which it was raised, counted from 1
    at_s:      its time, in seconds since 1970
    statistic: on which the bets won most
    since:     image from which on they were won: the likely beginning of the drift
    since_s:   its time; None when it is too long ago to be remembered
    evidence:  when it was raised, as `Drift.evidence`
    """

    at: int
    at_s: float
    statistic: str
    since: int
    since_s: float | None
    evidence: float


@dataclass(frozen=True)
class Drift:
    """Where a Monitor stands.

    alarm:      the first since the start or `reset`; None = no drift was shown
    images:     observed so far
    in_window:  of them, those that `statistics` describe
    reference:  images of source validation that they are compared with
    evidence:   largest of a statistic in this stretch of images, over the number that share alpha with it
    needed:     evidence at which an alarm is raised in this stretch
    statistics: all that is watched, the one of most evidence first
    """

    alarm: Alarm | None
    images: int
    in_window: int
    reference: int
    evidence: float
    needed: float
    statistics: tuple[Statistic, ...]

    def __str__(self) -> str:
        if self.alarm is None:
            return (
                f"no drift shown in {self.images} images against {self.reference} of source validation "
                f"(evidence {self.evidence:.3g}, an alarm needs {self.needed:.3g})"
            )
        named = {statistic.name: statistic for statistic in self.statistics}
        found = named[self.alarm.statistic]
        now = (
            ""
            if found.window is None
            else f": {found.reference:.3g} in source validation, {found.window:.3g} now"
        )
        return (
            f"drift: alarm at image {self.alarm.at}, since about image {self.alarm.since}, most in "
            f"{found.name}{now} (distance {found.distance:.2f})"
        )
