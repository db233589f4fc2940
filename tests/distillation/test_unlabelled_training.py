"""Training on unlabelled images: their share of the loss, and through resume, processes, store and tables."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.distillation.test_ddp import torchrun
from tests.distillation.test_resume import interrupt_at, same_weights
from tests.distillation.test_text_term import AskedTeacher
from tests.helpers import tiny
from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.teachers import ColourTeacher
from vl2v_deploy.data.augment import Augment
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.data.image_cache import ImageCache
from vl2v_deploy.data.sampling import StepBatches, domain_rows
from vl2v_deploy.data.unlabelled import load_unlabelled
from vl2v_deploy.distillation.dry_run import dry_run
from vl2v_deploy.distillation.evaluate.zero_shot import FittedScale, ZeroShotClassifier
from vl2v_deploy.distillation.purchase.ahead import embed_ahead
from vl2v_deploy.distillation.report import accuracy_table
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.distillation.study.table import tables
from vl2v_deploy.distillation.train.training_data import labels_by_teacher
from vl2v_deploy.errors import DataError, RecipeError, RunError
from vl2v_deploy.method.losses import LOSSES, Baselines, StudentOutput, Targets
from vl2v_deploy.models.record import read_record
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.recipe import BaselineRecipe, Recipe, RiseRecipe, load_recipe

POOL = 9
NONE_HELD_OUT = ("data.unlabelled_held_out=0",)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    root = make_domain_folder(folder / "data")
    rows = [f"{p.relative_to(root).as_posix()},{p.parent.name}{p.stem}" for p in sorted(root.rglob("*.png"))]
    (root / "groups.csv").write_text("\n".join(["image,group", *rows]))
    write_pool(folder / "pool", POOL)
    return tiny.write_recipe(folder, root)


def write_pool(folder: Path, images: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(77)
    for number in range(images):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def recipe_with(recipe_file: Path, *settings: str, pool: str = "[pool]") -> Recipe:
    ours = [f"data.unlabelled={pool}", "align.unlabelled_per_step=3", "distill.unlabelled_per_step=3"]
    return load_recipe(recipe_file, [*ours, *NONE_HELD_OUT, "data.split.groups=data/groups.csv", *settings])


def test_an_unlabelled_image_has_the_image_term_alone_and_weighs_as_much_as_another() -> None:
    generator = torch.Generator().manual_seed(0)
    x, image = torch.randn(2, 5, 8, generator=generator)
    text_emb = torch.randn(3, 8, generator=generator)
    labels = torch.tensor([0, 2, 1, 0, 0])
    labelled = torch.tensor([True, True, True, False, False])
    embedded = torch.tensor([True, False, True, True, True])
    targets = Targets(labels, image, text_emb, 10.0, labelled, embedded)
    cosine = torch.cosine_similarity
    of_image, of_text = cosine(x, image), cosine(x, text_emb[labels])
    terms = [*(0.3 * of_image + 0.7 * of_text)[[0, 2]], of_text[1], *of_image[3:]]
    loss = LOSSES["adip"](StudentOutput(x, None), targets, 0.3, Baselines(BaselineRecipe(), RiseRecipe()))
    torch.testing.assert_close(loss, -torch.stack(terms).mean())


def test_an_unlabelled_image_in_kd_has_the_kl_term_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator)
    image, text_emb = torch.randn(5, 8, generator=generator), torch.randn(3, 8, generator=generator)
    labels, labelled = torch.tensor([0, 2, 1, 0, 0]), torch.tensor([True, True, True, False, False])
    baseline = BaselineRecipe(temperature=2.0, kl_weight=0.25)

    def loss(rows: slice, labelled: torch.Tensor | None, baseline: BaselineRecipe = baseline) -> torch.Tensor:
        targets = Targets(labels[rows], image[rows], text_emb, 10.0, labelled)
        return LOSSES["kd"](
            StudentOutput(None, logits[rows]), targets, 0.5, Baselines(baseline, RiseRecipe())
        )

    with_labels, everything, without = slice(0, 3), slice(0, 5), slice(3, 5)
    kl_alone = loss(without, None, baseline.model_copy(update={"kl_weight": 1.0}))
    expected = (3 * loss(with_labels, None) + 2 * kl_alone) / 5
    torch.testing.assert_close(loss(everything, labelled), expected)


def test_unlabelled_images_change_nothing_in_the_labelled_part_of_a_step(recipe_file: Path) -> None:
    recipe = recipe_with(recipe_file)
    domain_set = load_domains(recipe.data)
    samples = domain_set.select(domain_set.sources("photo"), "train")
    pool = domain_set.select({"photo"}, "train")
    kept = {
        "rows_of": domain_rows(samples, domain_set.sources("photo")),
        "per_domain": 4,
        "augment": Augment(recipe.distill.augmentation, 32),
        "seed": 3,
        "cache": ImageCache(0),
    }
    plain = StepBatches(samples=samples, **kept)
    rows = np.arange(len(samples), len(samples) + len(pool))
    mixed = StepBatches(samples=(*samples, *pool), unlabelled=(rows, 5), **kept)
    halves = [
        StepBatches(samples=(*samples, *pool), unlabelled=(rows, 5), rank=r, world=2, **kept) for r in (0, 1)
    ]
    seen: set[int] = set()
    for step in range(4):
        one, two = plain.batch(step), mixed.batch(step)
        assert torch.equal(two.rows[:8], one.rows)
        assert torch.equal(two.images[:8], one.images)
        assert len(two.rows) == mixed.whole == 13
        parts = [half.batch(step) for half in halves]
        assert torch.equal(torch.cat([part.rows for part in parts]).sort().values, two.rows.sort().values)
        assert torch.equal(parts[1].images, two.images[1::2])
        seen |= set(two.rows[8:].tolist())
    assert seen <= set(rows.tolist())
    assert len(seen) >= min(20, len(pool))  # without replacement


@pytest.fixture(scope="module")
def trained(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AskedTeacher]:
    out, teacher = tmp_path_factory.mktemp("trained"), AskedTeacher()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VL2V_DEPLOY_CACHE", str(out / "cache"))
        distill_recipe(recipe_with(recipe_file, "checkpoint_every_s=0"), out / "run", teacher=teacher)
    return out / "run", teacher


def test_a_run_with_unlabelled_images_records_them_and_buys_each_once(
    trained: tuple[Path, AskedTeacher], recipe_file: Path, tmp_path: Path
) -> None:
    run, teacher = trained
    record = read_record(run)
    unlabelled = record.data.unlabelled
    assert unlabelled is not None
    assert (unlabelled.images, unlabelled.of_target) == (POOL, 0)
    assert [*unlabelled.sources.values()] == [POOL]
    assert not record.adapted
    assert teacher.asked == record.teacher.queries == record.teacher.images
    assert record.teacher.training is not None
    assert record.teacher.training.images == record.teacher.training.embedded
    without = recipe_with(recipe_file, *(f"{s}.unlabelled_per_step=0" for s in ("align", "distill")))
    distill_recipe(without, tmp_path / "without", teacher=ColourTeacher())
    plain = read_record(tmp_path / "without")
    assert plain.data.unlabelled is None
    assert plain.teacher.images == record.teacher.images - POOL
    assert not same_weights(run, tmp_path / "without")


@pytest.mark.parametrize(("stage", "step"), [("align", 5), ("distill", 2)])
def test_a_killed_run_with_unlabelled_images_resumes_bit_identically(
    trained: tuple[Path, AskedTeacher],
    recipe_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    step: int,
) -> None:
    recipe = recipe_with(recipe_file, "checkpoint_every_s=0")
    with monkeypatch.context() as patched:
        interrupt_at(stage, step, patched)
        with pytest.raises(KeyboardInterrupt):
            distill_recipe(recipe, tmp_path / "run", teacher=ColourTeacher())
    distill_recipe(recipe, tmp_path / "run", teacher=ColourTeacher(), resume=True)
    assert same_weights(trained[0], tmp_path / "run")


def test_other_unlabelled_images_are_not_resumed(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = tmp_path / "pool"
    write_pool(pool, 5)
    recipe = recipe_with(recipe_file, "checkpoint_every_s=0", pool=f"[{pool}]")
    with monkeypatch.context() as patched:
        interrupt_at("distill", 2, patched)
        with pytest.raises(KeyboardInterrupt):
            distill_recipe(recipe, tmp_path / "run", teacher=ColourTeacher())
    (pool / "3.png").unlink()
    with pytest.raises(RunError, match="other data"):
        distill_recipe(recipe, tmp_path / "run", teacher=ColourTeacher(), resume=True)


def test_unlabelled_views_come_from_the_store(recipe_file: Path, tmp_path: Path) -> None:
    recipe = recipe_with(recipe_file, "teacher_views=2")
    bought = embed_ahead(recipe)
    [run] = distill_recipe(recipe, tmp_path / "run")
    record = read_record(run)
    assert record.teacher.queries == 0
    labelled = sum(record.data.images[domain]["train"] for domain in ("ink", "paint"))
    assert bought.needed == 2 * (labelled + POOL) + sum(record.data.evaluated.values())


def test_text_term_trains_on_the_unlabelled_images_that_are_held(recipe_file: Path, tmp_path: Path) -> None:
    recipe, teacher = recipe_with(recipe_file, "missing_embeddings=text_term"), AskedTeacher()
    with pytest.raises(RunError, match=r"data\.unlabelled"):
        distill_recipe(recipe, tmp_path / "none", teacher=teacher)
    held = sorted((recipe_file.parent / "pool").glob("*.png"))[:4]
    EmbeddingStore(store_root(), ColourTeacher()).embed(held)
    distill_recipe(recipe, tmp_path / "run", teacher=teacher)
    training = read_record(tmp_path / "run").teacher.training
    assert training is not None
    assert training.embedded == 4
    assert teacher.asked == 0


def test_a_run_on_unlabelled_images_of_its_target_is_shown_as_adapted(
    trained: tuple[Path, AskedTeacher], recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    domain_set = load_domains(recipe_with(recipe_file).data)
    manifest = tmp_path / "of_target.txt"
    manifest.write_text("\n".join(str(s.path) for s in domain_set.select({"photo"}, "train")))
    recipe = recipe_with(recipe_file, pool=f"[pool, {manifest}]")
    distill_recipe(recipe, tmp_path / "run", teacher=ColourTeacher())
    record = read_record(tmp_path / "run")
    assert record.adapted
    assert record.data.unlabelled is not None
    assert record.data.unlabelled.of_target == len(domain_set.select({"photo"}, "train"))
    assert [*accuracy_table(record).columns[0].cells][-1] == "photo (target, adapted to)"
    [table] = tables([trained[0], tmp_path / "run"])
    marks = [(row.adapted, "adapted to the target" in row.label) for row in table.rows]
    assert marks == [(False, False), (True, True)]
    assert {row for row, _ in table.best} <= {0}
    assert any("images of the target, without labels" in note for note in table.notes)


def test_an_unlabelled_test_image_stops_a_protocol_before_its_first_run(
    recipe_file: Path, tmp_path: Path
) -> None:
    domain_set = load_domains(recipe_with(recipe_file).data)
    pool = tmp_path / "pool"
    write_pool(pool, 3)
    shutil.copy(domain_set.select({"paint"}, "test")[0].path, pool / "leak.png")
    teacher = AskedTeacher()
    with pytest.raises(DataError, match=r"leak\.png"):
        distill_recipe(
            recipe_with(recipe_file, "trials=2", pool=f"[{pool}]"), tmp_path / "runs", teacher=teacher
        )
    assert teacher.asked == 0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (["data.unlabelled=[]"], "unlabelled_per_step"),
        (["distill.image_weight=0"], "unlabelled_per_step"),
        (["distill.unlabelled_per_step=-1"], r"distill\.unlabelled_per_step"),
    ],
)
def test_unlabelled_settings_that_make_no_sense_are_refused(
    recipe_file: Path, settings: list[str], field: str
) -> None:
    with pytest.raises(RecipeError, match=field):
        recipe_with(recipe_file, *settings)


def test_methods_that_cannot_use_unlabelled_images_train_as_without_them(
    recipe_file: Path, tmp_path: Path
) -> None:
    assert dry_run(recipe_with(recipe_file))[0].losses.keys() == {"align", "distill"}
    for name, settings in (("with", []), ("without", ["distill.unlabelled_per_step=0"])):
        distill_recipe(
            recipe_with(recipe_file, "method=erm", *settings), tmp_path / name, teacher=ColourTeacher()
        )
    assert same_weights(tmp_path / "with", tmp_path / "without")
    assert read_record(tmp_path / "with").data.unlabelled is None


def test_kd_trains_on_unlabelled_images(recipe_file: Path, tmp_path: Path) -> None:
    recipe = recipe_with(recipe_file, "method=kd", "distill.image_weight=0", "align.image_weight=0")
    distill_recipe(recipe, tmp_path / "run", teacher=ColourTeacher())
    unlabelled = read_record(tmp_path / "run").data.unlabelled
    assert unlabelled is not None
    assert unlabelled.images == POOL


@pytest.mark.slow
def test_two_processes_give_the_unlabelled_and_scheduled_run_of_one(
    recipe_file: Path, tmp_path: Path
) -> None:
    settings = [
        *("data.unlabelled=[pool]", "align.unlabelled_per_step=3", "distill.unlabelled_per_step=3"),
        *("distill.schedule=cosine", "distill.warmup=1", "data.split.groups=data/groups.csv"),
        *NONE_HELD_OUT,
        *("missing_embeddings=text_term", "distill.steps=6", "distill.evaluate_every=2"),
    ]
    recipe = load_recipe(recipe_file, settings)
    domain_set = load_domains(recipe.data)
    held = domain_set.select({"ink", "paint"}, "train")[::2], load_unlabelled(recipe.data).samples[:6]
    EmbeddingStore(store_root(), load_teacher(recipe.teacher, "cpu")).embed_samples([*held[0], *held[1]])
    distill_recipe(recipe, tmp_path / "alone")
    result = torchrun(recipe_file, tmp_path / "together", *(f"--set={setting}" for setting in settings))
    assert result.returncode == 0, result.stderr
    one, two = (load_file(tmp_path / name / "student.safetensors") for name in ("alone", "together"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5)
    first, second = (read_record(tmp_path / name) for name in ("alone", "together"))
    assert second.processes == 2
    assert first.teacher.training == second.teacher.training
    assert first.teacher.training is not None
    assert first.teacher.training.embedded == len(held[0]) + 6
    assert first.data.unlabelled == second.data.unlabelled


def test_unlabelled_images_of_which_the_teacher_is_sure_have_its_text_term(
    trained: tuple[Path, AskedTeacher], recipe_file: Path, tmp_path: Path
) -> None:
    found = {}
    for share in (0.01, 0.999, None):
        recipe, out = recipe_with(recipe_file, f"teacher_labels={json.dumps(share)}"), tmp_path / str(share)
        teacher = AskedTeacher()
        distill_recipe(recipe, out, teacher=teacher)
        record = read_record(out)
        assert record.data.unlabelled is not None
        found[share] = record.data.unlabelled.by_teacher
        expected = record.teacher.images - (
            sum(record.data.images[d]["val"] for d in ("ink", "paint")) if share else 0
        )
        assert expected == read_record(trained[0]).teacher.images
    assert found[None] is None
    assert found[0.01] is not None
    assert found[0.01].confidence is not None
    assert 0 < found[0.01].images <= POOL
    assert found[0.999] is not None
    assert found[0.999].images < found[0.01].images
    assert same_weights(tmp_path / "None", trained[0])
    assert not same_weights(tmp_path / "0.01", trained[0])


@pytest.mark.parametrize("setting", ["teacher_views=online", "missing_embeddings=text_term"])
def test_labels_of_the_teacher_for_unlabelled_images_need_its_answers_ahead(
    recipe_file: Path, setting: str
) -> None:
    with pytest.raises(RecipeError, match="teacher_labels"):
        recipe_with(recipe_file, "teacher_labels=0.9", setting)


@pytest.mark.parametrize(("mean", "labelled"), [("domains", [True, False]), ("images", [True, True])])
def test_sure_enough_is_decided_by_the_mean_over_source_domains(
    recipe_file: Path, mean: str, labelled: list[bool]
) -> None:
    """The teacher is sure and right on 8 paintings, less sure and wrong on 2 drawings: 8 of 10, or half."""
    recipe = recipe_with(recipe_file, "teacher_labels=0.75", f"validation_mean={mean}")
    one = load_domains(recipe.data).select({"ink"}, "val")[0]
    samples = [replace(one, domain="paint", label=0)] * 8 + [replace(one, domain="ink", label=1)] * 2
    sure, unsure = torch.tensor([1.0, 0.0]), torch.tensor([0.9, 0.435])
    seen = torch.stack([sure] * 8 + [unsure] * 2)  # (N, D)
    asked = SimpleNamespace(image_emb=lambda samples, description: seen)
    classifier = ZeroShotClassifier(torch.eye(2), FittedScale(2.0, None))
    found, facts = labels_by_teacher(
        torch.stack([sure, unsure])[:, None],  # (U, V, D)
        recipe,
        asked,  # type: ignore[arg-type]
        SimpleNamespace(val=samples),  # type: ignore[arg-type]
        classifier,
    )
    assert (found == 0).tolist() == labelled and facts.images == sum(labelled)
