"""Runs with `protocol: authors`, and what of it can be seen in a run: selection, hand-over, normalization."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from safetensors.torch import load_file

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client.student import open_session
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.distillation import single_run
from vl2v_deploy.distillation.evaluate.scores import selection_scores
from vl2v_deploy.distillation.guidance import guidance_texts
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.distillation.train.loop import Stage
from vl2v_deploy.distillation.train.objectives import optimizer_of
from vl2v_deploy.exporting.run import export_run
from vl2v_deploy.models.student import Student
from vl2v_deploy.recipe import load_recipe

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
SHORT = ["align.hand_over_from=2", "align.evaluate_every=3", "distill.evaluate_every=2"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authors")
    return write_recipe(folder, make_domain_folder(folder / "data"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def sample(domain: str, label: int) -> Sample:
    return Sample(Path(f"{domain}.png"), domain, label, "", "val", "00")


def test_selection_is_by_the_mean_over_source_domains(file: Path) -> None:
    samples = [sample("ink", 0)] * 8 + [sample("paint", 1)] * 2
    logits = torch.zeros(10, 2)
    logits[:, 0] = torch.linspace(0, 3, 10)  # the class of the larger domain everywhere
    labels = torch.tensor([0] * 8 + [1] * 2)
    loss, accuracy = selection_scores(logits, samples, load_recipe(file))
    expected = (F.cross_entropy(logits[:8], labels[:8]) + F.cross_entropy(logits[8:], labels[8:])) / 2
    assert (loss, accuracy) == (pytest.approx(expected.item()), 0.5)
    pooled = selection_scores(logits, samples, load_recipe(file, ["validation_mean=images"]))
    assert pooled == (pytest.approx(F.cross_entropy(logits, labels).item()), 0.8)


def test_a_run_by_the_authors_protocol(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: dict[str, dict[int, Any]] = {}
    handed: dict[str, torch.Tensor] = {}

    def watched(student: Student, stage: Stage, *args: Any) -> None:
        if stage.name == "distill":
            handed.update({name: value.clone() for name, value in student.projector.state_dict().items()})
        run_stage(student, stage, *args)

    run_stage = single_run.run_stage
    monkeypatch.setattr(single_run, "run_stage", watched)
    recipe = load_recipe(file, ["protocol=authors", *SHORT])
    distill_recipe(recipe, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    # hand_over_from is not theirs here: a run of twelve steps has none of a hundred
    assert record["protocol"]["name"] == "mixed"
    settings = record["protocol"]["settings"]
    assert settings["normalization"] == "faithful" and settings["teacher_views"] == "online"
    assert settings["align.swad.segments"] == settings["distill.swad.segments"] == "cumulative"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "val_accuracy" in line:
            evaluated.setdefault(line["stage"], {})[line["step"]] = line["val_accuracy"]
    assert [*evaluated["align"]][:2] == [0, 3] and [*evaluated["distill"]][:2] == [0, 2]
    align = record["stages"]["align"]
    counted = {step: accuracy for step, accuracy in evaluated["align"].items() if step >= 2}
    best = max(counted.values())
    last_best = max(step for step, accuracy in counted.items() if accuracy == best)
    assert align["handed_over"] == {"step": last_best, "accuracy": best}
    assert align["averaging"]["variant"] == "authors"
    assert record["stages"]["distill"].get("handed_over") is None
    kept = load_file(tmp_path / "run" / "student.safetensors")
    assert all(torch.equal(kept[f"student.projector.{name}"], value) for name, value in handed.items())
    assert "+faithful(0.485,0.456,0.406;0.229,0.224,0.225;32)" in record["teacher"]["identity"]


def test_the_exported_graph_of_a_faithful_run_normalises_with_imagenets_numbers(
    file: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(file, ["normalization=faithful", "method=erm", "distill.steps=1"])
    [run] = distill_recipe(recipe, tmp_path / "run")
    weights = load_file(run / "student.safetensors")
    for name, values in zip(("mean", "std"), IMAGENET, strict=True):
        np.testing.assert_allclose(weights[f"student.{name}"], 255 * np.array(values), rtol=1e-6)
    bundle = export_run(run, tmp_path / "bundle")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    [embedding] = open_session(bundle / "student.onnx").run(["embedding"], {"images": pixels})
    student = single_run.build_student(recipe, 16, len(weights["text_emb"]), weights=False)
    student.load_state_dict({k.removeprefix("student."): v for k, v in weights.items() if k != "text_emb"})
    normalised = (torch.from_numpy(pixels).double() / 255 - torch.tensor(IMAGENET[0])) / torch.tensor(
        IMAGENET[1]
    )
    with torch.inference_mode():
        features = student.backbone(normalised.float().permute(0, 3, 1, 2))
    np.testing.assert_allclose(embedding, F.normalize(features, dim=1), atol=1e-4)


@pytest.mark.parametrize("projection", ["frozen", "trained"])
def test_self_distill_trains_its_projection_as_the_authors_where_told(
    file: Path, tmp_path: Path, projection: str
) -> None:
    settings = [
        "method=self_distill",
        f"student={{backbone: teacher, image_size_px: 32, projection: {projection}}}",
    ]
    [run] = distill_recipe(load_recipe(file, settings), tmp_path / "run")
    teacher = load_file(file.parent / "teacher" / "open_clip_model.safetensors")["visual.proj"]
    moved = not torch.equal(load_file(run / "student.safetensors")["student.backbone.proj"], teacher)
    assert moved == (projection == "trained")
    record = json.loads((run / "run.json").read_text())
    assert record["protocol"]["settings"]["student.projection"] == projection
    assert export_run(run, tmp_path / "bundle")


def test_rise_begins_as_the_text_features_and_is_trained_by_sgd(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def watched(student: Student, stage: Stage, *args: Any) -> None:
        seen.append((student.head.weight.clone(), student.head.bias.clone(), stage))
        run_stage(student, stage, *args)

    run_stage = single_run.run_stage
    monkeypatch.setattr(single_run, "run_stage", watched)
    recipe = load_recipe(file, ["method=rise", "rise.learning_rate=0.02", "rise.momentum=0.8"])
    distill_recipe(recipe, tmp_path / "run")
    [(weight, bias, stage)] = seen
    assert weight.shape[1] == 16 and not bias.any()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(len(weight)))
    assert isinstance(stage.optimizer, torch.optim.SGD)
    [group] = optimizer_of(recipe, "distill", stage.parameters).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.02, 0.8, 5e-4)
    texts = guidance_texts(recipe, ("a_cat", "dog"), ("ink", "paint", "photo"))
    assert texts is not None
    assert texts.of_classes[0][0] == "itap of a a cat." and len(texts.of_classes[0]) == 7
    assert texts.anchors == (
        ("an ink of a a cat", "a paint of a a cat"),
        ("an ink of a dog", "a paint of a dog"),
    )
    own = load_recipe(file, ["method=rise", "rise.anchors=['a dark photo of a {class}']"])
    found = guidance_texts(own, ("dog",), ("ink", "photo"))
    assert found is not None and found.anchors == (("a dark photo of a dog",),)
    assert guidance_texts(load_recipe(file), ("dog",), ("ink", "photo")) is None


def test_a_dry_run_prints_the_protocol_that_it_would_use(file: Path) -> None:
    arguments = [
        "distill",
        str(file),
        "--dry-run",
        "--set",
        "data.root=nowhere",
        "--set",
        "student.weights=timm",
    ]
    for protocol in ("authors", "default"):
        override = ["--set", f"protocol={protocol}", "--set", "align.steps=200"]
        result = CliRunner().invoke(cli, [*arguments, *override], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert f"Protocol of adip: {protocol}" in result.output
        assert "align.hand_over" in result.output and "cumulative" in result.output
