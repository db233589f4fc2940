"""What things cost: numbers worked by hand, what must hold of any numbers, and the price file."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.measurements import RUN
from vl2v_deploy.benchmarking.judge.cost import (
    break_even_inferences,
    distillation_usd,
    economics,
    price_engine,
    recorded_hours,
    usd_per_million,
)
from vl2v_deploy.benchmarking.judge.prices import STALE_DAYS, load_prices, stale, with_price_of_teacher
from vl2v_deploy.benchmarking.schema import Prices
from vl2v_deploy.client.run_facts import TeacherFacts
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.recipe import load_recipe

ROOT = Path(__file__).parents[2]


def test_cost_of_a_million_by_hand() -> None:
    # 50 images/s are 180,000 an hour: a million takes 5.5556 hours, at $0.90 and half idle $10
    assert usd_per_million(0.90, 50.0, utilisation=0.5) == pytest.approx(10.0)


def test_break_even_by_hand() -> None:
    # the student saves $1,490 a million, so $74.50 are back after 50,000 images
    assert break_even_inferences(74.5, 1500.0, 10.0) == pytest.approx(50_000)
    assert break_even_inferences(74.5, 10.0, 1500.0) is None


def test_distillation_by_hand() -> None:
    # two hours at $3 and 5,000 answers at $0.80 a thousand
    assert distillation_usd(2.0, 3.0, 5000, 0.8) == pytest.approx(10.0)
    assert recorded_hours(None) is None and recorded_hours(RUN) == 2.0


def test_costs_are_monotone_and_scale_free() -> None:
    rng = np.random.default_rng(0)
    for hourly, speed, share, factor in rng.uniform((0.01, 1, 0.01, 1.01), (50, 5000, 0.9, 9), (200, 4)):
        cost = usd_per_million(hourly, speed, share)
        assert usd_per_million(hourly * factor, speed * factor, share) == pytest.approx(cost)
        assert usd_per_million(hourly, speed * factor, share) == pytest.approx(cost / factor)
        assert usd_per_million(hourly, speed, min(1.0, share * factor)) < cost
        even = break_even_inferences(factor, 2 * cost, cost)
        # in another currency, the same number of images
        assert break_even_inferences(100 * factor, 200 * cost, 100 * cost) == pytest.approx(even)
        assert even is not None
        # what was paid for distilling is then what was saved
        assert even * (2 * cost - cost) / 1e6 == pytest.approx(factor)


def test_economics_by_hand() -> None:
    prices = Prices(usd_per_hour=0.36, usd_per_1k_queries=0.5, utilisation=0.5)
    found = economics(prices, {"fast": 200.0, "slow": 50.0}, teacher_images_per_s=10.0, run=RUN)
    # fast: 0.36 / (200 * 3600) * 1e6 / 0.5 = $1, slow $4, teacher $20; the API $500
    assert found.teacher_api_usd_per_million == 500.0
    assert found.teacher_hosted_usd_per_million == pytest.approx(20.0)
    # two hours recorded at $0.36 and 3,000 queries at $0.50 a thousand
    assert found.distillation_usd == pytest.approx(0.72 + 1.5)
    evens = {(row.engine, row.against): row.inferences for row in found.break_even}
    assert evens == {
        ("fast", "teacher API"): pytest.approx(2.22 / 499e-6),
        ("fast", "teacher hosted"): pytest.approx(2.22 / 19e-6),
        ("slow", "teacher API"): pytest.approx(2.22 / 496e-6),
        ("slow", "teacher hosted"): pytest.approx(2.22 / 16e-6),
    }
    by_share = {row.utilisation: row.usd_per_million for row in found.sensitivity}
    assert list(by_share) == [0.05, 0.1, 0.25, 0.5, 0.75, 1.0]
    assert by_share[0.1] == {
        "fast": pytest.approx(5.0),
        "slow": pytest.approx(20.0),
        "teacher": pytest.approx(100),
    }


def test_answers_that_were_in_the_store_are_told_not_hidden_in_the_cost() -> None:
    def told(queries: int) -> str | None:
        run = replace(RUN, teacher=TeacherFacts("a", images=3000, queries=queries))
        return economics(
            Prices(usd_per_hour=0.36, usd_per_1k_queries=0.5), {"a": 1.0}, None, run
        ).distillation

    assert "10 teacher queries" in str(told(10)) and "of 3,000 images that it needed" in str(told(10))
    assert "images that it needed" not in str(told(3000))


def test_what_was_given_counts_before_what_was_recorded() -> None:
    given = Prices(usd_per_hour=1.0, usd_per_1k_queries=0.5, distillation_usd=7.0)
    assert economics(given, {"a": 1.0}, None, RUN).distillation_usd == 7.0
    hours = Prices(usd_per_hour=1.0, distillation_hours=10.0, distillation_usd_per_hour=2.0)
    found = economics(hours, {"a": 1.0}, None, RUN)
    assert found.distillation_usd == 20.0
    assert found.distillation is not None and "as given" in found.distillation
    assert "no API price was given" in found.distillation


@pytest.mark.parametrize(
    ("prices", "run"),
    [(Prices(), RUN), (Prices(usd_per_hour=1.0), None), (Prices(usd_per_1k_queries=1.0), RUN)],
)
def test_nothing_is_computed_from_a_price_that_is_not_there(
    prices: Prices, run: dict[str, object] | None
) -> None:
    found = economics(prices, {"a": 1.0}, 1.0, run)
    assert found.distillation_usd is None and found.break_even == []
    assert price_engine(Prices(), 1.0, teacher=False) == (None, None)


def test_the_teacher_may_have_a_machine_of_its_own() -> None:
    prices = Prices(usd_per_hour=1.0, teacher_usd_per_hour=4.0)
    student, _ = price_engine(prices, 100.0, teacher=False)
    teacher, how = price_engine(prices, 100.0, teacher=True)
    assert student is not None and teacher == pytest.approx(4 * student)
    assert how is not None and "$4 per hour" in how


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    return path


TWO = "date: 2026-11-24\nsource: invoice\nmachines: {small: {usd_per_hour: 0.5}, large: {usd_per_hour: 4}}\n"


def test_prices_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, TWO + "teacher_api: {usd_per_1k_queries: 0.2}\n")
    fields = load_prices(path, "small", teacher_machine="large")
    prices = Prices.model_validate(fields | {"utilisation": 0.5})
    assert (prices.usd_per_hour, prices.teacher_usd_per_hour, prices.usd_per_1k_queries) == (0.5, 4.0, 0.2)
    assert prices.dated == date(2026, 11, 24) and prices.source == "prices.yaml of 2026-11-24: invoice"
    one = write(tmp_path, "date: 2026-11-24\nsource: x\nmachines: {only: {usd_per_hour: 3}}\n")
    assert load_prices(one)["usd_per_hour"] == 3.0 and "usd_per_1k_queries" not in load_prices(one)


@pytest.mark.parametrize(
    ("text", "machine", "message"),
    [
        (TWO, None, "machines: has small, large; name the measured one with --machine"),
        (TWO, "smal", "machines: expected one of small, large; got 'smal'; did you mean 'small'?"),
        (TWO + "teacher_ap: {}\n", "small", "teacher_ap: unknown field; did you mean 'teacher_api'?"),
        (
            TWO.replace("0.5", "-1"),
            "small",
            "machines.small.usd_per_hour: .*greater than or equal to 0 \\(got -1\\)",
        ),
        (TWO.replace("0.5", ".nan"), "small", "machines.small.usd_per_hour: .*finite"),
        (TWO.replace("date: 2026-11-24\n", ""), "small", "date: is required"),
        (TWO.replace("2026-11-24", "soon"), "small", "date: .*'soon'"),
        ("- 1\n", None, "expected fields such as date:, got list"),
        ("date: [\n", None, "is not YAML"),
    ],
)
def test_a_price_file_that_is_wrong_says_where(
    tmp_path: Path, text: str, machine: str | None, message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BenchmarkError, match=message) as caught:
        load_prices(path, machine)
    assert str(caught.value).startswith(str(path))


def test_a_price_file_that_is_not_there() -> None:
    with pytest.raises(BenchmarkError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_prices(Path("nowhere.yaml"))


def test_prices_grow_old() -> None:
    assert stale(None, date(2026, 1, 1)) is False
    first = date(2026, 1, 1)
    assert not stale(first, date.fromordinal(first.toordinal() + STALE_DAYS))
    assert stale(first, date.fromordinal(first.toordinal() + STALE_DAYS + 1))


def test_the_example_is_valid_and_says_that_it_is_invented() -> None:
    path = ROOT / "benchmarks" / "prices.example.yaml"
    fields = load_prices(path, "my-cpu-machine", "my-gpu-machine")
    assert "INVENTED" in fields["source"] and fields["usd_per_hour"] > 0
    assert path.read_text().count("# invented") == 3


def test_a_vendors_price_in_the_recipe_is_taken_where_no_other_is_given() -> None:
    paid = load_recipe(Path("recipes/vendor.yaml"), ["teacher.usd_per_1k_images=0.5"]).teacher
    from_recipe = with_price_of_teacher(Prices(), paid)
    assert from_recipe.usd_per_1k_queries == 0.5 and "usd_per_1k_images" in from_recipe.source
    assert with_price_of_teacher(Prices(usd_per_1k_queries=0.1), paid) == Prices(usd_per_1k_queries=0.1)
    own_server = load_recipe(Path("recipes/vendor.yaml")).teacher
    local = load_recipe(Path("recipes/quickstart.yaml")).teacher
    assert with_price_of_teacher(Prices(), own_server) == with_price_of_teacher(Prices(), local) == Prices()
