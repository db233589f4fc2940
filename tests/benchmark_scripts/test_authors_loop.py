"""The yardstick of the speed claims: is the transcription what it says, and the report what was measured?"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from click.testing import CliRunner

from benchmarks.peers import authors_loop, procedure, scenarios
from benchmarks.peers.authors_loop import explanations, main, print_report, table_rows
from benchmarks.peers.comparison import compare
from benchmarks.peers.inputs import plain, teacher_input
from benchmarks.peers.procedure import Algorithm, PeerOptions, start_program, train_stage
from benchmarks.peers.result_file import write_report
from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import TEACHER_CONFIG, write_recipe
from vl2v_deploy.client.preprocess import open_image, preprocess
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.models.student import build_student
from vl2v_deploy.models.teacher.load import load_teacher, load_white_box
from vl2v_deploy.recipe import Recipe, load_recipe

ALONE = PeerOptions(workers=0)
STEPS = ("align.evaluate_every=4", "distill.evaluate_every=2")  # 12 and 4 steps


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peer")
    return write_recipe(folder, make_domain_folder(folder / "data"))


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file, STEPS)


@pytest.fixture(scope="module")
def teacher_batches() -> list[int]:
    return []


@pytest.fixture(scope="module")
def report(recipe: Recipe, teacher_batches: list[int]) -> dict[str, Any]:
    """A whole comparison; what the peer's teacher really ran is counted inside the model.

    The peer's clock shows this process's own seconds: a busy machine stops it between two parts as well.
    """

    def counted(*arguments: Any) -> Any:
        teacher = load_white_box(*arguments)
        teacher.image_tower.module.register_forward_pre_hook(
            lambda _, inputs: teacher_batches.append(len(inputs[0]))
        )
        return teacher

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(procedure, "load_white_box", counted)
        patch.setattr(procedure.Clock, "now", lambda _: time.process_time())
        return compare(recipe, {"teacher_views 0": recipe, "again": recipe}, ALONE)


def pretrained(recipe: Recipe) -> dict[str, torch.Tensor]:
    torch.manual_seed(recipe.seed)
    return build_student(recipe, 16, 2).state_dict()


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Which parts of a student have changed, by the first word of their names."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_the_teacher_sees_every_batch_of_both_stages(
    report: dict[str, Any], teacher_batches: list[int]
) -> None:
    assert teacher_batches == [2 * 4] * (12 + 4)  # two source domains, four images of each
    stages = report["authors"]["stages"]
    assert [stages[stage]["teacher_images"] for stage in ("align", "distill")] == [12 * 8, 4 * 8]
    assert report["authors"]["teacher_images"] == sum(teacher_batches)
    for line in report["ours"].values():  # each training and test image, bought by each line
        assert line["teacher_images"] == 28 + 28


def test_it_evaluates_from_step_0_on_and_at_the_end(report: dict[str, Any]) -> None:
    stages = report["authors"]["stages"]
    assert [found["step"] for found in stages["align"]["evaluations"]] == [0, 4, 8, 11]
    assert [found["step"] for found in stages["distill"]["evaluations"]] == [0, 2, 3]
    for stage in stages.values():
        assert len(stage["losses"]) == stage["steps"]
        parts = sum(seconds for part, seconds in stage["seconds"].items() if part != "total")
        assert 0.8 * stage["seconds"]["total"] < parts <= stage["seconds"]["total"]


def test_each_stage_trains_its_part_alone(recipe: Recipe, tmp_path: Path) -> None:
    before = pretrained(recipe)
    checkpoint = tmp_path / "align.pt"
    aligned, _ = train_stage("align", recipe, None, checkpoint, ALONE)
    assert moved(before, aligned.student.state_dict()) == {"projector"}
    saved = {
        name.removeprefix("student."): value
        for name, value in torch.load(checkpoint, weights_only=True).items()
        if name.startswith("student.")
    }
    assert moved(before, saved) == {"projector"}
    distilled, _ = train_stage("distill", recipe, checkpoint, tmp_path / "distill.pt", ALONE)
    assert moved(saved, distilled.student.state_dict()) == {"backbone"}


@pytest.mark.parametrize("asked", [False, True])
def test_align_has_backbone_gradients_only_when_asked_to(recipe: Recipe, asked: bool) -> None:
    algorithm = start_program("align", recipe, None, ALONE).algorithm
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    algorithm.update(images, labels, torch.eye(4, 16), backbone_gradients=asked)
    assert all((p.grad is not None) == asked for p in algorithm.student.backbone.parameters())
    assert all(p.grad is not None for p in algorithm.student.projector.parameters())
    assert moved(pretrained(recipe), algorithm.student.state_dict()) == {"projector"}


def test_its_student_sees_what_ours_sees(recipe: Recipe) -> None:
    program = start_program("distill", recipe, None, ALONE)
    [sample, *_] = load_domains(recipe.data).samples
    image = open_image(sample.path)
    theirs = program.algorithm.student.backbone(plain(32, program.mean, program.std)(image)[None])
    ours = program.algorithm.student.features(torch.tensor(preprocess(image, 32))[None])
    torch.testing.assert_close(theirs, ours)


def test_its_loaders_draw_from_each_source_domain_alike(recipe: Recipe) -> None:
    program = start_program("distill", recipe, None, ALONE)
    steps = list(program.batches())
    assert len(steps) == 4
    assert all([tuple(images.shape) for images, _ in step] == [(4, 3, 32, 32)] * 2 for step in steps)
    drawn = torch.cat([images for step in steps for images, _ in step])
    assert len(torch.unique(drawn.flatten(1), dim=0)) == len(drawn)  # augmented anew each time


def test_the_teacher_is_fed_the_students_tensor_only_where_sizes_agree(recipe: Recipe) -> None:
    teacher = load_white_box(recipe.teacher, "this test")  # 32 px, mean = std = 0.5
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.8)
    same = torch.rand(2, 3, 32, 32)
    assert teacher_input(teacher, same, 32, mean, std) is same
    colour = torch.tensor([0.25, 0.5, 1.0])[:, None, None]
    normalised = (colour - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    for student_px, made_px in ((48, 48), (16, 32)):  # a batch is made at the larger size of the two
        fed = teacher_input(teacher, normalised.expand(2, 3, made_px, made_px), student_px, mean, std)
        torch.testing.assert_close(fed, (2 * colour - 1).expand(2, 3, 32, 32))


@pytest.mark.parametrize("student_px", [24, 48])
def test_where_sizes_differ_each_model_gets_its_own(recipe: Recipe, student_px: int, tmp_path: Path) -> None:
    resized = recipe.student.model_copy(update={"image_size_px": student_px})
    differing = recipe.model_copy(update={"student": resized})
    program = start_program("distill", differing, None, ALONE)
    [images, _], *_ = next(program.batches())
    assert images.shape[-1] == max(student_px, 32)
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        forward = Algorithm.update
        patch.setattr(
            Algorithm, "update", lambda self, x, *rest: seen.append(x.shape[-1]) or forward(self, x, *rest)
        )
        train_stage("distill", differing, None, tmp_path / "best.pt", ALONE)
    assert seen == [student_px] * 4


def test_both_sides_have_trained_and_are_scored_on_the_same_images(
    report: dict[str, Any], recipe: Recipe
) -> None:
    authors, ours = report["authors"], report["ours"]["teacher_views 0"]
    assert authors["accuracy"]["images"] == ours["accuracy"]["images"] == {"ink": 4, "paint": 4, "photo": 20}
    for stage in ("align", "distill"):
        assert authors["stages"][stage]["steps"] == ours["stages"][stage]["steps"]
        assert authors["stages"][stage]["images"] == ours["stages"][stage]["images"]
    for side in (authors, ours):
        assert side["accuracy"]["ood"] == side["accuracy"]["by_domain"]["photo"]
        assert side["accuracy"]["id"] == pytest.approx(
            (side["accuracy"]["by_domain"]["ink"] + side["accuracy"]["by_domain"]["paint"]) / 2
        )
    assert {"teacher", "features", "evaluate"} <= ours["seconds"].keys()


def test_the_file_holds_what_the_table_shows(report: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "results" / "report.json"
    write_report(report, path)
    kept = json.loads(path.read_text())
    assert kept == json.loads(json.dumps(report))
    rows = {cells[0]: cells[1:] for cells in table_rows(kept)}
    authors, ours = kept["authors"], kept["ours"]["teacher_views 0"]
    ratio = authors["total_s"] / ours["total_s"]
    assert rows["total"][:3] == [f"{authors['total_s']:.1f} s", f"{ours['total_s']:.1f} s", f"{ratio:.1f}"]
    worked = [side["user_s"] + side["system_s"] for side in (authors, ours)]
    assert min(worked) > 0
    assert rows["seconds of all processors"][2] == f"{worked[0] / worked[1]:.1f}"
    assert rows["images sent to the teacher"][:3] == ["128", "56", f"{128 / 56:.1f}"]
    for stage in ("align", "distill"):
        theirs, own = authors["stages"][stage], ours["stages"][stage]
        assert rows[stage][0].endswith(f" {theirs['images_per_s']:.0f} images/s")
        assert rows[stage][1].endswith(f" {own['images_per_s']:.0f} images/s")
        assert rows[stage][2] == f"{own['images_per_s'] / theirs['images_per_s']:.1f}"
    assert rows["OOD accuracy, %"][0] == f"{100 * authors['accuracy']['ood']:.1f}"
    assert rows["ID accuracy, %"][1] == f"{100 * ours['accuracy']['id']:.1f}"


def test_the_committed_result_is_described_with_its_command() -> None:
    root = Path(__file__).parents[2]
    [path] = (root / "benchmarks" / "results").glob("authors_loop_emojidg-cpu_*.json")
    page = (root / "docs/results.md").read_text(encoding="utf-8")
    assert json.loads(path.read_text())["command"] in page and path.name in page


def test_a_low_total_ratio_is_explained_with_its_own_numbers(report: dict[str, Any]) -> None:
    line = {"total_s": 100.0, "seconds": {"teacher": 20.0, "features": 5.0}, "stages": {}}
    line["stages"] = {"distill": {"seconds": 60.0}}
    made = {"ours": {"one": line, "other": line}, "ratios": {"one": {"total": 3.0}, "other": {"total": 10.0}}}
    [text] = explanations(made)
    assert text.startswith("one: total ratio 3.0. 60 % of our time is Distill")
    assert "25 % is paid once" in text


def test_the_command_compares_writes_and_prints(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiny(_: str, overrides: Sequence[str], *rest: Any, **options: Any) -> Recipe:
        return load_recipe(recipe_file, overrides)

    monkeypatch.setattr(authors_loop, "scenario_recipe", tiny)
    out = tmp_path / "result.json"
    options = ["--quick", "--steps", "2", "--batch-per-domain", "3", "--target", "ink", "--threads", "1"]
    before = torch.get_num_threads()
    try:
        done = CliRunner().invoke(main, [*options, "--workers", "0", "--out", str(out)])
    finally:
        torch.set_num_threads(before)
    assert done.exit_code == 0, done.output
    written = json.loads(out.read_text())
    assert (written["recipe"]["target"], written["threads"]) == ("ink", 1)
    assert written["recipe"]["align"]["evaluate_every"] == authors_loop.QUICK["evaluate_every"]
    assert [written["authors"]["stages"][stage]["images"] for stage in ("align", "distill")] == [12, 12]
    assert list(written["ours"]) == ["teacher_views 0"]
    assert f"{written['authors']['total_s']:.1f} s" in done.output
    assert {"schema", "command", "device", "versions", "git_commit", "recipe_sha256"} <= written.keys()
    print_report(written)


def test_the_full_run_has_a_line_with_views_and_a_gpu_one_with_bf16(recipe: Recipe) -> None:
    assert {name: line.teacher_views for name, line in authors_loop.our_lines(recipe, False).items()} == {
        "teacher_views 0": 0,
        "teacher_views 2": 2,
    }
    lines = authors_loop.our_lines(recipe.model_copy(update={"device": "cuda"}), True)
    assert {name: line.distill.precision for name, line in lines.items()} == {
        "teacher_views 0": "fp32",
        "teacher_views 0, bf16": "bf16",
    }


@pytest.mark.parametrize(
    "scenario", [name for name in get_args(scenarios.Scenario) if name.startswith("gpu")]
)
def test_a_gpu_scenario_refuses_a_processor(scenario: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--scenario", scenario, "--out", str(tmp_path / "result.json")])
    assert done.exit_code == 1
    assert f"--scenario {scenario}: needs a GPU, got --device cpu" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_scenario_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TEACHER_CONFIG["model_cfg"]
    monkeypatch.setattr(scenarios.open_clip, "get_model_config", {"ViT-B-16": config}.get)
    monkeypatch.setitem(scenarios.GPU_STUDENTS, "gpu-deit-s", "test_vit")
    monkeypatch.setattr(scenarios, "PER_CLASS", 5)
    monkeypatch.setattr(scenarios, "PICTURE_PX", 24)
    overrides = ["device=cuda", "student.image_size_px=160"]
    recipe = scenarios.scenario_recipe("gpu-deit-s", overrides, tmp_path)
    domain_set = load_domains(recipe.data)
    assert len(domain_set.samples) == 4 * 7 * 5
    assert len({sample.sha256 for sample in domain_set.samples}) == 4 * 7 * 5
    teacher = load_teacher(recipe.teacher)
    assert build_student(recipe, teacher.embedding_dim, 7).projector.out_features == teacher.embedding_dim
