"""Every method from recipe to run directory, on tiny models: what is trained, what is recorded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import BACKBONE, write_recipe
from vl2v_deploy.distillation import single_run
from vl2v_deploy.distillation.dry_run import dry_run
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.distillation.sweep import sweep_recipe, swept_recipes
from vl2v_deploy.distillation.train.loop import Stage
from vl2v_deploy.errors import ModelError, RecipeError, RunError
from vl2v_deploy.exporting.run import export_run
from vl2v_deploy.folders import partial_of
from vl2v_deploy.models.record import finished_runs
from vl2v_deploy.models.run_directory import load_run, newest_run
from vl2v_deploy.models.student import Student
from vl2v_deploy.models.teacher.open_clip import OpenClipTeacher
from vl2v_deploy.recipe import METHODS, Recipe, load_recipe

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def dry_runs() -> Iterator[Any]:
    """Each shipped recipe; of those that differ in their data alone all but the first are a long test.

    A teacher behind an API has no random weights to try.
    """
    seen: list[Recipe] = []
    for path in SHIPPED:
        recipe = load_recipe(path)
        if recipe.teacher.kind == "http":
            continue
        models = recipe.model_copy(update={"data": None, "prompts": None})
        yield pytest.param(path, id=path.stem, marks=[pytest.mark.long] if models in seen else [])
        seen.append(models)


DOMAINS = {"ink", "paint", "photo"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distill")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(folder: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VL2V_DEPLOY_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return write_recipe(folder, make_domain_folder(folder / "data"))


@pytest.fixture(scope="module")
def recipe(file: Path) -> Recipe:
    return load_recipe(file)


@pytest.fixture(scope="module")
def run(folder: Path, recipe: Recipe, _own_cache: object) -> Path:
    [path] = distill_recipe(recipe, folder / "runs" / "tiny")
    return path


def record_of(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def weights_by_stage(recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple]:
    """For each stage that a run trains, the student's state before and after it."""
    states: dict[str, tuple] = {}

    def snapshot(student: Student) -> dict[str, torch.Tensor]:
        return {key: value.clone() for key, value in student.state_dict().items()}

    def watched(student: Student, stage: Stage, *args: object) -> None:
        before = snapshot(student)
        run_stage(student, stage, *args)  # type: ignore[arg-type]
        states[stage.name] = before, snapshot(student)

    run_stage = single_run.run_stage
    with monkeypatch.context() as patch:
        patch.setattr(single_run, "run_stage", watched)
        distill_recipe(recipe, out)
    return states


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


BACKBONE_PARAMETERS = {
    f"backbone.{key}" for key, _ in timm.create_model(BACKBONE, num_classes=0).named_parameters()
}
PROJECTOR = {"projector.weight", "projector.bias"}
HEAD = {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        ("adip", {"align": PROJECTOR, "distill": BACKBONE_PARAMETERS}),
        ("image_only", {"align": PROJECTOR, "distill": BACKBONE_PARAMETERS}),
        ("text_only", {"align": PROJECTOR, "distill": BACKBONE_PARAMETERS}),
        ("no_align", {"distill": BACKBONE_PARAMETERS | PROJECTOR}),
        ("erm", {"distill": BACKBONE_PARAMETERS | HEAD}),
        ("kd", {"distill": BACKBONE_PARAMETERS | HEAD}),
        ("kd_text", {"distill": BACKBONE_PARAMETERS | HEAD | PROJECTOR}),
        ("rise", {"distill": BACKBONE_PARAMETERS | HEAD | PROJECTOR}),
    ],
)
def test_each_stage_moves_its_own_weights_only(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, stages: dict[str, set[str]]
) -> None:
    states = weights_by_stage(recipe.model_copy(update={"method": method}), tmp_path / "run", monkeypatch)
    # so no BatchNorm statistic, no mean or std, nothing of another part
    assert {name: moved(*pair) for name, pair in states.items()} == stages
    if "align" in states:
        assert moved(states["align"][1], states["distill"][0]) == set()
    record = record_of(tmp_path / "run")
    assert record["method"] == method
    assert record["stages"].keys() == stages.keys()
    assert record["selection"] == "source_val"
    bundle = export_run(tmp_path / "run", tmp_path / "bundle")  # parity is checked there
    assert (bundle / "student.onnx").is_file()


