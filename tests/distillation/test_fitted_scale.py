"""teacher.logit_scale: fit: s is a question about a run's data, and costs the answers about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.distillation.test_resume import interrupt_at
from tests.helpers import tiny
from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.teachers import write_npz
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.distillation.evaluate import zero_shot
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import RunError
from vl2v_deploy.method.confidence import fit_logit_scale, fit_temperature
from vl2v_deploy.method.zero_shot import zero_shot_logits
from vl2v_deploy.models.record import read_record, record_from_tree
from vl2v_deploy.models.run_directory import load_run
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.protocol import prompt_classifier
from vl2v_deploy.recipe import Recipe, load_recipe, recipe_sha256

PROMPTS = ("a photo of a circle", "a photo of a square")


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe with a transformers teacher of no meaning, whose scale is fitted."""
    folder = tmp_path_factory.mktemp("fit")
    data = make_domain_folder(folder / "data", images=30)
    for image in sorted((data / "ink").rglob("*.png"))[::2]:
        image.unlink()  # so that a mean over domains is another one than that over images
    file = tiny.write_recipe(folder, data)
    write_npz(folder / "answers", sorted(data.rglob("*.png")), PROMPTS)
    text = file.read_text()
    before, _, after = text.partition("teacher: ")
    teacher = "{kind: precomputed, images: answers/images.npz, texts: answers/texts.npz, logit_scale: fit}"
    rest = after[after.index("\n") :]
    file.write_text(f"{before}teacher: {teacher}{rest}prompts: {{style: photo}}\nmethod: kd_text\n")
    return file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def fitted_here(recipe: Recipe) -> tuple[float, int]:
    """s of the recipe's data, by hand."""
    domain_set, teacher = load_domains(recipe.data), load_teacher(recipe.teacher)
    val = domain_set.select(domain_set.sources(recipe.data.target), "val")
    image_emb = EmbeddingStore(store_root(), teacher).embed_samples(val)
    text_emb = prompt_classifier(teacher, [[prompt] for prompt in PROMPTS])
    of_domain = {name: sum(s.domain == name for s in val) for name in {s.domain for s in val}}
    weights = torch.tensor(
        [1.0 if recipe.validation_mean == "images" else 1 / of_domain[s.domain] for s in val]
    )
    labels = torch.tensor([s.label for s in val])
    return fit_logit_scale(image_emb, text_emb, labels, weights), len(val)


def test_it_is_the_inverse_temperature_of_the_cosines_and_has_bounds() -> None:
    torch.manual_seed(0)
    images, texts = torch.randn(60, 8), torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    cosines = zero_shot_logits(images, texts, 1.0)
    labels = torch.where(torch.rand(60) < 0.7, cosines.argmax(dim=1), torch.randint(3, (60,)))
    assert fit_logit_scale(images, texts, labels) == pytest.approx(1 / fit_temperature(cosines, labels))
    assert fit_logit_scale(7 * images, texts, labels) == pytest.approx(fit_logit_scale(images, texts, labels))
    assert fit_logit_scale(images, texts, cosines.argmax(dim=1)) == 1000.0
    assert fit_logit_scale(images, texts, cosines.argmin(dim=1)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="empty"):
        fit_logit_scale(images[:0], texts, labels[:0])


def test_a_run_fits_it_on_source_validation_and_records_it(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(recipe_file, ["distill.steps=2"])
    [path] = distill_recipe(recipe, tmp_path / "run")
    record, (scale, images) = read_record(path), fitted_here(recipe)
    assert record.logit_scale_mean == "domains"
    assert record.prompts and record.prompts.texts == 2
    assert (record.prompts.unchecked or "").startswith("cannot be checked: ")  # the table's texts say nothing
    assert record.prompts.unchecked in " ".join(capsys.readouterr().err.split())
    pooled = load_recipe(recipe_file, ["distill.steps=2", "validation_mean=images"])
    [by_images] = distill_recipe(pooled, tmp_path / "pooled")
    assert read_record(by_images).logit_scale == pytest.approx(fitted_here(pooled)[0])
    assert read_record(by_images).logit_scale_mean == "images"
    assert record.logit_scale != pytest.approx(read_record(by_images).logit_scale, rel=1e-3)
    assert (record.logit_scale, record.logit_scale_images) == (pytest.approx(scale), images)
    assert load_run(path).logit_scale == record.logit_scale

    given = load_recipe(recipe_file, ["distill.steps=2", f"teacher.logit_scale={2 * scale}"])
    [other] = distill_recipe(given, tmp_path / "given")
    assert read_record(other).logit_scale == pytest.approx(2 * scale)
    assert read_record(other).logit_scale_images is None
    older = read_record(other).model_dump(mode="json")
    assert (
        not {"logit_scale_images", "logit_scale_mean"} & older.keys()
    )  # as records were written before it could be fitted
    assert record_from_tree(older, path).logit_scale_images is None


def test_an_interrupted_run_goes_on_with_the_scale_it_began_with(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(recipe_file, ["distill.steps=4", "checkpoint_every_s=0"])
    [whole] = distill_recipe(recipe, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at("distill", 2, patch)
        with pytest.raises(KeyboardInterrupt):
            distill_recipe(recipe, tmp_path / "run")
    monkeypatch.setattr(zero_shot, "fit_logit_scale", lambda *_: 1.0)
    [resumed] = distill_recipe(recipe, tmp_path / "run", resume=True)
    assert read_record(resumed).logit_scale == read_record(whole).logit_scale != 1.0
    assert read_record(resumed).logit_scale_images == read_record(whole).logit_scale_images


def test_without_a_held_answer_it_says_what_to_buy(recipe_file: Path, tmp_path: Path) -> None:
    """missing_embeddings: text_term asks about nothing; the answers are held of no source image."""
    folder = tmp_path / "answers"
    target = sorted((recipe_file.parent / "data/photo").rglob("*.png"))
    write_npz(folder, target, PROMPTS)
    settings = ["method=adip", "missing_embeddings=text_term", f"teacher.images={folder}/images.npz"]
    recipe = load_recipe(recipe_file, [*settings, f"teacher.texts={folder}/texts.npz"])
    with pytest.raises(RunError, match=r"logit_scale: fit needs .*teacher embed RECIPE --budget"):
        distill_recipe(recipe, tmp_path / "run")


def test_training_images_do_where_no_val_image_is_held(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    domain_set = load_domains(recipe.data)
    train = domain_set.select(domain_set.sources("photo"), "train")[::2]
    write_npz(tmp_path / "answers", [sample.path for sample in train], PROMPTS)
    settings = ["method=adip", "missing_embeddings=text_term", "align.steps=2", "distill.steps=2"]
    settings += [f"teacher.{kind}={tmp_path}/answers/{kind}.npz" for kind in ("images", "texts")]
    [path] = distill_recipe(load_recipe(recipe_file, settings), tmp_path / "run")
    assert read_record(path).logit_scale_images == len(train)


def test_recipes_of_older_runs_keep_their_hash(recipe_file: Path) -> None:
    fitted, own = load_recipe(recipe_file), load_recipe(recipe_file, ["teacher.logit_scale=null"])
    assert recipe_sha256(fitted) != recipe_sha256(own)
    assert own.model_dump(mode="json")["teacher"]["logit_scale"] is None
