"""budget.png: OOD accuracy against the images bought of a vendor, and what a point more costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.distillation.test_figures import saved
from tests.helpers.run_folders import write_run
from vl2v_deploy.cli.main import cli
from vl2v_deploy.distillation.study.comparison import comparisons
from vl2v_deploy.distillation.study.figures import draw_figures
from vl2v_deploy.distillation.study.results import load_results
from vl2v_deploy.errors import RunError
from vl2v_deploy.recipe import HttpRecipe, load_recipe, recipe_sha256

__all__ = ["saved"]  # a fixture

VENDOR = {
    "kind": "http",
    "api": "openai",
    "url": "http://127.0.0.1:1/v1",
    "model": "clip",
    "dimensions": 8,
    "usd_per_1k_images": 2.0,
    "usd_per_1k_texts": 0.0,
    "terms": {"url": "http://127.0.0.1/terms", "read_on": "2026-11-28", "permits": "internal"},
}


def write_bought(folder: Path, embedded: int, ood: float, images: int = 1000, **more: Any) -> Path:
    """A run of a vendor's student with embeddings of a part of its training images."""
    training = {"images": images, "embedded": embedded, "sha256": f"{embedded}"}
    settings = {"missing_embeddings": "text_term"} | more.pop("settings", {})
    return write_run(
        folder,
        ood=ood,
        record={"teacher": {"training": training}},
        settings={"teacher": dict(VENDOR)} | settings,
        **more,
    )


def line(axes: Axes, label: str) -> list[tuple[float, float]]:
    [found] = [container for container in axes.containers if container.get_label() == label]
    xs, ys = found.lines[0].get_data()
    return [(float(x), pytest.approx(float(y))) for x, y in zip(xs, ys, strict=True)]


def test_runs_of_one_recipe_are_told_apart_by_what_was_bought(
    tmp_path: Path, saved: dict[str, Figure]
) -> None:
    for embedded, ood in ((100, 0.5), (400, 0.6), (800, 0.59)):
        write_bought(tmp_path / f"runs/{embedded}", embedded, ood)
    write_bought(tmp_path / "runs/all", 1000, 0.64, settings={"missing_embeddings": "buy"})
    drawn = draw_figures([tmp_path / "runs"], tmp_path / "out")
    [axes] = saved["budget.png"].axes
    assert line(axes, "VL2V-ADiP") == [(100, 50), (400, 60), (800, 59), (1000, 64)]
    # 300 images at $2 a thousand for 10 points; 200 images for 5
    assert [text.get_text() for text in axes.texts] == ["$0.06 a point", "no gain", "$0.08 a point"]
    assert tmp_path / "out/budget.png" in drawn.files

    rows = comparisons(load_results([tmp_path / "runs"]))[0].rows
    assert [row.embedded for row in rows] == [1000, 100, 400, 800]
    assert "images with embeddings=100" in rows[1].label


def test_a_level_holds_the_targets_and_trials_of_one_purchase(
    tmp_path: Path, saved: dict[str, Figure]
) -> None:
    """Of one purchase the number of training images with an embedding varies with target and split."""
    for target, few, many in (("photo", 90, 210), ("paint", 110, 190)):
        write_bought(tmp_path / f"few-{target}", few, 0.4, target=target)
        write_bought(tmp_path / f"many-{target}", many, 0.6, target=target)
    draw_figures([tmp_path], tmp_path / "out")
    [axes] = saved["budget.png"].axes
    assert line(axes, "VL2V-ADiP") == [(100, 40), (200, 60)]


def test_without_a_sweep_it_says_how_to_make_one_and_of_whole_purchases_nothing(tmp_path: Path) -> None:
    write_bought(tmp_path / "part/run", 100, 0.5)
    drawn = draw_figures([tmp_path / "part"], tmp_path / "out")
    assert any("budget.png" in missing and "--budget N" in missing for missing in drawn.missing)
    write_bought(tmp_path / "whole/run", 1000, 0.5)
    result = CliRunner().invoke(cli, ["plot", str(tmp_path / "whole"), "--out", str(tmp_path / "out2")])
    assert result.exit_code == 0 and "budget" not in result.output


def test_two_runs_with_as_many_images_are_still_the_same_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_bought(tmp_path / name, 100, 0.5)
    with pytest.raises(RunError, match="the same settings; name only one"):
        draw_figures([tmp_path], tmp_path / "out")


CORRECTED = ("usd_per_1k_images=0.7", "usd_per_1k_texts=0.7", "batch_size=2")


def test_a_raised_budget_makes_no_other_run_of_it(tmp_path: Path) -> None:
    run = write_bought(tmp_path / "run", 100, 0.5)
    recipe = load_recipe(run / "recipe.yaml")
    assert isinstance(recipe.teacher, HttpRecipe)
    for change in ("budget={max_usd: 5}", "images_per_minute=40", "concurrency=9", "timeout_s=5", *CORRECTED):
        assert recipe_sha256(load_recipe(run / "recipe.yaml", [f"teacher.{change}"])) == recipe_sha256(recipe)
    for change in ("model=other", "image.size_px=96", "dimensions=9", "logit_scale=30"):
        assert recipe_sha256(load_recipe(run / "recipe.yaml", [f"teacher.{change}"])) != recipe_sha256(recipe)
