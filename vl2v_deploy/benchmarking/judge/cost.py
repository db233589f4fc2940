"""What an inference costs, and how many of them pay for a distillation; in US dollars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from vl2v_deploy.benchmarking.schema import BreakEven, Economics, Prices, Sensitivity
from vl2v_deploy.client.run_facts import RunFacts

SECONDS_PER_HOUR = 3600.0
MILLION = 1e6
UTILISATIONS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
# Printed in the report, so that a reader can compute its costs again.
FORMULAS = (
    "USD per million, rented = USD per hour / (images per second x 3600) x 1,000,000 / utilisation",
    "USD per million, teacher as an API = USD per 1,000 queries x 1000",
    "distillation = hours x USD per hour + teacher queries / 1000 x USD per 1,000 queries",
    "break-even images = distillation / (teacher's USD per image - student's USD per image)",
)


def usd_per_million(usd_per_hour: float, images_per_s: float, utilisation: float = 1.0) -> float:
    """Cost of a million inferences on a rented machine: usd_per_hour / (images_per_s * 3600) * 1e6 / u.

    usd_per_hour: price of the machine, >= 0
    images_per_s: throughput measured on that machine, > 0
    utilisation:  u, share of the paid time in which the machine has images to work on, in (0, 1]

    >>> usd_per_million(usd_per_hour=0.36, images_per_s=100)
    1.0
    >>> usd_per_million(usd_per_hour=0.36, images_per_s=100, utilisation=0.25)
    4.0
    """
    return usd_per_hour / (images_per_s * SECONDS_PER_HOUR) * MILLION / utilisation


def teacher_usd_per_million(money: Economics) -> dict[str, float]:
    """USD per million images of each way to run the teacher that has a price, by the way's name."""
    ways = {
        "the teacher on a machine": money.teacher_hosted_usd_per_million,
        "the teacher's API": money.teacher_api_usd_per_million,
    }
    return {way: price for way, price in ways.items() if price is not None}


def distillation_usd(hours: float, usd_per_hour: float, queries: int, usd_per_1k_queries: float) -> float:
    """Cost of a distillation: hours * usd_per_hour + queries / 1000 * usd_per_1k_queries.

    hours:   for which a machine was rented
    queries: images and texts that were sent to a teacher that is paid by the query

    >>> distillation_usd(hours=2.0, usd_per_hour=0.5, queries=3000, usd_per_1k_queries=1.5)
    5.5
    """
    return hours * usd_per_hour + queries / 1000.0 * usd_per_1k_queries


def break_even_inferences(
    distillation_usd: float, teacher_usd_per_million: float, student_usd_per_million: float
) -> float | None:
    """Inferences after which the student has paid for its distillation; None where it never will.

    distillation_usd / (teacher's cost of one inference - student's cost of one inference)

    >>> break_even_inferences(50.0, teacher_usd_per_million=1500.0, student_usd_per_million=500.0)
    50000.0
    >>> break_even_inferences(50.0, teacher_usd_per_million=1.0, student_usd_per_million=1.0) is None
    True
    """
    saved_usd = (teacher_usd_per_million - student_usd_per_million) / MILLION
    return distillation_usd / saved_usd if saved_usd > 0 else None


def price_engine(
    prices: Prices, images_per_s: float, *, teacher: bool, utilisation: float | None = None
) -> tuple[float | None, str | None]:
    """USD per million of an engine on a rented machine, and what it was computed from; None without a price.

    images_per_s: at its best setting, > 0
    teacher:      whether it is the hosted teacher, whose machine may have its own price
    utilisation:  instead of that of the prices
    """
    hourly, whose = prices.usd_per_hour, "this machine"
    if teacher and prices.teacher_usd_per_hour is not None:
        hourly, whose = prices.teacher_usd_per_hour, "the teacher's machine, at the throughput measured here"
    if hourly is None:
        return None, None
    share = prices.utilisation if utilisation is None else utilisation
    how = f"{whose}, ${hourly:g} per hour, utilisation {share:g}"
    return usd_per_million(hourly, images_per_s, share), how


