"""Backbones measured without training; what is chosen, and the sweep and table that it leads to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.helpers.run_folders import write_run
from vl2v_deploy.cli.main import cli
from vl2v_deploy.distillation.study.latency import Latency
from vl2v_deploy.distillation.sweep import combinations
from vl2v_deploy.distillation.sweep_file import read_sweep, write_sweep
from vl2v_deploy.errors import ModelError, RecipeError
from vl2v_deploy.shortlist.candidates import CANDIDATES, imagenet_top1, pretrained_tags, require_known
from vl2v_deploy.shortlist.run import Candidate, chosen_of
from vl2v_deploy.shortlist.timing import FEWEST, Times, timed

RECIPE = """
data: {root: nowhere, target: photo}
teacher: {model: ViT-B-16, pretrained: openai}
student: {backbone: resnet18, image_size_px: 40}
"""
RESULTS = "model,top1,img_size\ntest_resnet.r160_in1k,41.0,160\ntest_efficientnet.r160_in1k,47.5,192\n"


def shortlist(*words: str) -> Result:
    return CliRunner().invoke(cli, ["shortlist", *words])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """What the command printed of three backbones, to both streams, and the sweep that it wrote."""
    folder = tmp_path_factory.mktemp("shortlist")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "results.csv").write_text(RESULTS)
    (folder / "sweeps").mkdir()
    out = folder / "sweeps" / "fast.yaml"
    ran = shortlist(
        *(str(folder / "recipe.yaml"), "--latency-ms", "10000", "--json", "--out", str(out)),
        *("--backbones", "test_resnet,test_vit,test_efficientnet,test_resnet"),
        *("--accuracy", str(folder / "results.csv"), "--threads", "1"),
    )
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout), ran.stderr, out


def test_each_is_measured_in_both_precisions(measured: tuple[dict[str, Any], str, Path]) -> None:
    found, _, _ = measured
    assert [each["backbone"] for each in found["measured"]] == ["test_resnet", "test_efficientnet"]
    for each in found["measured"]:
        assert each["fits"] == ["fp32", "int8"] and all(ms > 0 for ms in each["median_ms"].values())
        assert each["bytes"]["int8"] < each["bytes"]["fp32"]
        # fp32 weights take four bytes each, and the file holds little else
        assert each["bytes"]["fp32"] >= 4 * each["parameters"]
        assert each["macs"] > 0 and each["pretrained"] == ["r160_in1k"]
    assert found["rounds"] >= FEWEST and found["image_size_px"] == 40 and found["threads"] == 1
    assert not found["left_out"]


def test_one_that_cannot_be_built_is_named_and_others_go_on(
    measured: tuple[dict[str, Any], str, Path],
) -> None:
    [(name, why)] = measured[0]["failed"].items()
    # its patches are 16 pixels wide
    assert name == "test_vit" and "cannot take 40, try 32 or 64" in why


def test_the_sweep_holds_the_best_by_accuracy_and_their_times(
    measured: tuple[dict[str, Any], str, Path],
) -> None:
    found, said, out = measured
    assert found["chosen"] == ["test_efficientnet", "test_resnet"]  # 47.5 % before 41.0 %
    assert f"vl2v-deploy sweep {out}" in said
    sweep = read_sweep(out)
    assert sweep.recipe.resolve() == (out.parent.parent / "recipe.yaml").resolve()
    [first, second] = combinations(sweep.grid, Path("runs"))
    assert first[0] == ['student.backbone="test_efficientnet"', 'student.weights="timm"']
    assert second[1] == Path("runs/student.backbone=test_resnet")
    assert sweep.latency and sweep.latency.image_size_px == 40
    assert sweep.latency.median_ms["test_resnet"] == found["measured"][0]["median_ms"]


def test_unknown_names_are_all_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as told:
        require_known(["resnet5O", "resnet18", "no_such_thing_at_all"])
    assert "resnet50" in str(told.value) and "no_such_thing_at_all" in str(told.value)
    assert "resnet18 " not in str(told.value)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    ran = shortlist(str(tmp_path / "recipe.yaml"), "--latency-ms", "5", "--backbones", "resnet5O")
    assert ran.exit_code == 1 and ran.stderr.count("\n") == 1 and "resnet50" in ran.stderr


def test_every_default_candidate_is_timms_and_has_weights() -> None:
    require_known(CANDIDATES)
    assert all(pretrained_tags(name) for name in CANDIDATES)


def candidate(name: str, ms: float, **others: Any) -> Candidate:
    told = {"macs": 1, "pretrained": ("a",), "imagenet_top1": None} | others
    return Candidate(name, 1, bytes={"fp32": 4}, median_ms={"fp32": ms}, refused={}, **told)


def test_chosen_are_the_best_that_fit_and_have_weights() -> None:
    known = candidate("known", 4.0, imagenet_top1=(70.0, 224))
    better = candidate("better", 5.0, imagenet_top1=(71.0, 224))
    large, small = candidate("large", 5.0, macs=9), candidate("small", 1.0, macs=2)
    slow, bare = candidate("slow", 5.1, macs=99), candidate("bare", 1.0, macs=99, pretrained=())
    every = [known, better, large, small, slow, bare]
    assert chosen_of(every, 5.0, 9) == ("better", "known", "large", "small")
    assert chosen_of(every, 5.0, 1) == ("better",)
    assert chosen_of(every, 0.5, 9) == ()


def test_a_table_of_accuracies_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    for text in ("model,top1\nresnet18,70\n", "model,top1,img_size\nresnet18,seventy,224\n"):
        file.write_text(text)
        with pytest.raises(ModelError, match=r"results\.csv: expected timm's"):
            imagenet_top1(file)
    with pytest.raises(ModelError, match="cannot be read"):
        imagenet_top1(tmp_path / "missing.csv")


def test_each_has_its_turn_in_a_round() -> None:
    calls: list[str] = []

    class Session:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, *_: object) -> None:
            calls.append(self.name)

    times = timed({name: Session(name) for name in "ab"}, 8, lambda: None)
    assert "".join(calls) == "ab" * (times.rounds + 1)
    assert times.busy >= 1 and Times[str]({"a": 3.0}, {"a": 2.0}, 20).busy == 1.5


def test_a_sweep_file_and_the_command_line(tmp_path: Path, write_recipe: Callable[[str], Path]) -> None:
    file = tmp_path / "sweep.yaml"
    latency = Latency(224, {"resnet18": {"fp32": 2.0}}, "a machine")
    write_sweep(file, write_recipe(RECIPE), {"student.backbone": ["resnet18", "resnet34"]}, latency, "why")
    assert file.read_text().startswith("# why\nrecipe: recipe.yaml\n")
    both = read_sweep(file, ["seed=0,1"])
    assert len(combinations(both.grid, Path("runs"))) == 4 and both.latency == latency
    assert read_sweep(file, ["student.backbone=resnet50"]).grid == ("student.backbone=resnet50",)
    plain = read_sweep(tmp_path / "recipe.yaml", ["seed=0,1"])
    assert plain.recipe == tmp_path / "recipe.yaml" and plain.latency is None
    for text, told in (
        ("{recipe: a.yaml, set: {seed: 0}}", "list of values"),
        ("{recipe: a.yaml, sets: {seed: [0]}}", "sets: unknown"),
        ("{recipe: a.yaml, set: {seed: [0, 1]}, latency: {machine: here}}", "latency: expected"),
    ):
        file.write_text(text)
        with pytest.raises(RecipeError, match=told):
            read_sweep(file)


def test_the_table_has_latency_beside_accuracy(tmp_path: Path) -> None:
    for name, size_px in (("resnet18", 224), ("resnet34", 224), ("resnet50", 96)):
        settings = {"student.backbone": name, "student.image_size_px": size_px}
        write_run(tmp_path / "runs" / name, settings=settings)
    latency = Latency(224, {"resnet18": {"fp32": 2.0, "int8": 1.0}, "resnet50": {"fp32": 9.0}}, "a machine")
    sweep = tmp_path / "sweep.yaml"
    write_sweep(sweep, tmp_path / "recipe.yaml", {"seed": [0, 1]}, latency, "why")
    runs, out = str(tmp_path / "runs"), tmp_path / "report"
    words = ["table", runs, "--latency", str(sweep), "--json", "--out", str(out)]
    ran = CliRunner().invoke(cli, words)
    assert ran.exit_code == 0, ran.output
    rows = {row["setting"]["student.backbone"]: row["latency"] for row in json.loads(ran.stdout)[0]["rows"]}
    assert rows["resnet18"] == {"fp32 ms": 2.0, "int8 ms": 1.0}
    # not measured, and measured at another size
    assert rows["resnet34"] == rows["resnet50"] == {"fp32 ms": None, "int8 ms": None}
    lines = [line for line in (out / "table.md").read_text().splitlines() if line.startswith("|")]
    assert (
        lines[0].endswith("| trials | fp32 ms | int8 ms |") and len({line.count("|") for line in lines}) == 1
    )
    assert "2.00 & 1.00" in (out / "table.tex").read_text()
    plain = CliRunner().invoke(cli, ["table", runs, "--json"])
    assert "latency" not in json.loads(plain.stdout)[0]["rows"][0]