def test_frozen_modules_of_the_backbone_keep_their_weights_and_all_others_are_trained(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(file, ["distill.frozen=[conv_stem,bn1,blocks.0]"])
    [align, (before, after)] = weights_by_stage(recipe, tmp_path / "run", monkeypatch).values()
    still = {
        key
        for key in BACKBONE_PARAMETERS
        if key.startswith(("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0."))
    }
    assert len(still) > 4
    assert moved(before, after) == BACKBONE_PARAMETERS - still
    assert moved(*align) == PROJECTOR
    # The recipe's one template is "a photo of a ...", and photo its target.
    assert "prompts name this unseen domain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ("[block.0]", "is within them; did you mean 'blocks.0'?"),
        ("[conv_stem,bn1,blocks,conv_head,bn2]", "nothing is left that distill could train"),
    ],
)
def test_modules_that_cannot_be_frozen_are_told_before_any_training(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: str, message: str
) -> None:
    monkeypatch.setattr(single_run, "run_stage", None)
    with pytest.raises(ModelError, match=re.escape(message)):
        distill_recipe(load_recipe(file, [f"distill.frozen={frozen}"]), tmp_path / "run")


def test_self_distill_trains_the_teachers_tower_and_keeps_its_projection(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(file, ["method=self_distill", "student={backbone: teacher, image_size_px: 32}"])
    [(stage, (before, after))] = weights_by_stage(recipe, tmp_path / "run", monkeypatch).items()
    assert stage == "distill"
    still = before.keys() - moved(before, after)
    assert "backbone.proj" in still
    assert any("attn" in key for key in moved(before, after))
    teacher = load_file(file.parent / "teacher" / "open_clip_model.safetensors")
    assert torch.equal(before["backbone.proj"], teacher["visual.proj"])
    record = record_of(tmp_path / "run")
    assert record["accuracy"]["student"].keys() == DOMAINS
    assert export_run(tmp_path / "run", tmp_path / "bundle")


@pytest.mark.parametrize("method", ["zero_shot", "teacher_probe", "linear_probe"])
def test_methods_that_train_no_backbone(recipe: Recipe, run: Path, tmp_path: Path, method: str) -> None:
    distill_recipe(recipe.model_copy(update={"method": method}), tmp_path / "run")
    record, adip = record_of(tmp_path / "run"), record_of(run)
    accuracy = record["accuracy"]
    if method == "zero_shot":
        assert accuracy["student"] == accuracy["teacher"] == adip["accuracy"]["teacher"]
    if method == "linear_probe":
        assert accuracy["student"] == accuracy["linear_probe"] == adip["accuracy"]["linear_probe"]
        assert export_run(tmp_path / "run", tmp_path / "bundle")
        loaded = load_run(tmp_path / "run").student.state_dict()
        pretrained = load_file(Path(recipe.student.weights))
        kept = {key: value for key, value in pretrained.items() if not key.startswith("classifier.")}
        assert all(torch.equal(loaded[f"backbone.{key}"], value) for key, value in kept.items())
    else:
        with pytest.raises(RunError, match="trains no student"):
            export_run(tmp_path / "run", tmp_path / "bundle")
    assert record["metrics"]["photo"]["accuracy"] == accuracy["student"]["photo"]


def test_a_run_records_metrics_averaging_and_where_it_was_measured(run: Path) -> None:
    record = record_of(run)
    assert record["format"] == 2
    for domain, metrics in record["metrics"].items():
        assert metrics["split"] == ("all" if domain == "photo" else "test")
        per_class = metrics["per_class"].values()
        right = sum(each["images"] * each["accuracy"] for each in per_class)
        assert right / metrics["images"] == pytest.approx(metrics["accuracy"])
        assert metrics["accuracy"] == record["accuracy"]["student"][domain]
        assert 0.0 <= metrics["ece"] <= 1.0
    for stage in ("align", "distill"):
        averaging = record["stages"][stage]["averaging"]
        assert averaging["kind"] == "swad"
        assert averaging["segments"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("val_loss" in line for line in lines)


def test_training_lowers_the_loss(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    align = [line["loss"] for line in lines if line["stage"] == "align" and "loss" in line]
    assert align[-1] < align[0] - 0.1


def test_each_runs_every_target_and_goes_on_where_it_was(file: Path, folder: Path) -> None:
    each = load_recipe(file, ["data.target=each"])
    runs = distill_recipe(each, folder / "each")
    assert [path.name for path in runs] == ["ink", "paint", "photo"]
    assert {path.name for path in finished_runs(folder / "each")} == DOMAINS
    with pytest.raises(RunError, match="holds 3 runs, name one"):
        load_run(folder / "each")
    shutil.rmtree(runs[1])
    stamp = (runs[0] / "run.json").stat().st_mtime_ns
    distill_recipe(each, folder / "each")
    assert (runs[0] / "run.json").stat().st_mtime_ns == stamp
    assert newest_run(folder) == runs[1]


def test_methods_targets_and_trials_make_one_run_each(file: Path, tmp_path: Path) -> None:
    settings = ["method=[zero_shot, erm]", "trials=2", "data.target=each", "distill.steps=2"]
    settings += ["per_method.erm.distill.steps=3"]
    runs = distill_recipe(load_recipe(file, settings), tmp_path / "out")
    names = [run.relative_to(tmp_path / "out").as_posix() for run in runs]
    assert sorted(names) == sorted(
        f"{method}/{target}/trial-{trial}"
        for method in ("zero_shot", "erm")
        for target in DOMAINS
        for trial in (0, 1)
    )
    assert all("trial-0" in name for name in names[:6])  # a table of one trial is whole early
    first, second = (record_of(tmp_path / f"out/erm/ink/trial-{trial}") for trial in (0, 1))
    assert (first["seed"], second["seed"], second["trial"]) == (0, 1, 1)
    assert first["stages"]["distill"]["steps"] == 3
    assert first["data"]["fingerprint"] != second["data"]["fingerprint"]  # another split


def test_domainbed_splits_select_on_out_and_measure_on_in(file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(file, ["data.split=domainbed"])
    distill_recipe(recipe, tmp_path / "run")
    record = record_of(tmp_path / "run")
    assert record["metrics"]["photo"]["split"] == "in"
    assert record["metrics"]["ink"]["split"] == "out"
    assert record["data"]["evaluated"] == {"ink": 4, "paint": 4, "photo": 16}
    assert record["data"]["images"]["ink"] == {"train": 16, "val": 4, "test": 0}


def test_an_oracle_is_called_one(file: Path, tmp_path: Path) -> None:
    distill_recipe(load_recipe(file, ["distill.averaging=oracle"]), tmp_path / "run")
    record = record_of(tmp_path / "run")
    assert record["selection"] == "oracle (target)"
    assert record["stages"]["distill"]["averaging"]["kind"] == "oracle"


@pytest.mark.parametrize("views", [2, "online"])
def test_views_and_online_queries(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int | str
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    recipe = load_recipe(file, [f"teacher_views={views}"])
    distill_recipe(recipe, tmp_path / "first")
    train, held_out = 28, 4 + 4 + 20  # of the sources; the test images of all three domains
    queries = record_of(tmp_path / "first")["teacher"]["queries"]
    steps = recipe.align.steps + recipe.distill.steps
    assert queries == (2 * train if views == 2 else steps * 8) + held_out
    distill_recipe(recipe.model_copy(update={"seed": 1}), tmp_path / "second")
    again = record_of(tmp_path / "second")["teacher"]["queries"]
    assert again == (0 if views == 2 else steps * 8)


def test_faithful_normalization_is_another_teacher(file: Path, tmp_path: Path) -> None:
    too_big = load_recipe(file, ["normalization=faithful", "student.image_size_px=48"])
    with pytest.raises(ModelError, match=r"32.*48|48.*32"):
        distill_recipe(too_big, tmp_path / "a")
    distill_recipe(load_recipe(file, ["normalization=faithful"]), tmp_path / "faithful")
    distill_recipe(load_recipe(file), tmp_path / "own")
    faithful, own = record_of(tmp_path / "faithful"), record_of(tmp_path / "own")
    assert faithful["teacher"]["identity"] != own["teacher"]["identity"]
    assert faithful["teacher"]["queries"] > 0


def test_a_run_is_not_overwritten_unasked_nor_half_replaced(
    recipe: Recipe, run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "kept"
    shutil.copytree(run, out)
    with pytest.raises(RunError, match="--overwrite"):
        distill_recipe(recipe, out)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(single_run, "run_stage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distill_recipe(recipe, out, overwrite=True)
    assert load_run(out).record.accuracy == load_run(run).record.accuracy
    with pytest.raises(RunError, match="is unfinished"):
        load_run(partial_of(out))
    assert partial_of(out) not in finished_runs(folder)
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").touch()
    with pytest.raises(RunError, match="is not a run directory"):
        distill_recipe(recipe, folder / "mine", overwrite=True)


def test_runs_of_each_target_and_a_single_run_do_not_mix(
    file: Path, recipe: Recipe, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(run, out)
    with pytest.raises(RunError, match="is one run"):
        distill_recipe(load_recipe(file, ["data.target=each"]), out)
    shutil.copytree(run, out / "ink")
    with pytest.raises(RunError, match="holds other runs"):
        distill_recipe(recipe, out, overwrite=True)
    assert load_run(out / "ink")


def test_bf16_and_compile_are_switches_that_train(file: Path, tmp_path: Path, run: Path) -> None:
    distill_recipe(load_recipe(file, ["distill.precision=bf16"]), tmp_path / "bf16")
    first, second = load_file(run / "student.safetensors"), load_file(tmp_path / "bf16/student.safetensors")
    assert all(value.dtype == first[key].dtype for key, value in second.items())
    assert any(not torch.equal(value, first[key]) for key, value in second.items())


@pytest.mark.long
def test_compile_gives_the_weights_of_eager(file: Path, tmp_path: Path, run: Path) -> None:
    distill_recipe(load_recipe(file, ["distill.compile=true"]), tmp_path / "compiled")
    first = load_file(run / "student.safetensors")
    for key, value in load_file(tmp_path / "compiled/student.safetensors").items():
        torch.testing.assert_close(value, first[key], rtol=1e-2, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("method", ["adip", "rise", "linear_probe"])
def test_a_run_on_cuda_is_that_of_the_cpu(file: Path, tmp_path: Path, method: str) -> None:
    for device in ("cpu", "cuda"):
        distill_recipe(load_recipe(file, [f"device={device}", f"method={method}"]), tmp_path / device)
    cpu, cuda = (load_file(tmp_path / device / "student.safetensors") for device in ("cpu", "cuda"))
    for key, value in cuda.items():
        torch.testing.assert_close(value, cpu[key], rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"self_distill"}))
def test_dry_run_needs_no_data_and_no_weights(file: Path, tmp_path: Path, method: str) -> None:
    settings = [f"method={method}", "data.root=nowhere", "student.weights=timm"]
    [result] = dry_run(load_recipe(file, settings))
    assert result.method == method
    assert result.embedding_dim == 16
    trained = method not in ("zero_shot", "teacher_probe")
    assert (result.parameters > 90_000) == trained


def test_a_dry_run_does_not_fill_the_teachers_batch(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    embed = OpenClipTeacher.embed_preprocessed

    def counted(teacher: OpenClipTeacher, batch: torch.Tensor) -> torch.Tensor:
        asked.append(len(batch))
        return embed(teacher, batch)

    monkeypatch.setattr(OpenClipTeacher, "embed_preprocessed", counted)
    dry_run(load_recipe(file, ["teacher.batch_size=64"]))
    assert asked == [4]  # two images of each of two domains


@pytest.mark.slow
@pytest.mark.parametrize("path", list(dry_runs()))
def test_every_shipped_recipe_dry_runs(path: Path) -> None:
    recipe = load_recipe(path)
    if recipe.teacher.model.startswith("hf-hub:"):  # its config lies on the hub, and tests have no network
        with pytest.raises(ModelError, match="config"):
            dry_run(recipe)
        return
    for result in dry_run(recipe):
        assert result.embedding_dim in (256, 512)
        assert all(loss == loss for loss in result.losses.values())


def test_a_sweep_runs_every_combination_once(file: Path, tmp_path: Path) -> None:
    grid = ["distill.image_weight=0,0.5", "seed=0,1", "distill.steps=2"]
    options = {"skip_bad": False, "overwrite": False, "resume": False}
    runs = sweep_recipe(file, grid, tmp_path / "sweep", **options)
    assert [run.name for run in runs] == [
        f"distill.image_weight={weight},seed={seed}" for weight in ("0", "0.5") for seed in (0, 1)
    ]
    record = load_run(runs[2]).recipe
    assert (record.distill.image_weight, record.distill.steps, record.seed) == (0.5, 2, 0)
    stamps = [(run / "run.json").stat().st_mtime_ns for run in runs]
    assert sweep_recipe(file, grid, tmp_path / "sweep", **options) == runs
    assert [(run / "run.json").stat().st_mtime_ns for run in runs] == stamps


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (["seed=1"], "nothing varies"),
        (["seed"], "expected FIELD=VALUE"),
        (["distill.image_weight=0.5,1.5"], "distill.image_weight"),
        (["distill.lr=1,2"], "unknown field"),
    ],
)
def test_sweeps_that_are_none(file: Path, tmp_path: Path, grid: list[str], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        swept_recipes(file, grid, tmp_path)
