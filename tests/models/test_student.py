"""Students of every method: what they are made of, what they predict, and that they can be exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers.run_folders import record_tree
from tests.helpers.tiny import TEACHER_CONFIG, write_recipe
from vl2v_deploy.client.student import open_session
from vl2v_deploy.errors import ModelError, RunError
from vl2v_deploy.exporting.graph.student_graph import deployed_student, write_onnx
from vl2v_deploy.method.losses import StudentOutput
from vl2v_deploy.models.record import record_from_tree, write_record
from vl2v_deploy.models.run_directory import Run, load_run
from vl2v_deploy.models.student import (
    Student,
    build_student,
    frozen_projection,
    predict_logits,
)
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.open_clip_model import projection_parameters
from vl2v_deploy.models.teacher.protocol import embed_pixels
from vl2v_deploy.recipe import METHODS, Recipe, dump_recipe, load_recipe, methods_of

D, K = 16, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    write_recipe(folder, folder / "data")
    return folder


def recipe_for(folder: Path, method: str, *overrides: str) -> Recipe:
    tower = ["student.backbone=teacher"] if method == "self_distill" else []
    return load_recipe(folder / "tiny.yaml", [f"method={method}", *tower, *overrides])


def some_pixels(count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_s_student_has_the_parts_that_its_loss_and_prediction_need(
    folder: Path, method: str
) -> None:
    student = build_student(recipe_for(folder, method), D, K)
    bare = method in ("zero_shot", "teacher_probe")
    assert not any(module.training for module in student.modules())
    with torch.inference_mode():
        projected, class_logits = student(some_pixels())
    assert (projected is None) == (bare or method in ("erm", "kd", "linear_probe"))
    assert (class_logits is None) == (method not in ("erm", "kd", "linear_probe", "kd_text", "rise"))
    assert projected is None or projected.shape == (5, D)
    assert class_logits is None or class_logits.shape == (5, K)


def test_a_student_predicts_with_its_head_else_by_cosine_to_the_text() -> None:
    rng = np.random.default_rng(0)
    projected, text, class_logits = (rng.normal(size=shape) for shape in ((5, D), (K, D), (5, K)))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    cosine = projected @ text.T / np.linalg.norm(projected, axis=1, keepdims=True)
    answer = StudentOutput(torch.from_numpy(projected), None)
    got = predict_logits(answer, torch.from_numpy(text), 50.0)
    np.testing.assert_allclose(got.numpy(), 50.0 * cosine, rtol=1e-12)
    head = torch.from_numpy(class_logits)
    assert predict_logits(answer._replace(class_logits=head), torch.from_numpy(text), 50.0) is head


def test_self_distill_starts_as_the_teacher_s_own_image_encoder(folder: Path) -> None:
    recipe = recipe_for(folder, "self_distill")
    student, teacher = build_student(recipe, D, K), load_teacher(recipe.teacher)
    pixels = some_pixels()
    with torch.inference_mode():
        projected = student(pixels).projected
    assert projected is not None
    # 32 pixels are the teacher's own size: its preprocessing leaves them alone and normalises them
    expected = embed_pixels(teacher, pixels)
    torch.testing.assert_close(nn.functional.normalize(projected, dim=1), expected, atol=1e-5, rtol=0)

    assert frozen_projection(student) == ["backbone.proj"]
    frozen = [name for name, parameter in student.named_parameters() if not parameter.requires_grad]
    assert frozen == ["backbone.proj"]
    assert frozen_projection(build_student(recipe_for(folder, "adip"), D, K)) == []


def test_the_teacher_s_tower_is_rebuilt_without_its_weights(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "teacher"
    shutil.copytree(folder / "teacher", bare)
    (bare / "open_clip_model.safetensors").unlink()
    recipe = recipe_for(folder, "self_distill", f"teacher.model=local-dir:{bare}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        build_student(recipe, D, K)
    whole = build_student(recipe_for(folder, "self_distill"), D, K)
    rebuilt = build_student(recipe, D, K, weights=False)
    assert not torch.equal(rebuilt.backbone.proj, whole.backbone.proj)
    rebuilt.load_state_dict(whole.state_dict())
    with torch.inference_mode():
        assert torch.equal(rebuilt(some_pixels()).projected, whole(some_pixels()).projected)


def test_the_tower_s_image_size_is_not_changed_unasked(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"takes 32, got 64; set it to 32"):
        build_student(recipe_for(folder, "self_distill", "student.image_size_px=64"), D, K)


RESNET = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 8}
TIMM = {"timm_model_name": "test_efficientnet", "image_size": 32, "timm_model_pretrained": False}


@pytest.mark.parametrize(
    "vision",
    [
        TEACHER_CONFIG["model_cfg"]["vision_cfg"],
        RESNET,
        TIMM | {"timm_proj": "linear", "timm_pool": "avg"},
        TIMM | {"timm_proj": "mlp", "timm_pool": "avg"},
        TIMM | {"timm_proj": "", "timm_pool": "avg"},  # the trunk's classifier projects
    ],
    ids=["vit", "resnet", "timm-linear", "timm-mlp", "timm-classifier"],
)
def test_the_projection_is_all_that_stands_between_tower_and_embedding(vision: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(16, vision, TEACHER_CONFIG["model_cfg"]["text_cfg"]).eval()
    names = projection_parameters(model.visual)
    assert names
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert model.visual(images).std(dim=0).max() > 1e-6
        for name in names:
            model.visual.get_parameter(name).zero_()
        # with a projection of zeros no image can be told from another
        assert not model.visual(images).any()
    named = sum(model.visual.get_parameter(name).numel() for name in names)
    assert named < 0.1 * sum(parameter.numel() for parameter in model.visual.parameters())


def run_of(student: Student, recipe: Recipe, path: Path) -> Run:
    torch.manual_seed(3)
    text_emb = nn.functional.normalize(torch.randn(K, D), dim=1)
    [method] = methods_of(recipe)
    classes = tuple(f"class {number}" for number in range(K))
    tree = record_tree(method=method, classes=classes) | {"logit_scale": 50.0}
    return Run(path, recipe, student.eval(), text_emb, 50.0, record_from_tree(tree, path))


def with_moved_weights(student: Student) -> Student:
    """Not as it was initialised, so that weights which a graph or file leaves out are missed."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return student


