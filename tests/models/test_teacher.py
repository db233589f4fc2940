"""The teacher: of its weights or config alone, fed its own pixels or the student's, asked ahead."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.cli.main import cli
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.distillation.purchase.ahead import embed_ahead
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.store.stats import store_stats
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.models.student import build_student, student_normalization
from vl2v_deploy.models.teacher.load import load_white_box
from vl2v_deploy.models.teacher.protocol import WhiteBox, prompt_classifier
from vl2v_deploy.recipe import OpenClipRecipe, Recipe, TeacherRecipe, load_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    write_recipe(folder, make_domain_folder(folder / "data", images=8))
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def recipe_for(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(folder / "tiny.yaml", overrides)


@pytest.fixture(scope="module")
def teacher(folder: Path) -> WhiteBox:
    return load_white_box(recipe_for(folder).teacher, "these tests")


def config_teacher(recipe: TeacherRecipe) -> WhiteBox:
    return load_white_box(recipe, "these tests", weights=False)


def some_pixels(size_px: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, size_px, size_px, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size_px", [32, 48])
def test_pixels_are_embedded_as_the_image_of_them(teacher: WhiteBox, size_px: int) -> None:
    pixels = some_pixels(size_px)
    images = [Image.fromarray(image) for image in pixels.numpy()]
    assert torch.equal(teacher.embed_pixels(pixels), teacher.embed_images(images))


def test_faithful_feeds_the_student_s_normalised_tensor(folder: Path, teacher: WhiteBox) -> None:
    recipe = recipe_for(folder, "normalization=faithful")
    mean, std = student_normalization(recipe)
    faithful = teacher.fed_by_student(mean, std, recipe.student.image_size_px)
    pixels = some_pixels()
    seen: list[torch.Tensor] = []
    student = build_student(recipe, teacher.embedding_dim, 2)
    student.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    student.features(pixels)
    assert torch.equal(faithful.transform.of_pixels(pixels), seen[0])  # type: ignore[attr-defined]

    oracle = (pixels.double().numpy() / 255 - np.array(mean)) / np.array(std)
    with torch.inference_mode():
        raw = teacher.image_tower.module(torch.from_numpy(oracle).permute(0, 3, 1, 2).float())
    expected = torch.nn.functional.normalize(raw, dim=1)
    torch.testing.assert_close(faithful.embed_pixels(pixels), expected, atol=1e-5, rtol=0)
    images = [Image.fromarray(image) for image in pixels.numpy()]
    torch.testing.assert_close(faithful.embed_images(images), expected, atol=1e-5, rtol=0)
    assert (teacher.embed_pixels(pixels) - expected).abs().max() > 1e-3  # this teacher's own is another


def test_faithful_is_another_teacher_to_the_store(folder: Path, teacher: WhiteBox, tmp_path: Path) -> None:
    paths = [sample.path for sample in load_domains(recipe_for(folder).data).samples[:3]]
    identities = set()
    for mean in (0.5, 0.4):
        faithful = teacher.fed_by_student([mean] * 3, [0.25] * 3, 32)
        identities.add(EmbeddingStore(tmp_path, faithful).folder)
        store = EmbeddingStore(tmp_path, faithful)
        store.embed(paths)
        assert store.queries == 3
    own = EmbeddingStore(tmp_path, teacher)
    own.embed(paths)
    assert own.queries == 3 and len(identities | {own.folder}) == 3


def test_faithful_needs_equal_image_sizes(teacher: WhiteBox) -> None:
    with pytest.raises(ModelError, match="image_size_px is 64, the teacher takes 32"):
        teacher.fed_by_student([0.5] * 3, [0.5] * 3, 64)
    faithful = teacher.fed_by_student([0.5] * 3, [0.5] * 3, 32)
    with pytest.raises(ModelError, match=r"expected images \(B, 32, 32, 3\), got \(3, 48, 48, 3\)"):
        faithful.embed_pixels(some_pixels(48))


def test_the_student_s_normalization_is_known_without_building_it(folder: Path) -> None:
    recipe = recipe_for(folder)
    student = build_student(recipe, 16, 2)
    mean, std = student_normalization(recipe)
    torch.testing.assert_close(student.mean, 255 * torch.tensor(mean))
    torch.testing.assert_close(student.std, 255 * torch.tensor(std))
    tower = recipe_for(folder, "method=self_distill", "student.backbone=teacher")
    assert student_normalization(tower) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # those of tiny.TEACHER_CONFIG


def test_a_teacher_of_its_config_alone_has_the_shapes_and_not_the_name(
    folder: Path, teacher: WhiteBox, tmp_path: Path
) -> None:
    bare = tmp_path / "teacher"
    bare.mkdir()
    shutil.copy(folder / "teacher" / "open_clip_config.json", bare)
    dry = config_teacher(recipe_for(folder, f"teacher.model=local-dir:{bare}").teacher)
    assert (dry.embedding_dim, dry.image_size_px) == (teacher.embedding_dim, teacher.image_size_px)
    assert repr(dry.transform) == repr(teacher.transform)
    assert dry.embed_pixels(some_pixels()).shape == (3, 16)
    assert dry.embed_texts(["a cat"]).shape == (1, 16)
    assert config_teacher(recipe_for(folder).teacher).identity != teacher.identity


def test_a_pretrained_teacher_of_its_config_alone_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object) -> None:
        raise AssertionError("something was downloaded")

    monkeypatch.setattr("socket.socket.connect", no_network)
    dry = config_teacher(OpenClipRecipe(model="ViT-B-32", pretrained="openai"))
    assert (dry.embedding_dim, dry.image_size_px) == (512, 224)
    assert "mean=(0.48145466," in repr(dry.transform)
    assert (
        type(dry.image_tower.module.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    )  # as the tag's
    with pytest.raises(ModelError, match=r"its shapes are in a config on the hub.*use local-dir:"):
        config_teacher(OpenClipRecipe(model="hf-hub:nobody/nothing"))


def test_prompts_of_each_class_are_averaged(teacher: WhiteBox) -> None:
    own = prompt_classifier(teacher, [["a cat", "one cat", "cats"], ["a dog"], ["a dog", "a cat"]])
    texts = teacher.embed_texts(["a cat", "one cat", "cats", "a dog"]).double().numpy()
    means = [texts[:3].mean(0), texts[3], texts[[3, 0]].mean(0)]
    expected = np.stack([mean / np.linalg.norm(mean) for mean in means])
    np.testing.assert_allclose(own.numpy(), expected, atol=1e-6)


def test_a_sample_is_the_same_image_as_its_file(folder: Path, teacher: WhiteBox, tmp_path: Path) -> None:
    samples = load_domains(recipe_for(folder).data).samples[:4]
    store = EmbeddingStore(tmp_path, teacher)
    rows = store.embed([sample.path for sample in samples])
    assert torch.equal(store.embed_samples(samples), rows)
    assert store.queries == 4


@pytest.mark.parametrize(
    ("study", "runs_expected"),
    [
        (["method=[no_align, erm]", "teacher_views=2", "per_method={erm: {teacher_views: 0}}"], 2),
        (["method=teacher_probe", "trials=2"], 2),
    ],
    ids=["views", "trials"],
)
def test_after_buying_ahead_a_distillation_asks_for_nothing_and_for_all_that_was_bought(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: list[str], runs_expected: int
) -> None:
    recipe = recipe_for(folder, *study, "distill.steps=1", "distill.averaging=last")
    bought = embed_ahead(recipe)
    assert bought.bought == bought.needed > 0
    assert embed_ahead(recipe).bought == 0

    asked: set[bytes] = set()
    real = EmbeddingStore._embed

    def watched(self: EmbeddingStore, keys: list[bytes], *args: object) -> torch.Tensor:
        asked.update(keys)
        return real(self, keys, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(EmbeddingStore, "_embed", watched)
    runs = distill_recipe(recipe, tmp_path / "runs")
    assert len(runs) == runs_expected
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    assert sum(record["teacher"]["queries"] for record in records) == 0
    assert len(asked) == bought.needed


def test_the_command_line_buys_and_tells_what_it_cost(folder: Path) -> None:
    def run(*args: str) -> str:
        result = CliRunner().invoke(cli, ["teacher", *args])
        assert result.exit_code == 0, result.output
        return result.stdout

    path = str(folder / "tiny.yaml")
    assert run("stats", "--json") == "" and run("stats").startswith("No embedding is held")
    needed = 48  # with each as target every image is asked about
    said = run("embed", path, "--set", "data.target=each", "--usd-per-1k-queries", "5")
    assert f"{needed} embeddings needed, {needed} of them bought for $0.24." in said
    said = run("embed", path, "--set", "data.target=each")
    assert f"{needed} embeddings needed, 0 of them bought." in said
    said = run("embed", path, "--set", "teacher_views=online", "--usd-per-1k-queries", "5")
    assert "0 of them bought for nothing" in said and "every image of every step" in said

    [line] = run("stats", "--json", "--usd-per-1k-queries", "5").splitlines()
    stats = json.loads(line)
    assert stats["misses"] == stats["embeddings"] == needed and stats["hits"] >= needed
    assert stats["cost_usd"] == pytest.approx(0.24)
    assert stats["saved_usd"] == pytest.approx(stats["hits"] * 0.005)
    assert [of.misses for of in store_stats(store_root())] == [needed]
    table = run("stats", "--usd-per-1k-queries", "5")
    assert "0.24" in table and "saved" in table
    assert "saved" not in run("stats")
