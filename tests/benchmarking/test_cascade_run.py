"""What a cascade needs is measured with the rest: logits on the measured images and on source validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.helpers.colour_bundle import RIGHT, make_colour_bundle, make_data
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.measure.answers import answer_all, ask_teacher
from vl2v_deploy.benchmarking.measure.display import Display
from vl2v_deploy.benchmarking.measure.images import load_images
from vl2v_deploy.benchmarking.measure.processes import EngineProcess
from vl2v_deploy.benchmarking.measure.time_box import TimeBox
from vl2v_deploy.benchmarking.options import require_options, require_price_of_teacher
from vl2v_deploy.benchmarking.run import Places, measure_bundle
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.benchmarking.schema import CascadeTerms, Prices
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import open_bundle
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.recipe import load_recipe

STUDENT = "onnxruntime:fp32"
QUICK = Scenario(
    engines=(STUDENT,),
    seconds=0.2,
    rounds=2,
    samples_per_round=10,
    batches=(1,),
    threads=(1,),
    timeout_s=60.0,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_data(tmp_path_factory.mktemp("data"))
    return make_colour_bundle(tmp_path_factory.mktemp("bundles") / "colours", data, int8=RIGHT[:, ::-1])


@pytest.fixture
def colour_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a teacher that sees the mean colour in the place of every recipe's."""
    torch = pytest.importorskip("torch")
    from vl2v_deploy.models.teacher import load

    def embed_images(images: Any) -> Any:
        means = torch.tensor(np.stack([np.asarray(i.convert("RGB")).mean((0, 1)) for i in images])).float()
        return torch.nn.functional.normalize(means, dim=-1)

    def put(**more: Any) -> None:
        text_emb = {"green": [0.0, 1.0, 0.0], "red": [1.0, 0.0, 0.0]}
        teacher: Any = SimpleNamespace(
            identity="colour",
            batch_size=64,
            embedding_dim=3,
            image_size_px=16,
            price=None,
            embed_images=embed_images,
            embed_texts=lambda texts: torch.tensor([text_emb[text.split()[-1]] for text in texts]),
            logit_scale=None,
            **more,
        )
        monkeypatch.setattr(load, "load_teacher", lambda recipe, device: teacher)

    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path))
    return put


def test_a_teacher_adds_logits_and_changes_no_answer(
    bundle: Path, colour_teacher: Callable[..., None]
) -> None:
    colour_teacher()
    usual = measure_bundle(bundle, QUICK, Places(), Display())
    assert usual.answers is None and usual.answers_sha256 is None and not usual.images.validation
    m = measure_bundle(bundle, QUICK.model_copy(update={"teacher": True}), Places(), Display())
    assert m.answers is not None and m.answers_sha256 == m.answers.sha256()
    assert {(name, of.role, len(of.names)) for name, of in m.images.validation.items()} == {
        ("cartoon", "source", 4),
        ("photo", "source", 4),
    }
    measured = {path for of in m.images.domains.values() for path in of.names}
    assert not measured & {path for of in m.images.validation.values() for path in of.names}
    for engine, before in ((m.engines[0], usual.engines[0]), (m.engines[-1], None)):
        for domain, told in engine.predictions.items():
            found = m.answers.probabilities(engine.name, "measured", domain)
            assert found.argmax(1).tolist() == told.labels
            np.testing.assert_allclose(found.max(1), told.confidence, atol=1e-3)
        if before is not None:
            assert before.predictions == engine.predictions
    assert m.provenance.teacher_queries == len(measured) + 8
    report = judge(m, Prices())
    assert report.results.cascade is not None and report.results.cascade.engine == STUDENT
    assert any("8 source validation images" in warning for warning in report.results.warnings)


def test_subsampling_counts_for_source_validation_too(bundle: Path) -> None:
    opened, recipe = open_bundle(bundle), load_recipe(bundle / "recipe.yaml")
    images = load_images(opened, recipe, None, skip_bad=False, max_images=2, validation=True)
    assert {(len(of.names), of.of) for of in images.record.validation.values()} == {(2, 4)}
    assert "sketch" not in images.validation
    assert images.without_validation().record.validation == {}


def test_a_vendor_is_sent_source_validation_only_on_request(
    bundle: Path, colour_teacher: Callable[..., None]
) -> None:
    def buy(images: Any, keep: Any) -> None:
        from vl2v_deploy.models.teacher import load

        held = list(images)
        keep(range(len(held)), load.load_teacher(None, "cpu").embed_images(held))  # type: ignore[arg-type]

    colour_teacher(answered_version=None, buy_images=buy, buy_texts=lambda texts, keep: None)
    opened, recipe = open_bundle(bundle), load_recipe(bundle / "recipe.yaml")
    images = load_images(opened, recipe, None, skip_bad=False, max_images=None, validation=True)
    from vl2v_deploy.models.store import store

    asked: list[int] = []

    class Held(store.EmbeddingStore):
        """Texts are known; the number of images of each purchase is noted."""

        def prompt_classifier(self, prompts: Any) -> Any:
            import torch

            return torch.eye(3)[[1, 0]]

        def embed(self, paths: Any, description: str = "") -> Any:
            asked.append(len(paths))
            return self.teacher.embed_images([__import__("PIL.Image").Image.open(path) for path in paths])

    patch = pytest.MonkeyPatch()
    patch.setattr(store, "EmbeddingStore", Held)
    try:
        arguments = (recipe.teacher, (("green",), ("red",)), 10.0, images.samples, "cpu", images.validation)
        told = ask_teacher(*arguments)
        assert (told.lacking, told.logits, asked) == (8, {}, [56])
        assert len(told.predictions["sketch"].labels) == 40
        bought = ask_teacher(*arguments, buy_validation=True)
        assert bought.lacking == 0 and asked == [56, 56, 8]
        assert {part for _, part, _ in bought.logits} == {"measured", "validation"}
    finally:
        patch.undo()