@pytest.mark.parametrize("method", ["rise", "kd_text", "erm", "self_distill"])
def test_the_exported_graph_answers_as_the_student(folder: Path, tmp_path: Path, method: str) -> None:
    recipe = recipe_for(folder, method)
    student = with_moved_weights(build_student(recipe, D, K))
    run = run_of(student, recipe, tmp_path)
    write_onnx(run, tmp_path / "student.onnx")
    images = some_pixels(7)
    session = open_session(tmp_path / "student.onnx")
    logits, embedding = session.run(["logits", "embedding"], {"images": images.numpy()})
    with torch.inference_mode():
        features = student.features(images)
        answer = student.output(features)
        vectors = features if answer.projected is None else answer.projected
        expected = nn.functional.normalize(vectors, dim=1)
        np.testing.assert_allclose(embedding, expected.numpy(), atol=1e-5)
        expected_logits = predict_logits(answer, run.text_emb, run.logit_scale)
        np.testing.assert_allclose(logits, expected_logits.numpy(), atol=1e-3)
        torch.testing.assert_close(deployed_student(run)(images)[0], expected_logits, atol=1e-4, rtol=1e-4)


def write_run(run: Run) -> None:
    run.path.mkdir()
    (run.path / "recipe.yaml").write_text(dump_recipe(run.recipe))
    write_record(run.record, run.path)
    weights = {f"student.{key}": value.contiguous() for key, value in run.student.state_dict().items()}
    save_file(weights | {"text_emb": run.text_emb}, run.path / "student.safetensors")


@pytest.mark.parametrize("method", ["adip", "rise", "erm", "self_distill"])
def test_a_saved_run_gives_its_student_back(folder: Path, tmp_path: Path, method: str) -> None:
    recipe = recipe_for(folder, method)
    run = run_of(with_moved_weights(build_student(recipe, D, K)), recipe, tmp_path / "run")
    write_run(run)
    loaded = load_run(run.path)
    with torch.inference_mode():
        for got, expected in zip(loaded.student(some_pixels()), run.student(some_pixels()), strict=True):
            assert got is expected is None or torch.equal(got, expected)


@pytest.mark.parametrize("method", ["zero_shot", "teacher_probe"])
def test_a_run_without_a_student_says_so(folder: Path, tmp_path: Path, method: str) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe_for(folder, method)))
    (tmp_path / "run.json").write_text(json.dumps(record_tree(method=method)))
    with pytest.raises(RunError, match=f"{method} trains no student: there is nothing to export or load"):
        load_run(tmp_path)
