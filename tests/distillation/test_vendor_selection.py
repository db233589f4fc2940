"""Which images a budget buys; and that a run then trains on them, of a vendor that is paid by the query."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.helpers.fake_vendor import FakeVendor, fake_vendor
from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.cli.main import cli
from vl2v_deploy.data.domains import Sample, load_domains
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.purchase.ahead import Choice, embed_ahead, embed_chosen, estimate_ahead
from vl2v_deploy.distillation.purchase.needed import texts_of_recipe
from vl2v_deploy.distillation.purchase.selection import (
    balanced_rows,
    coverage_rows,
    random_rows,
    uncertain_rows,
)
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.distillation.sources import open_sources
from vl2v_deploy.errors import BudgetError, RecipeError, RunError
from vl2v_deploy.models.record import read_record
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.recipe import Recipe, load_recipe

pytest.importorskip("httpx")


def samples(*cells: tuple[str, int, int]) -> list[Sample]:
    """So many images of each domain and class."""
    return [
        Sample(
            Path(f"{domain}-{label}-{number}"),
            domain,
            label,
            "",
            "train",
            hashlib.sha256(f"{domain} {label} {number}".encode()).hexdigest(),
        )
        for domain, label, count in cells
        for number in range(count)
    ]


MIXED = samples(("ink", 0, 40), ("ink", 1, 5), ("paint", 0, 3), ("paint", 1, 20))


@pytest.mark.parametrize("strategy", ["random", "balanced", "coverage", "uncertain"])
def test_a_larger_budget_takes_the_same_images_and_more(strategy: str) -> None:
    torch.manual_seed(0)
    features, logits = torch.randn(len(MIXED), 4), torch.randn(len(MIXED), 3)

    def rows(count: int, seed: int = 0) -> list[int]:
        match strategy:
            case "random":
                return random_rows(MIXED, count, seed)
            case "balanced":
                return balanced_rows(MIXED, [], count, seed)
            case "coverage":
                return coverage_rows(features, features[:0], count)
            case _:
                return uncertain_rows(MIXED, logits, count, seed)

    everything = rows(len(MIXED))
    assert sorted(everything) == list(range(len(MIXED)))
    assert [rows(count) for count in (0, 1, 7, 30)] == [everything[:count] for count in (0, 1, 7, 30)]
    assert len(rows(1000)) == len(MIXED)
    if strategy in ("random", "balanced"):
        assert rows(30, seed=1) != rows(30)


def test_random_does_not_depend_on_the_order_of_files() -> None:
    backwards = MIXED[::-1]
    chosen = {MIXED[row].sha256 for row in random_rows(MIXED, 10, 3)}
    assert {backwards[row].sha256 for row in random_rows(backwards, 10, 3)} == chosen


def test_balanced_fills_the_classes_of_all_domains_alike() -> None:
    def counts(count: int, held: list[Sample]) -> Counter[tuple[str, int]]:
        chosen = [MIXED[row] for row in balanced_rows(MIXED, held, count, 0)]
        return Counter((sample.domain, sample.label) for sample in chosen)

    assert set(counts(12, []).values()) == {3}
    assert counts(19, []) == {("ink", 0): 6, ("ink", 1): 5, ("paint", 0): 3, ("paint", 1): 5} or counts(
        19, []
    ) == {("ink", 0): 5, ("ink", 1): 5, ("paint", 0): 3, ("paint", 1): 6}
    held = samples(("ink", 0, 3), ("paint", 1, 3))
    assert counts(6, held) == {("ink", 1): 3, ("paint", 0): 3}


def test_coverage_covers_better_than_chance() -> None:
    """Half of the images are one picture, nearly; k-center takes one of those and all the others."""
    torch.manual_seed(1)
    same, others = torch.randn(1, 6) + 0.01 * torch.randn(50, 6), 5 * torch.randn(10, 6)
    features = torch.cat([same, others])
    chosen = coverage_rows(features, features[:1], 10)
    assert sorted(chosen) == list(range(50, 60))
    twice = torch.zeros(5, 3)
    assert sorted(coverage_rows(twice, twice[:0], 5)) == list(range(5))


def test_uncertain_takes_the_least_confident_first() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.1, 0.0], [3.0, 0.0], [0.0, 1.0]])
    assert uncertain_rows(MIXED[:4], logits, 3, 0) == [1, 3, 2]


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with fake_vendor(tmp_path_factory.mktemp("vendor"), dimensions=16) as running:
        yield running


@pytest.fixture(scope="module")
def recipe_file(vendor: FakeVendor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vendor_recipe(tmp_path_factory.mktemp("recipe"), vendor.url("openai"), logit_scale="fit")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def held(recipe: Recipe) -> list[Sample]:
    """The images that the store holds."""
    store = EmbeddingStore(store_root(), load_teacher(recipe.teacher))
    everything = load_domains(recipe.data).samples
    lacking = {sample.sha256 for sample in store.missing(everything)}
    return [sample for sample in everything if sample.sha256 not in lacking]


def test_a_budget_buys_training_images_and_a_vendor_is_asked_no_more_by_the_run(
    vendor: FakeVendor, recipe_file: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(recipe_file, ["missing_embeddings=text_term"])
    told = estimate_ahead(recipe, Choice(9))
    bought = embed_chosen(recipe, Choice(9))
    assert (bought.bought, bought.held, told.to_buy) == (9, 9, 9)
    found = held(recipe)
    assert {(sample.split, sample.domain == "photo") for sample in found} == {("train", False)}
    cells = Counter((sample.domain, sample.label) for sample in found)
    assert len(cells) == 6 and set(cells.values()) == {1, 2}

    paid = vendor.bill()
    [path] = distill_recipe(recipe, tmp_path / "run")
    assert vendor.bill() == paid
    record = read_record(path)
    assert record.teacher.training is not None and record.teacher.training.embedded == 9
    assert record.logit_scale_images == 9
    assert set(record.accuracy.teacher.values()) == {None}

    other = load_recipe(recipe_file, ["missing_embeddings=text_term", "data.target=ink"])
    with pytest.raises(RunError, match="trained on images of ink"):  # which then chose by its target
        embed_chosen(other, Choice(5, strategy="uncertain", run=path))
    again = embed_chosen(recipe, Choice(5, strategy="uncertain", run=path))
    assert (again.bought, again.held) == (5, 14)
    assert {sample.sha256 for sample in found} < {sample.sha256 for sample in held(recipe)}
    rest = embed_chosen(recipe, Choice(1000, strategy="coverage"))
    assert rest.bought == rest.needed - 14 and rest.held == rest.needed


def test_money_is_turned_into_queries_of_whole_images(recipe_file: Path) -> None:
    """Three views of an image are three queries, at half a dollar for a thousand."""
    recipe = load_recipe(recipe_file, ["teacher_views=3"])
    usd = 0.0051 + (16 * 0.5 + (3 + 16) * 0.1) / 1000  # canaries and prompts come first
    told = estimate_ahead(recipe, Choice(None, usd=usd))
    assert told.to_buy == 9 and told.cost.usd is not None and told.cost.usd <= usd
    assert estimate_ahead(recipe, Choice(None, usd=0.005)).to_buy == 0
    assert estimate_ahead(recipe, Choice(7, usd=usd)).to_buy == 6
    assert embed_chosen(recipe, Choice(7, usd=usd)).bought == 6
    free = load_recipe(recipe_file, ["teacher.usd_per_1k_images=0", "teacher.usd_per_1k_texts=0"])
    with pytest.raises(RecipeError, match="--usd: the teacher states no price"):
        embed_chosen(free, Choice(None, usd=1.0))


@pytest.mark.parametrize("choice", [None, Choice(1000)])
def test_prompts_are_bought_before_a_budget_ends(recipe_file: Path, choice: Choice | None) -> None:
    """A run with missing_embeddings: text_term goes on with few images, but not without prompts."""
    recipe = load_recipe(recipe_file, ["teacher.budget={max_queries: 41}"])  # canaries, prompts and few more
    with pytest.raises(BudgetError):
        embed_ahead(recipe) if choice is None else embed_chosen(recipe, choice)
    sources = open_sources(recipe, World(), skip_bad=False)
    assert sources.store.missing_texts(texts_of_recipe(recipe, sources)) == []


def test_choices_that_are_none(recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--budget N, --usd X"):
        Choice(None)
    with pytest.raises(RecipeError, match="--run RUN"):
        Choice(3, strategy="uncertain")
    with pytest.raises(RecipeError, match="no other selection"):
        Choice(3, run=tmp_path)
    with pytest.raises(RecipeError, match="nothing to choose"):
        embed_chosen(load_recipe(recipe_file, ["method=zero_shot"]), Choice(3))
    with pytest.raises(RunError):
        embed_chosen(load_recipe(recipe_file), Choice(3, strategy="uncertain", run=tmp_path))


def test_the_command_line_says_how_to_go_on(recipe_file: Path) -> None:
    result = CliRunner().invoke(
        cli, ["teacher", "embed", str(recipe_file), "--budget", "4", "--select", "random"]
    )
    assert result.exit_code == 0, result.output
    assert "4 of them bought" in result.output and "missing_embeddings=text_term" in result.output
    result = CliRunner().invoke(cli, ["teacher", "embed", str(recipe_file), "--select", "random"])
    assert result.exit_code == 1 and "--budget N" in result.output
