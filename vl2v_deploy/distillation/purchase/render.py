"""Estimates and checks as a terminal and as programs get them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vl2v_deploy.distillation.purchase.ahead import Purchase
from vl2v_deploy.distillation.purchase.check import TeacherCheck
from vl2v_deploy.distillation.purchase.estimate import Cost, Estimate

_LOOKS = {"passed": "green", "failed": "bold red", "unknown": "yellow"}


def shown_cost(cost: Cost) -> str:
    """A cost in words.

    >>> shown_cost(Cost(1200, 3, 0.12, 0.05))
    '1,200 images and 3 texts for $0.12, 3 min at the given limits'
    >>> shown_cost(Cost(10, 0, 0.0, None))
    '10 images for nothing'
    """
    texts = f" and {cost.texts:,} texts" if cost.texts else ""
    money = "at an unknown price" if cost.usd is None else f"for {shown_usd(cost.usd)}"
    hours = "" if not cost.hours else f", {shown_hours(cost.hours)} at the given limits"
    return f"{cost.images:,} images{texts} {money}{hours}"


def shown_usd(usd: float) -> str:
    """
    >>> shown_usd(0.0), shown_usd(0.00012), shown_usd(1234.5)
    ('nothing', '$0.0001', '$1,234.50')
    """
    if not usd:
        return "nothing"
    return f"${usd:,.2f}" if usd >= 0.01 else f"${usd:.4f}"


def shown_hours(hours: float) -> str:
    """
    >>> shown_hours(0.01), shown_hours(0.5), shown_hours(34.86)
    ('36 s', '30 min', '34.9 h')
    """
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:,.1f} h"


def print_estimate(estimate: Estimate, console: Console, images_per_s: float | None = None) -> None:
    """What is needed, held and to buy, and whether the budget is enough."""
    console.print(f"{estimate.teacher}:", soft_wrap=True, highlight=False)
    console.print(
        f"  {estimate.needed:,} image embeddings needed, {estimate.held:,} held, {estimate.to_buy:,} to buy"
    )
    pace = ""
    if images_per_s and not estimate.cost.hours and estimate.to_buy:
        hours = estimate.to_buy / images_per_s / 3600
        pace = f", about {shown_hours(hours)} at the {images_per_s:,.0f} images/s of this check"
    console.print(f"  to ask: {shown_cost(estimate.cost)}{pace}", soft_wrap=True)
    if estimate.left is not None:
        usd, queries = estimate.left
        left = [f"${usd:,.2f}"] if usd is not None else []
        left += [f"{queries:,} queries"] if queries is not None else []
        console.print(f"  the budget leaves {' and '.join(left)}")
    if not estimate.fits:
        console.print(
            "  That is not enough: raise teacher.budget, or buy a part with `vl2v-deploy teacher embed "
            "RECIPE --budget N` and distill with --set missing_embeddings=text_term",
            soft_wrap=True,
        )
    if estimate.online:
        console.print(
            "  teacher_views: online sends every image of every step too; those are not in this estimate",
            soft_wrap=True,
        )


def print_check(check: TeacherCheck, console: Console) -> None:
    """A table of the checks, then the estimate."""
    table = Table(title=Text(f"Teacher {check.estimate.teacher}"), title_justify="left")
    for name in ("check", "result", "why, and what to do"):
        table.add_column(name, overflow="fold")
    for verdict in check.verdicts:
        look = _LOOKS[verdict.status]
        why = f"{verdict.why}; {verdict.todo}" if verdict.todo else verdict.why
        table.add_row(verdict.check, Text(verdict.status, look), Text(why))
    console.print(table)
    print_estimate(check.estimate, console, check.images_per_s)


def estimate_tree(estimate: Estimate) -> dict[str, Any]:
    """The estimate for --json."""
    left = estimate.left
    return {
        "teacher": estimate.teacher,
        "needed": estimate.needed,
        "held": estimate.held,
        "to_buy": estimate.to_buy,
        "to_ask": estimate.cost._asdict(),
        "budget_left": None if left is None else left._asdict(),
        "fits": estimate.fits,
        "online": estimate.online,
    }


def check_tree(check: TeacherCheck) -> dict[str, Any]:
    """The check for --json."""
    return {
        "failed": check.failed,
        "asked_at_most": check.asked._asdict(),
        "checks": [asdict(verdict) for verdict in check.verdicts],
        "estimate": estimate_tree(check.estimate),
        "images_per_s": check.images_per_s,
    }


def print_purchase(done: Purchase, usd_per_1k: float | None, console: Console) -> None:
    """What `teacher embed` bought, and what is held now."""
    price = done.usd_per_1k_images if usd_per_1k is None else usd_per_1k
    cost = "" if price is None else f" for {shown_usd(done.bought * price / 1000)}"
    left = "" if done.held == done.needed else f"; {done.needed - done.held} are not held"
    console.print(
        f"{done.teacher}: {done.needed} embeddings needed, {done.bought} of them bought{cost}{left}.",
        soft_wrap=True,
        highlight=False,
    )
    if done.online:
        console.print(
            "teacher_views: online sends every image of every step too; those are not bought here.",
            soft_wrap=True,
        )
    if left:
        console.print("Next: vl2v-deploy distill RECIPE --set missing_embeddings=text_term", soft_wrap=True)
