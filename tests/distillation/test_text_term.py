"""missing_embeddings: text_term: a run that asks the teacher about no image and trains on what is held."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.distillation.test_resume import interrupt_at, same_weights
from tests.helpers import tiny
from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.teachers import ColourTeacher
from vl2v_deploy.data.domains import Sample, load_domains
from vl2v_deploy.distillation.report import accuracy_table
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import RecipeError, RunError
from vl2v_deploy.method.losses import adip_loss, image_weights
from vl2v_deploy.models.record import read_record
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.recipe import Recipe, load_recipe

TEXT_TERM = "missing_embeddings=text_term"


class AskedTeacher(ColourTeacher):
    """Counts the images that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        self.asked += len(images)
        return super().embed_images(images)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text_term")
    return tiny.write_recipe(folder, make_domain_folder(folder / "data"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def training_samples(recipe: Recipe) -> tuple[Sample, ...]:
    domain_set = load_domains(recipe.data)
    return domain_set.select(domain_set.sources(recipe.data.target), "train")


def buy(samples: Sequence[Sample]) -> None:
    EmbeddingStore(store_root(), ColourTeacher()).embed_samples(samples)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student.safetensors")


def test_the_loss_of_an_image_without_embedding_is_its_text_term() -> None:
    x, image, text = (torch.randn(6, 5, generator=torch.Generator().manual_seed(n)) for n in range(3))
    embedded = torch.tensor([True, False, True, True, False, False])
    image[~embedded] = 0.0
    x.requires_grad_()
    loss = adip_loss(x, image, text, image_weights(0.3, torch.ones(6, dtype=torch.bool), embedded))
    of_held = adip_loss(x[embedded], image[embedded], text[embedded], 0.3)
    of_others = -torch.cosine_similarity(x[~embedded], text[~embedded]).mean()
    torch.testing.assert_close(loss, (of_held + of_others) / 2)  # three images each
    loss.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("views", [0, 2])
def test_nothing_held_is_the_text_only_student(recipe_file: Path, tmp_path: Path, views: int) -> None:
    teacher = AskedTeacher()
    recipe = load_recipe(recipe_file, [TEXT_TERM, f"teacher_views={views}"])
    distill_recipe(recipe, tmp_path / "run", teacher=teacher)
    text_only = load_recipe(recipe_file, ["method=text_only"])
    distill_recipe(text_only, tmp_path / "text_only", teacher=ColourTeacher())
    assert teacher.asked == 0
    for key, value in weights(tmp_path / "text_only").items():
        if views == 0:  # fixed views are other augmentations than fresh ones
            torch.testing.assert_close(weights(tmp_path / "run")[key], value, rtol=1e-5, atol=1e-6)
    record = read_record(tmp_path / "run")
    assert record.teacher.queries == 0
    assert record.teacher.training is not None
    assert (record.teacher.training.images, record.teacher.training.embedded) == (28, 0)
    assert set(record.accuracy.teacher.values()) == {None}
    assert [*accuracy_table(record).columns[3].cells] == ["-"] * 4


def test_all_held_is_the_run_that_bought_and_the_teacher_is_measured_where_it_answered(
    recipe_file: Path, tmp_path: Path
) -> None:
    distill_recipe(load_recipe(recipe_file), tmp_path / "bought", teacher=ColourTeacher())
    bought = read_record(tmp_path / "bought")
    teacher = AskedTeacher()
    distill_recipe(load_recipe(recipe_file, [TEXT_TERM]), tmp_path / "held", teacher=teacher)
    held = read_record(tmp_path / "held")
    assert teacher.asked == 0
    for key, value in weights(tmp_path / "bought").items():
        torch.testing.assert_close(weights(tmp_path / "held")[key], value, rtol=1e-5, atol=1e-6)
    assert held.accuracy.teacher == bought.accuracy.teacher
    assert held.teacher.training == bought.teacher.training
    assert held.teacher.images == bought.teacher.images


def test_resume_keeps_the_images_of_the_start_whatever_was_bought_since(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [TEXT_TERM, "checkpoint_every_s=0", "align.evaluate_every=3", "distill.evaluate_every=2"]
    recipe = load_recipe(recipe_file, settings)
    samples = training_samples(recipe)
    buy(samples[::3])
    distill_recipe(recipe, tmp_path / "whole", teacher=ColourTeacher())
    with monkeypatch.context() as patched:
        interrupt_at("distill", 2, patched)
        with pytest.raises(KeyboardInterrupt):
            distill_recipe(recipe, tmp_path / "run", teacher=ColourTeacher())
    buy(samples)
    distill_recipe(recipe, tmp_path / "run", teacher=ColourTeacher(), resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "run")
    records = [read_record(tmp_path / name).teacher.training for name in ("whole", "run")]
    assert records[0] == records[1]
    assert records[0] is not None
    assert records[0].embedded == len(samples[::3])


def test_resume_without_the_embeddings_of_the_start_is_refused(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(recipe_file, [TEXT_TERM, "checkpoint_every_s=0"])
    buy(training_samples(recipe)[:5])
    with monkeypatch.context() as patched:
        interrupt_at("distill", 2, patched)
        with pytest.raises(KeyboardInterrupt):
            distill_recipe(recipe, tmp_path / "run", teacher=ColourTeacher())
    for shard in store_root().rglob("*.safetensors"):
        shard.unlink()
    with pytest.raises(RunError, match="no longer holds 5 of the 5"):
        distill_recipe(recipe, tmp_path / "run", teacher=ColourTeacher(), resume=True)


@pytest.mark.parametrize(
    "settings",
    [
        ["method=image_only"],
        ["method=kd"],
        ["method=rise"],
        ["method=zero_shot"],
        ["method=teacher_probe"],
        ["distill.image_weight=1"],
        ["method=[erm,adip,kd]"],
        ["teacher_views=online"],
    ],
)
def test_what_needs_every_embedding_is_refused_in_a_line(recipe_file: Path, settings: list[str]) -> None:
    with pytest.raises(RecipeError, match="missing_embeddings") as refused:
        load_recipe(recipe_file, [TEXT_TERM, *settings])
    assert "\n" not in str(refused.value)


def test_a_method_of_a_list_may_buy_while_others_do_not(recipe_file: Path) -> None:
    settings = [TEXT_TERM, "method=[adip,kd]", "per_method={kd: {missing_embeddings: buy}}"]
    assert load_recipe(recipe_file, settings).missing_embeddings == "text_term"


def test_missing_counts_an_image_until_all_its_views_are_held(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    samples, augmentation = training_samples(recipe), recipe.distill.augmentation
    store = EmbeddingStore(store_root(), ColourTeacher())
    assert store.missing(samples) == list(samples)
    store.embed_samples(samples[:4])
    assert store.missing(samples) == list(samples[4:])
    assert store.missing(samples, augmentation, views=2) == list(samples)
    store.embed_views(samples[:7], augmentation, 1)
    store.embed_views(samples[:3], augmentation, 2)
    assert EmbeddingStore(store_root(), ColourTeacher()).missing(samples, augmentation, 2) == list(
        samples[3:]
    )
