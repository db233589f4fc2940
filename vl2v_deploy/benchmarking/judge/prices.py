"""A dated price file that the user owns: what machines and the teacher's API cost, in US dollars."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vl2v_deploy.benchmarking.scenario import Strict, read_fields, validated
from vl2v_deploy.benchmarking.schema import Prices
from vl2v_deploy.errors import BenchmarkError, did_you_mean
from vl2v_deploy.recipe import HttpRecipe, TeacherRecipe

STALE_DAYS = 180  # vendors change their prices a few times per year
Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class MachinePrice(Strict):
    """Price of a machine by the hour."""

    usd_per_hour: Usd


class ApiPrice(Strict):
    """Price of the teacher as a paid API."""

    usd_per_1k_queries: Usd


class PriceFile(Strict):
    """prices.yaml.

    date:        when the prices were looked up
    source:      where they are from, in the user's words
    machines:    by a name of the user's choice
    teacher_api: None where the teacher is not sold by the query
    """

    date: date
    source: str = Field(min_length=1)
    machines: dict[str, MachinePrice] = Field(default_factory=dict)
    teacher_api: ApiPrice | None = None


def prices_of(
    given: Mapping[str, Any],
    path: Path | None = None,
    machine: str | None = None,
    teacher_machine: str | None = None,
) -> Prices:
    """The prices of a price file, if any, overridden by those that are given: fields of `Prices`.

    Raises BenchmarkError with one line per problem, for fields and files alike.
    """
    fields: dict[str, Any] = {}
    if path is not None:
        fields = load_prices(path, machine, teacher_machine)
        if overridden := [f"--{name.replace('_', '-')}" for name in given]:
            fields["source"] += f"; {', '.join(overridden)} from the command line"
    elif machine or teacher_machine:
        raise BenchmarkError(
            "--machine and --teacher-machine: name a machine of a price file; pass --prices FILE"
        )
    return validated(Prices, {**fields, **given}, source="prices")


def with_price_of_teacher(prices: Prices, teacher: TeacherRecipe) -> Prices:
    """The same prices; where the teacher's API has none, the one in its recipe if it is paid."""
    usd = teacher.usd_per_1k_images if isinstance(teacher, HttpRecipe) else 0.0
    if prices.usd_per_1k_queries is not None or not usd:
        return prices
    source = f"{prices.source}; teacher.usd_per_1k_images from the recipe"
    return prices.model_copy(update={"usd_per_1k_queries": usd, "source": source})


def load_prices(path: Path, machine: str | None = None, teacher_machine: str | None = None) -> dict[str, Any]:
    """Fields of `schema.Prices` that a price file gives.

    machine:         which of its machines is measured; needed where there are several
    teacher_machine: which would host the teacher; None = the same

    Raises BenchmarkError with one line per problem: file, field, what was expected, what was given.
    """
    prices = validated(PriceFile, read_fields(path, such_as="date:"), source=str(path))
    if machine is None and len(prices.machines) > 1:
        raise BenchmarkError(
            f"{path}: machines: has {', '.join(prices.machines)}; name the measured one with --machine"
        )
    fields: dict[str, Any] = {
        "source": f"{path.name} of {prices.date}: {prices.source}",
        "dated": prices.date,
    }
    name = machine or next(iter(prices.machines), None)
    if name is not None:
        fields["usd_per_hour"] = _machine(path, prices, name).usd_per_hour
    if teacher_machine is not None:
        fields["teacher_usd_per_hour"] = _machine(path, prices, teacher_machine).usd_per_hour
    if prices.teacher_api is not None:
        fields["usd_per_1k_queries"] = prices.teacher_api.usd_per_1k_queries
    return fields


def stale(dated: date | None, measured: date) -> bool:
    """Whether prices of that day are too old on the day of the measurement.

    >>> stale(date(2026, 1, 1), measured=date(2026, 6, 1)), stale(date(2026, 1, 1), measured=date(2026, 8, 1))
    (False, True)
    """
    return dated is not None and (measured - dated).days > STALE_DAYS


def _machine(path: Path, prices: PriceFile, name: str) -> MachinePrice:
    if name not in prices.machines:
        known = ", ".join(prices.machines) or "none"
        hint = did_you_mean(name, prices.machines)
        raise BenchmarkError(f"{path}: machines: expected one of {known}; got {name!r}{hint}")
    return prices.machines[name]
