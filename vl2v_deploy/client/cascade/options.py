"""A cascade's options as a policy, a share to keep and a budget; checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from vl2v_deploy.client.cascade.budget import DailyBudget
from vl2v_deploy.client.cascade.chosen_for import require_student
from vl2v_deploy.client.cascade.decision import RunningShare
from vl2v_deploy.client.cascade.policy import CascadePolicy, load_policy
from vl2v_deploy.client.student import Student
from vl2v_deploy.errors import did_you_mean

# Nothing was fitted on source validation: the teacher's answer is taken as it is.
PLAIN = CascadePolicy(
    deferral="max_probability",
    threshold=0.0,
    combine="teacher",
    student_weight=0.5,
    teacher_temperature=1.0,
    share=0.0,
)


def policy_from(
    policy: CascadePolicy | Path | str | None,
    threshold: float | None,
    share: float | None,
    never: Iterable[str],
    student: Student,
) -> CascadePolicy:
    """The policy that is followed by this student; see Cascade for the other arguments."""
    if policy is None and threshold is None and share is None:
        raise ValueError("a Cascade needs policy=, threshold= or share= to know when to ask the teacher")
    if threshold is not None and share is not None:
        raise ValueError("threshold= and share=: expected one of them; share= sets the threshold by itself")
    for name, value in (("threshold", threshold), ("share", share)):
        if value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} {value}: expected 0 to 1")
    found = load_policy(policy) if isinstance(policy, str | Path) else policy or PLAIN
    if isinstance(policy, str | Path) or found.chosen_for is not None:
        require_student(found, student, str(policy) if isinstance(policy, str | Path) else "policy")
    classes = student.classes
    found = replace(found, never=(*found.never, *never))
    if threshold is not None:
        found = replace(found, threshold=threshold)
    for name in found.never:
        if name not in classes:
            raise ValueError(f"never: {name!r} is no class of the student's{did_you_mean(name, classes)}")
    return found


def require_limits(
    batch: int,
    threads: int,
    max_waiting: int,
    remember: int,
    audit_rate: float,
    timeout_s: float,
    min_interval_s: float,
) -> None:
    """Raise ValueError for a limit that makes no sense; see Cascade for them."""
    for name, value, fits, expected in (
        ("batch", batch, batch >= 1, "at least 1"),
        ("threads", threads, threads >= 1, "at least 1"),
        ("max_waiting", max_waiting, max_waiting >= 1, "at least 1"),
        ("remember", remember, remember >= 0, "at least 0"),
        ("audit_rate", audit_rate, 0.0 <= audit_rate <= 1.0, "0 to 1"),
        ("timeout_s", timeout_s, timeout_s > 0, "above 0"),
        ("min_interval_s", min_interval_s, min_interval_s >= 0, "at least 0"),
    ):
        if not fits:  # nor does a NaN
            raise ValueError(f"{name} {value}: expected {expected}")


def running_share_from(share: float | None, window: int, draw: Callable[[], float]) -> RunningShare | None:
    """The rule that keeps a share; None where the policy's threshold is followed."""
    if window < 1:
        raise ValueError(f"window {window}: expected at least 1")
    return None if share is None else RunningShare(share, window, draw)


def budget_from(
    max_usd_per_day: float | None, usd_per_query: float | None, spent_file: Path | str | None
) -> DailyBudget | None:
    """The day's budget; None where nothing is limited and nothing is to be counted in a file."""
    if max_usd_per_day is not None and (usd_per_query is None or spent_file is None):
        raise ValueError(
            "max_usd_per_day needs usd_per_query, the price of a query, and spent_file, a file that "
            "remembers what was spent when the process is started again and is shared by all processes"
        )
    for name, value in (("max_usd_per_day", max_usd_per_day), ("usd_per_query", usd_per_query)):
        if value is not None and not 0.0 <= value <= 1e6:
            raise ValueError(f"{name} {value}: expected 0 to 1,000,000")
    return None if spent_file is None else DailyBudget(Path(spent_file), max_usd_per_day)
