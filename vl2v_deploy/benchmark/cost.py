"""What an inference costs, and how many of them pay for a distillation. Pure arithmetic, in US dollars."""

from __future__ import annotations

SECONDS_PER_HOUR = 3600.0
MILLION = 1e6


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


def api_usd_per_million(usd_per_1k_queries: float) -> float:
    """Cost of a million inferences bought one query at a time: usd_per_1k_queries * 1000.

    >>> api_usd_per_million(1.5)
    1500.0
    """
    return usd_per_1k_queries * 1000.0


def break_even_inferences(
    distillation_usd: float, teacher_usd_per_million: float, student_usd_per_million: float
) -> float | None:
    """Inferences after which the student has paid for its distillation; None where it never does.

    distillation_usd / (teacher's cost of one inference - student's cost of one inference)

    >>> break_even_inferences(50.0, teacher_usd_per_million=1500.0, student_usd_per_million=500.0)
    50000.0
    >>> break_even_inferences(50.0, teacher_usd_per_million=1.0, student_usd_per_million=1.0) is None
    True
    """
    saved_usd = (teacher_usd_per_million - student_usd_per_million) / MILLION
    return distillation_usd / saved_usd if saved_usd > 0 else None