def economics(
    prices: Prices,
    students: Mapping[str, float],
    teacher_images_per_s: float | None,
    run: RunFacts | None,
) -> Economics:
    """Costs, break-even points and sensitivity, from prices and measured throughput.

    students:             images per second at the best setting, by engine
    teacher_images_per_s: of the teacher; None where it was not measured
    run:                  the manifest's record of the distillation: its seconds and teacher queries
    """
    api = None if prices.usd_per_1k_queries is None else 1000 * prices.usd_per_1k_queries
    hosted = None
    if teacher_images_per_s is not None:
        hosted, _ = price_engine(prices, teacher_images_per_s, teacher=True)
    spent, how = _distillation(prices, run)
    return Economics(
        teacher_api_usd_per_million=api,
        teacher_hosted_usd_per_million=hosted,
        distillation_usd=spent,
        distillation=how,
        break_even=_break_even(prices, students, spent, api, hosted),
        sensitivity=_sensitivity(prices, students, teacher_images_per_s),
    )


def recorded_hours(run: RunFacts | None) -> float | None:
    """Hours that the distillation took, all its stages; None where the manifest does not say."""
    return sum(run.seconds.values()) / SECONDS_PER_HOUR if run and run.seconds else None


def _distillation(prices: Prices, run: RunFacts | None) -> tuple[float | None, str | None]:
    if prices.distillation_usd is not None:
        return prices.distillation_usd, f"as given: ${prices.distillation_usd:g}"
    hours = prices.distillation_hours
    whose = "as given" if hours is not None else "as the run recorded"
    hours = recorded_hours(run) if hours is None else hours
    hourly = prices.distillation_usd_per_hour
    hourly = prices.usd_per_hour if hourly is None else hourly
    if hours is None or hourly is None:
        return None, None
    how = f"{hours:.3g} h ({whose}) x ${hourly:g} per hour"
    queries, images = (run.teacher.queries, run.teacher.images) if run else (None, None)
    per_1k = prices.usd_per_1k_queries
    if per_1k is None:
        how += "; the teacher's answers cost nothing but time, as no API price was given"
    elif queries is None:
        how += "; without the teacher's queries, which the bundle does not record"
    else:
        how += f" + {queries:,} teacher queries x ${per_1k:g} per 1,000"
        if images is not None and queries < images:
            how += f" (of {images:,} images that it needed: the others had been paid for before)"
    return distillation_usd(hours, hourly, queries or 0, per_1k or 0.0), how


def _break_even(
    prices: Prices,
    students: Mapping[str, float],
    spent: float | None,
    api: float | None,
    hosted: float | None,
) -> list[BreakEven]:
    ways: tuple[tuple[Literal["teacher API", "teacher hosted"], float | None], ...]
    ways = ("teacher API", api), ("teacher hosted", hosted)
    return [
        BreakEven(engine=name, against=way, inferences=break_even_inferences(spent, theirs, mine))
        for name, speed in students.items()
        if spent is not None and (mine := price_engine(prices, speed, teacher=False)[0]) is not None
        for way, theirs in ways
        if theirs is not None
    ]


def _sensitivity(
    prices: Prices, students: Mapping[str, float], teacher_images_per_s: float | None
) -> list[Sensitivity]:
    """At the usual shares and the given one; an API costs the same at any utilisation."""
    rows = []
    for share in sorted({*UTILISATIONS, prices.utilisation}):
        costs = {
            name: price_engine(prices, speed, teacher=False, utilisation=share)[0]
            for name, speed in students.items()
        }
        if teacher_images_per_s is not None:
            costs["teacher"] = price_engine(prices, teacher_images_per_s, teacher=True, utilisation=share)[0]
        priced = {name: usd for name, usd in costs.items() if usd is not None}
        if priced:
            rows.append(Sensitivity(utilisation=share, usd_per_million=priced))
    return rows
