"""Recipe -> run -> bundle -> client on tiny models: what must hold, and what must not move."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.client import Student as ClientStudent
from vl2v_deploy.client.preprocess import open_image, preprocess
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import BundleError, ExportError, ModelError, ParityError, RunError
from vl2v_deploy.exporting.graph.student_graph import deployed_student, write_onnx
from vl2v_deploy.exporting.precision import parity as parity_module
from vl2v_deploy.exporting.precision.tolerances import TOLERANCES
from vl2v_deploy.exporting.run import export_run
from vl2v_deploy.models.run_directory import load_run
from vl2v_deploy.models.store.store import EmbeddingStore
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.protocol import prompt_classifier
from vl2v_deploy.recipe import Recipe, load_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("path")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(folder: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VL2V_DEPLOY_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Recipe:
    return load_recipe(write_recipe(folder, make_domain_folder(folder / "data")))


@pytest.fixture(scope="module")
def run(folder: Path, recipe: Recipe, _own_cache: object) -> Path:
    [path] = distill_recipe(recipe, folder / "runs" / "tiny")
    return path


@pytest.fixture(scope="module")
def bundle(folder: Path, run: Path) -> Path:
    return export_run(run, folder / "bundles" / "tiny")


def test_the_run_directory_holds_what_it_promises(run: Path, recipe: Recipe) -> None:
    assert {p.name for p in run.iterdir()} == {
        "recipe.yaml",
        "run.json",
        "student.safetensors",
        "metrics.jsonl",
        "training.png",
    }
    assert not run.with_name("tiny.partial").exists()
    record = json.loads((run / "run.json").read_text())
    assert load_recipe(run / "recipe.yaml") == recipe
    assert record["data"]["evaluated"] == {"ink": 4, "paint": 4, "photo": 20}
    assert record["teacher"]["queries"] == 28 + 28  # 28 training images, 4 + 4 + 20 held-out ones
    for who in ("student", "teacher", "linear_probe"):
        assert record["accuracy"][who].keys() == {"ink", "paint", "photo"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [(line["stage"], line["step"]) for line in lines if "loss" in line]
    assert trained == [("align", 0), ("align", 10), ("align", 11), ("distill", 0), ("distill", 3)]
    evaluated = [(line["stage"], line["step"]) for line in lines if "val_loss" in line]
    assert evaluated == [("align", 11), ("distill", 3)]


def test_accuracy_in_the_record_is_that_of_the_saved_weights(run: Path, recipe: Recipe) -> None:
    loaded = load_run(run)
    target = [s for s in load_domains(recipe.data).samples if s.domain == "photo"]
    images = torch.from_numpy(np.stack([preprocess(open_image(s.path), 32) for s in target]))
    with torch.inference_mode():
        logits, _ = deployed_student(loaded)(images)
    correct = (logits.argmax(1) == torch.tensor([s.label for s in target])).float().mean().item()
    assert correct == pytest.approx(loaded.record.accuracy.student["photo"])


def test_the_same_recipe_gives_the_same_weights(recipe: Recipe, run: Path, folder: Path) -> None:
    distill_recipe(recipe, folder / "again")
    first, second = load_file(run / "student.safetensors"), load_file(folder / "again/student.safetensors")
    assert all(torch.equal(first[key], second[key]) for key in first)
    # and the teacher was not asked again for anything
    assert json.loads((folder / "again/run.json").read_text())["teacher"]["queries"] == 0


def test_a_teacher_without_weights_is_refused(recipe: Recipe, folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "teacher"
    shutil.copytree(folder / "teacher", bare)
    (bare / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_teacher(recipe.teacher.model_copy(update={"model": f"local-dir:{bare}"}))


def test_a_changed_teacher_config_is_another_teacher(recipe: Recipe, folder: Path, tmp_path: Path) -> None:
    changed = tmp_path / "teacher"
    shutil.copytree(folder / "teacher", changed)
    same = load_teacher(recipe.teacher.model_copy(update={"model": f"local-dir:{changed}"}))
    assert same.identity == load_teacher(recipe.teacher).identity
    config = json.loads((changed / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (changed / "open_clip_config.json").write_text(json.dumps(config))
    other = load_teacher(recipe.teacher.model_copy(update={"model": f"local-dir:{changed}"}))
    assert other.identity != same.identity


def test_quick_gelu_follows_the_tag() -> None:
    from vl2v_deploy.models.teacher.open_clip_model import wants_quick_gelu

    assert wants_quick_gelu("ViT-B-16", "openai")
    assert not wants_quick_gelu("ViT-B-16", "laion2b_s34b_b88k")
    assert not wants_quick_gelu("local-dir:somewhere", None)


def test_a_damaged_run_says_what_is_damaged(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run directory"):
        load_run(tmp_path / "none")
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    weights = damaged / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"student\.safetensors"):
        load_run(damaged)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"backbone": "resnet5O"}, "did you mean 'resnet50'"),
        ({"weights": "timm:nothing"}, "no weights 'nothing'"),
        ({"weights": "builtin"}, "builtin is for tf_efficientnet_lite0"),
        ({"weights": "none.pth"}, "no such file"),
        ({"backbone": "resnet18"}, "weight"),
    ],
)
def test_students_that_cannot_be_built(recipe: Recipe, changes: dict[str, str], expected: str) -> None:
    from vl2v_deploy.models.student import build_student

    with pytest.raises(ModelError, match=expected):
        build_student(recipe.model_copy(update={"student": recipe.student.model_copy(update=changes)}), 16, 2)


def test_a_teacher_that_does_not_exist(recipe: Recipe, tmp_path: Path) -> None:
    for model, pretrained, expected in [
        ("ViT-B-61", "openai", "did you mean 'ViT-B-16'"),
        ("ViT-B-16", "opemai", "tags: .*openai"),
        (f"local-dir:{tmp_path}", None, r"holds no open_clip_config\.json"),
    ]:
        with pytest.raises(ModelError, match=expected):
            load_teacher(recipe.teacher.model_copy(update={"model": model, "pretrained": pretrained}))


def test_zero_shot_classifier_is_the_mean_of_normalised_templates(recipe: Recipe) -> None:
    teacher = load_teacher(recipe.teacher)
    both = prompt_classifier(teacher, [["a hot dog", "the hot dog"], ["a cat", "the cat"]])
    singles = [
        teacher.embed_texts([f"{article} {name}" for article in ("a", "the")]) for name in ("hot dog", "cat")
    ]
    expected = torch.stack([torch.nn.functional.normalize(rows.mean(0), dim=0) for rows in singles])
    assert torch.allclose(both, expected, atol=1e-6)


def test_store_asks_once_survives_a_kill_and_shares(recipe: Recipe, tmp_path: Path) -> None:
    teacher = load_teacher(recipe.teacher)
    paths = [s.path for s in load_domains(recipe.data).samples]
    first = EmbeddingStore(tmp_path, teacher)
    alone = teacher.embed_images([open_image(path) for path in paths[:5]])
    rows = first.embed([*paths[:20], paths[0]])
    assert first.queries == 20
    assert torch.allclose(rows[:5], alone, atol=1e-6)
    assert torch.equal(rows[0], rows[20])
    second = EmbeddingStore(tmp_path, teacher)
    assert torch.equal(second.embed(paths[:20]), rows[:20])
    assert second.queries == 0

    class Dying(Exception):
        pass

    class Mortal:
        batch_size, identity, embedding_dim = 16, teacher.identity, teacher.embedding_dim
        price = None

        def __init__(self) -> None:
            self.left = 1

        def embed_images(self, images: object) -> torch.Tensor:
            if self.left == 0:
                raise Dying
            self.left -= 1
            return teacher.embed_images(images)  # type: ignore[arg-type]

    third = EmbeddingStore(tmp_path, Mortal())  # type: ignore[arg-type]
    with pytest.raises(Dying):
        third.embed(paths)
    fourth = EmbeddingStore(tmp_path, teacher)
    fourth.embed(paths)
    assert fourth.queries == 60 - 20 - 16
    shard = next(fourth.folder.glob("*.safetensors"))
    shard.write_bytes(b"broken")
    fifth = EmbeddingStore(tmp_path, teacher)
    fifth.embed(paths)  # this teacher costs nothing: what the shard held is asked for again
    assert 0 < fifth.queries <= 60


def test_the_bundle_answers_as_the_torch_student(run: Path, bundle: Path, recipe: Recipe) -> None:
    loaded, client = load_run(run), ClientStudent.load(bundle)
    temperature = client.bundle.manifest.confidence.temperature
    paths = [s.path for s in load_domains(recipe.data).samples]
    images = np.stack([client.pixels(path) for path in paths])
    with torch.inference_mode():
        logits, embedding = deployed_student(loaded)(torch.from_numpy(images))
    for size in (1, 7, 60):
        got_logits, got_embedding = client.run(images[:size])
        assert np.abs(temperature * got_logits - logits[:size].numpy()).max() < 1e-3
        assert np.abs(got_embedding - embedding[:size].numpy()).max() < 1e-5
    assert np.abs(np.linalg.norm(embedding.numpy(), axis=1) - 1).max() < 1e-6
    predictions = client.predict_batch(paths, batch_size=16)
    assert [p.index for p in predictions] == [client.predict(path).index for path in paths]
    assert all(sum(probability for _, probability in p.top) == pytest.approx(1) for p in predictions)
    verification = client.verify()
    assert (verification.samples, verification.argmax_agreement, verification.max_pixel_error) == (8, 1.0, 0)


def test_the_manifest_tells_what_the_bundle_is(run: Path, bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["classes"] == ["circle", "square"]
    assert manifest["accuracy"] == json.loads((run / "run.json").read_text())["accuracy"]
    assert manifest["precisions"].keys() == {"fp32"}
    fp32 = manifest["precisions"]["fp32"]
    assert (fp32["file"], fp32["parity"]["batch_sizes"]) == ("student.onnx", [1, 3, 16])
    assert fp32["macs"]["share"] == {"fp32": 1.0, "fp16": 0.0, "int8": 0.0}
    assert fp32["accuracy"]["domains"]["photo"]["accuracy"] == manifest["accuracy"]["student"]["photo"]
    assert manifest["files"].keys() >= {"student.onnx", "golden/expected.npz", "recipe.yaml"}


def test_the_graph_is_deterministic_single_file_and_free_of_paths(
    run: Path, bundle: Path, tmp_path: Path
) -> None:
    temperature = json.loads((bundle / "manifest.json").read_text())["confidence"]["temperature"]
    write_onnx(load_run(run), tmp_path / "again.onnx", temperature)
    content = (bundle / "student.onnx").read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == content
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[2]).encode() not in content
    model = onnx.load(bundle / "student.onnx", load_external_data=False)
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [18]
    assert json.loads({p.key: p.value for p in model.metadata_props}["classes"]) == ["circle", "square"]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param


@pytest.mark.parametrize("file", ["manifest.json", "student.onnx", "golden/expected.npz", "recipe.yaml"])
def test_one_changed_byte_is_found(bundle: Path, tmp_path: Path, file: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(BundleError, match=f"{file}: was changed or damaged"):
        ClientStudent.load(copy)


def test_bundles_that_are_none(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        ClientStudent.load(tmp_path / "none")
    with pytest.raises(BundleError, match="is not a bundle"):
        ClientStudent.load(tmp_path)
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    (copy / "student.onnx").unlink()
    with pytest.raises(BundleError, match=r"student\.onnx: missing"):
        ClientStudent.load(copy)
    (copy / "SHA256SUMS").write_text(f"{'0' * 64}  ../../outside\n")
    with pytest.raises(BundleError, match="line 1"):
        ClientStudent.load(copy)


def test_a_wrong_graph_makes_no_bundle(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bundle"

    def write_wrong(loaded: object, path: Path, temperature: float) -> None:
        loaded.student.projector.bias.data[0] += 0.01  # type: ignore[attr-defined]
        write_onnx(loaded, path, temperature)  # type: ignore[arg-type]
        loaded.student.projector.bias.data[0] -= 0.01  # type: ignore[attr-defined]

    monkeypatch.setattr("vl2v_deploy.exporting.run.write_onnx", write_wrong)
    with pytest.raises(ParityError, match="disagrees with the torch student at batch 1"):
        export_run(run, out)
    assert not out.exists()


def test_parity_catches_an_engine_that_fails_at_one_batch_size_or_gives_nan(
    run: Path, recipe: Recipe
) -> None:
    student = deployed_student(load_run(run))
    images = np.stack([preprocess(open_image(s.path), 32) for s in load_domains(recipe.data).samples[:32]])
    tolerance = TOLERANCES["onnxruntime", "fp32"]

    def engine(batch: np.ndarray, spoil: object) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            logits, embedding = (x.numpy().copy() for x in student(torch.from_numpy(batch)))
        spoil(logits, embedding)  # type: ignore[operator]
        return logits, embedding

    def only_16(logits: np.ndarray, embedding: np.ndarray) -> None:
        if len(logits) == 16:
            logits[15] += 1

    def nan(logits: np.ndarray, embedding: np.ndarray) -> None:
        embedding[0, 0] = np.nan

    reference = parity_module.reference_answers(student, images)
    fine = parity_module.check_parity(reference, lambda b: engine(b, lambda *_: None), tolerance, "same")
    assert fine.agreement == 1.0
    for spoil, where in ((only_16, "batch 16"), (nan, "batch 1")):
        with pytest.raises(ParityError, match=where):
            parity_module.check_parity(reference, lambda b, s=spoil: engine(b, s), tolerance, "wrong")


def test_export_does_not_overwrite_what_is_not_a_bundle(run: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--overwrite"):
        export_run(run, bundle)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ExportError, match="is not a bundle"):
        export_run(run, tmp_path / "mine", overwrite=True)