def test_a_full_time_box_leaves_out_source_validation_and_says_so(bundle: Path) -> None:
    opened, recipe = open_bundle(bundle), load_recipe(bundle / "recipe.yaml")
    images = load_images(opened, recipe, None, skip_bad=False, max_images=None, validation=True)
    from vl2v_deploy.benchmarking.measure.candidates import find_candidates

    [subject] = find_candidates(opened, QUICK, None, Path("runs"))
    done: list[int] = []
    with EngineProcess(subject.spec(1, images.timed_paths()), 60.0) as engine:
        box = TimeBox(1.0, clock=iter([0.0, 2.0]).__next__)
        predictions, logits = answer_all(engine, images, box, done.append)
        assert {part for _, part, _ in logits} == {"measured"} and box.left_out == [f"cascade of {STUDENT}"]
        assert sum(done) == 56 and set(predictions) == {"cartoon", "photo", "sketch"}
        _, logits = answer_all(engine, images, TimeBox(None), done.append)
        assert {part for _, part, _ in logits} == {"measured", "validation"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-usd-per-million", "3"], "--max-usd-per-million: is about the cascade"),
        (["--teacher", "--max-usd-per-million", "3"], "pass --usd-per-hour"),
        (
            ["--teacher", "--min-ood-accuracy", "80"],
            "min_ood_accuracy: input should be less than or equal to 1",
        ),
        (["--teacher", "--api-latency-ms", "fast"], "--api-latency-ms: expected P50 or P50,P99"),
        (["--teacher", "--api-latency-ms", "100,50"], "expected at least the p50"),
        (["--buy-validation"], "--buy-validation: is about the cascade"),
        (["--api-latency-ms", "180"], "--api-latency-ms: is about the cascade"),
        (["--usd-per-hour", "1", "--teacher-usd-per-hour", "2"], "--teacher-usd-per-hour or"),
        (["--utilisation", "0.5"], "--utilisation: is the busy share"),
        (["--distillation-hours", "2"], "--distillation-hours: what an hour costs"),
        (["--distillation-hours", "2", "--distillation-usd", "3"], "pass one of them"),
        (["--run", "runs/x"], "--run: is for the student in torch"),
    ],
)
def test_terms_that_cannot_be_answered_end_before_anything_is_measured(
    bundle: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    result = CliRunner().invoke(cli, ["benchmark", str(bundle), *options, "--out", str(tmp_path / "r")])
    assert result.exit_code == 1 and words in result.output
    assert "Accuracy:" not in result.output


def test_a_budget_needs_the_price_of_a_teacher_that_is_not_timed_here(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vl2v_deploy.benchmarking import run

    asked: list[Path] = []
    own_server = load_recipe(Path("recipes/vendor.yaml")).teacher
    recipe = load_recipe(bundle / "recipe.yaml").model_copy(update={"teacher": own_server})
    monkeypatch.setattr(run, "recipe_of_bundle", lambda path: recipe)
    monkeypatch.setattr(run, "measure_bundle", lambda path, *_: asked.append(path))
    options = ["--teacher", "--usd-per-hour", "1", "--max-usd-per-million", "3", "--out", str(tmp_path / "r")]
    result = CliRunner().invoke(cli, ["benchmark", str(bundle), *options])
    assert result.exit_code == 1 and asked == []
    assert "what the teacher costs is not known; pass --usd-per-1k-queries" in result.output
    CliRunner().invoke(cli, ["benchmark", str(bundle), *options, "--usd-per-1k-queries", "0.1"])
    assert asked == [bundle]


def test_what_has_all_that_it_needs_is_not_refused() -> None:
    asked, terms = QUICK.model_copy(update={"teacher": True}), CascadeTerms(max_usd_per_million=3.0)
    hosted = Prices(usd_per_hour=1.0, teacher_usd_per_hour=2.0, utilisation=0.5, distillation_hours=3.0)
    require_options(asked, hosted, terms)
    require_price_of_teacher(hosted, terms, None)  # timed here
    require_price_of_teacher(hosted.model_copy(update={"usd_per_1k_queries": 0.1}), terms, "it is an API")
    require_price_of_teacher(Prices(), CascadeTerms(), "it is an API")
    for engines in (("torch:fp32",), ("files", "all")):
        require_options(Scenario(engines=engines), Prices(), CascadeTerms(), run=Path("runs/x"))
    require_options(Scenario(engines=("teacher",), buy_validation=True), Prices(), CascadeTerms())


def test_terms_are_checked_as_a_whole() -> None:
    with pytest.raises(ValueError, match="needs the p50"):
        CascadeTerms(teacher_p99_ms=3.0)
    with pytest.raises(BenchmarkError, match=r"--usd-per-1k-queries"):
        from tests.helpers.cascade_measurements import cascade_measurements

        made = cascade_measurements(n=40, n_validation=40)
        untimed = [made.engines[0], made.engines[1].model_copy(update={"status": "unavailable", "cells": []})]
        judge(
            made.model_copy(update={"engines": untimed}),
            Prices(usd_per_hour=1.0),
            CascadeTerms(max_usd_per_million=3.0),
        )
