"""Options that need others, refused before anything is measured."""

from __future__ import annotations

from pathlib import Path

from vl2v_deploy.benchmarking.engine_names import ALL, TEACHER
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.benchmarking.schema import CascadeTerms, Prices
from vl2v_deploy.errors import BenchmarkError

_OF_CASCADE = {
    "max_usd_per_million": "--max-usd-per-million",
    "min_ood_accuracy": "--min-ood-accuracy",
    "teacher_p50_ms": "--api-latency-ms",
}


def require_options(scenario: Scenario, prices: Prices, terms: CascadeTerms, run: Path | None = None) -> None:
    """Raise BenchmarkError for an option that could not have any effect, as what it needs is not given.

    prices: as they were given, so that a default is no option
    """
    if not scenario.teacher and TEACHER not in scenario.engines:
        of_cascade = [option for field, option in _OF_CASCADE.items() if getattr(terms, field) is not None]
        if scenario.buy_validation:
            of_cascade.append("--buy-validation")
        if of_cascade:
            raise BenchmarkError(
                f"{of_cascade[0]}: is about the cascade of student and teacher; pass --teacher too"
            )
        if prices.teacher_usd_per_hour is not None:
            raise BenchmarkError(
                "--teacher-usd-per-hour or --teacher-machine: prices the teacher by its measured speed; pass "
                "--teacher too"
            )
    if run is not None and not any(name == ALL or name.startswith("torch") for name in scenario.engines):
        raise BenchmarkError(
            "--run: is for the student in torch, which is not measured; pass --engines torch:fp32,files, or "
            "all"
        )
    _require_prices(prices, terms)


def _require_prices(prices: Prices, terms: CascadeTerms) -> None:
    given = {name for name in prices.model_fields_set if getattr(prices, name) is not None}
    if terms.max_usd_per_million is not None and prices.usd_per_hour is None:
        raise BenchmarkError(
            "--max-usd-per-million: what the student costs is not known; pass --usd-per-hour, the price of "
            "this machine"
        )
    if "utilisation" in given and not given & {"usd_per_hour", "teacher_usd_per_hour"}:
        raise BenchmarkError("--utilisation: is the busy share of the time that --usd-per-hour pays; pass it")
    if "distillation_hours" in given:
        if "distillation_usd" in given:
            raise BenchmarkError(
                "--distillation-usd and --distillation-hours: with the total cost the hours would not count; "
                "pass one of them"
            )
        if not given & {"usd_per_hour", "distillation_usd_per_hour"}:
            raise BenchmarkError("--distillation-hours: what an hour costs is not known; pass --usd-per-hour")


def require_price_of_teacher(prices: Prices, terms: CascadeTerms, not_timed: str | None) -> None:
    """Raise BenchmarkError where a budget is asked for and no price of the teacher will be known.

    prices:    with that of the recipe's API, if it has one
    not_timed: why the teacher cannot be timed here, so that the machine's price says nothing; None = it can
    """
    if terms.max_usd_per_million is not None and not_timed and prices.usd_per_1k_queries is None:
        raise BenchmarkError(
            "--max-usd-per-million: what the teacher costs is not known; pass --usd-per-1k-queries, the "
            f"price of its API ({not_timed})"
        )
