"""New classes in a finished bundle: what changes, what must not move, what stays on record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper

from tests.helpers.manifests import made_up_passport
from tests.helpers.tiny_bundle import add_precision, change_manifest, make_bundle
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import Student
from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.client.manifest import Manifest
from vl2v_deploy.client.passport import Passport
from vl2v_deploy.client.typed_json import to_json
from vl2v_deploy.errors import BundleError, DataError, ExportError, ModelError, RecipeError
from vl2v_deploy.exporting.finished.relabel import relabel_bundle
from vl2v_deploy.exporting.finished.verification import Check
from vl2v_deploy.exporting.graph.classifier import with_classifier
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.recipe import load_recipe

NAMES = ("triangle", "hot_dog", "circle", "hexagon")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_bundle(tmp_path_factory.mktemp("relabel"))
    add_precision(made, "fp16")
    add_precision(made, "int8")
    return made


@pytest.fixture(scope="module")
def relabelled(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("relabelled")
    out = folder / "new"
    relabel_bundle(bundle, lines(folder / "names.txt", *NAMES), out)
    return out


def lines(path: Path, *names: str) -> Path:
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def copy_of(bundle: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    return copy


def prompts_of(manifest: Manifest) -> Mapping[str, tuple[str, ...]]:
    assert manifest.relabelled is not None
    return manifest.relabelled.prompts


def manifest_of(bundle: Path) -> dict[str, object]:
    return json.loads((bundle / "manifest.json").read_text())


def golden_of(bundle: Path) -> dict[str, np.ndarray]:
    with np.load(bundle / "golden/expected.npz", allow_pickle=False) as golden:
        return dict(golden)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_logits_are_the_old_embeddings_times_the_teachers_texts(
    bundle: Path, relabelled: Path, precision: str
) -> None:
    """The whole way again in float64, from the teacher's token embeddings' own output on."""
    manifest = manifest_of(bundle)
    teacher = load_teacher(load_recipe(bundle / "recipe.yaml").teacher)
    texts = [f"a photo of a {name.replace('_', ' ')}" for name in NAMES]
    text_emb = F.normalize(teacher.embed_texts(texts).double(), dim=1).numpy()
    scale = manifest["logit_scale"] / manifest["confidence"]["temperature"]  # type: ignore[index, operator]
    images = golden_of(bundle)["images"]
    _, before = Student.load(bundle, precision=precision).run(images)
    logits, embedding = Student.load(relabelled, precision=precision).run(images)
    assert np.array_equal(embedding, before)
    assert np.abs(logits - scale * before.astype(np.float64) @ text_emb.T).max() < 1e-5 * scale


def test_the_client_loads_it_and_verifies(relabelled: Path) -> None:
    for precision in ("fp32", "fp16", "int8"):
        student = Student.load(relabelled, precision=precision)
        assert student.classes == NAMES
        check = student.verify()
        assert (check.samples, check.argmax_agreement, check.max_pixel_error) == (8, 1.0, 0)
        prediction = student.predict(relabelled / "golden" / "00.png", top=4)
        assert {label for label, _ in prediction.top} == set(NAMES)
        assert not prediction.abstained
    result = CliRunner().invoke(cli, ["verify", str(relabelled)])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(cli, ["inspect", str(relabelled)]).exit_code == 0


@pytest.mark.parametrize("file", ["student.onnx", "student.fp16.onnx", "student.int8.onnx"])
def test_only_the_end_of_the_graph_is_another(bundle: Path, relabelled: Path, file: str) -> None:
    old, new = onnx.load(bundle / file), onnx.load(relabelled / file)
    onnx.checker.check_model(new, full_check=True)
    assert old.graph.node == new.graph.node
    for before, after in zip(old.graph.initializer, new.graph.initializer, strict=True):
        assert before.name == after.name
        assert (before == after) == (before.name != "classifier")
    [logits] = [value for value in new.graph.output if value.name == "logits"]
    assert [dim.dim_param or dim.dim_value for dim in logits.type.tensor_type.shape.dim] == ["batch", 4]
    metadata = {entry.key: entry.value for entry in new.metadata_props}
    assert json.loads(metadata["classes"]) == list(NAMES)


def test_the_manifest_keeps_what_was_and_claims_nothing(bundle: Path, relabelled: Path) -> None:
    was, now = manifest_of(bundle), manifest_of(relabelled)
    assert now["classes"] == list(NAMES)
    assert now["outputs"]["logits"]["shape"] == ["batch", 4]  # type: ignore[index]
    assert now["accuracy"] is None
    assert now["confidence"]["abstain_below"] is None  # type: ignore[index]
    assert now["confidence"]["temperature"] == was["confidence"]["temperature"]  # type: ignore[index]
    for precision, record in now["precisions"].items():  # type: ignore[attr-defined]
        assert record["accuracy"] is None
        assert record["bytes"] == (relabelled / record["file"]).stat().st_size
        assert record["parity"]["images"] == 8
        before = now["relabelled"]["from"]["precisions"][precision]  # type: ignore[index]
        assert before["accuracy"] == was["precisions"][precision]["accuracy"]  # type: ignore[index]
        assert before["sha256"] == sha256_of(bundle / record["file"])
    relabel = now["relabelled"]
    assert relabel["prompts"]["hot_dog"] == ["a photo of a hot dog"]  # type: ignore[index]
    assert relabel["teacher"] == was["run"]["teacher"]["identity"]  # type: ignore[index]
    assert relabel["parity"]["fp32"]["max_embedding_change"] == 0  # type: ignore[index]
    before = relabel["from"]  # type: ignore[index]
    assert before["manifest_sha256"] == sha256_of(bundle / "manifest.json")
    assert (before["classes"], before["accuracy"]) == (was["classes"], was["accuracy"])
    assert set(golden_of(relabelled)["labels"]) == {-1}
    assert now["run"] == was["run"]


def test_the_same_classes_again_give_the_same_student(bundle: Path, tmp_path: Path) -> None:
    """Also by way of other classes: relabelling loses nothing."""
    away, back = tmp_path / "away", tmp_path / "back"
    relabel_bundle(bundle, lines(tmp_path / "a.txt", "one", "two"), away)
    relabel_bundle(away, lines(tmp_path / "b.txt", "circle", "square"), back)
    old, new = golden_of(bundle), golden_of(back)
    assert np.abs(old["logits_fp32"] - new["logits_fp32"]).max() < 1e-6
    # what only the distilled bundle measured is still on record
    chain = manifest_of(back)["relabelled"]["from"]["relabelled"]["from"]  # type: ignore[index]
    assert chain["accuracy"] == manifest_of(bundle)["accuracy"]


def test_names_prompts_and_kept_classes_from_a_file(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "classes.yaml"
    file.write_text("zig_zag: bent line\ncircle:\nblob: [a blob of ink, 'a {blob}']\n")
    manifest = relabel_bundle(bundle, file, tmp_path / "new", overrides=["prompts.templates=['my {class}']"])
    assert prompts_of(manifest) == {
        "zig_zag": ("my bent line",),
        "circle": ("my circle",),
        "blob": ("a blob of ink", "a {blob}"),
    }
    file = tmp_path / "classes.csv"
    file.write_text("class,name\nb,bee\na,ant\n")
    manifest = relabel_bundle(bundle, file, tmp_path / "csv")
    assert prompts_of(manifest) == {"b": ("a photo of a bee",), "a": ("a photo of a ant",)}


def test_a_kept_class_keeps_its_texts(bundle: Path, tmp_path: Path) -> None:
    copy = copy_of(bundle, tmp_path)
    recipe = (copy / "recipe.yaml").read_text().replace("class_names: {}", "class_names: {circle: round one}")
    (copy / "recipe.yaml").write_text(recipe)
    change_manifest(copy, lambda manifest: None)
    manifest = relabel_bundle(copy, lines(tmp_path / "c.txt", "circle", "line"), tmp_path / "new")
    assert prompts_of(manifest) == {"circle": ("a photo of a round one",), "line": ("a photo of a line",)}


def test_per_domain_prompts_need_no_images(bundle: Path, tmp_path: Path) -> None:
    names = lines(tmp_path / "c.txt", "cat", "dog")
    style = "prompts.style=per_domain_sources"
    first = relabel_bundle(bundle, names, tmp_path / "new", overrides=[style])
    assert prompts_of(first)["cat"] == ("an ink of a cat", "a paint of a cat")
    again = relabel_bundle(tmp_path / "new", lines(tmp_path / "d.txt", "cow", "pig"), tmp_path / "again")
    assert prompts_of(again)["cow"] == ("an ink of a cow", "a paint of a cow")
    copy = copy_of(bundle, tmp_path)
    change_manifest(copy, lambda manifest: manifest.update(accuracy=None))
    with pytest.raises(RecipeError, match="does not say which domains"):
        relabel_bundle(copy, names, tmp_path / "none", overrides=[style])


def test_benchmark_of_the_old_data_says_which_classes_are_missing(
    bundle: Path, relabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["benchmark", str(relabelled), "--max-images", "2"])
    assert result.exit_code == 1
    assert "no domain has a class folder 'triangle'" in result.output


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("c.txt", "cat\n", "expected at least two classes, got 1"),
        ("c.txt", "", "expected at least two classes, got 0"),
        ("c.txt", "cat\ndog\ncat\n", "line 3: class 'cat' occurs twice"),
        ("c.txt", "cat\n\ndog\n", "line 2 is empty"),
        ("c.txt", "hot_dog\nhot dog\n", "'hot_dog' and 'hot dog' have the same prompts"),
        ("c.yaml", "cat:\ncat: a cat\n", "'cat' occurs twice"),
        ("c.yaml", "cat: []\ndog:\n", "cat: expected its name in prompts"),
        ("c.yaml", "cat: 3\ndog:\n", "cat: expected its name in prompts"),
        ("c.yaml", "- cat\n- dog\n", "expected class folders"),
        ("c.yaml", '"cat\\ndog":\nmouse:\n', "expected a class on one line"),
        ("c.yaml", "no:\nyes:\n", "write the class folder in quotes"),
        ("c.json", '{"cat": "a", "dog": "b", "cat": "c"}', "'cat' occurs twice"),
        ("c.json", '{"cat": ', "is not YAML or JSON"),
    ],
)
def test_files_that_name_no_classes(
    bundle: Path, tmp_path: Path, name: str, text: str, expected: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=expected) as error:
        relabel_bundle(bundle, tmp_path / name, tmp_path / "new")
    assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)
    assert not (tmp_path / "new").exists()


def test_bundles_that_cannot_be_relabelled(bundle: Path, tmp_path: Path) -> None:
    names = lines(tmp_path / "c.txt", "cat", "dog")
    with pytest.raises(DataError, match=r"none\.txt: cannot be read: No such file"):
        relabel_bundle(bundle, tmp_path / "none.txt", tmp_path / "new")
    with pytest.raises(RecipeError, match=r"distill\.steps=3: expected a field of prompts or teacher"):
        relabel_bundle(bundle, names, tmp_path / "new", overrides=["distill.steps=3"])
    with pytest.raises(RecipeError, match="class_index, which names no class"):
        relabel_bundle(bundle, names, tmp_path / "new", overrides=["prompts.style=class_index"])
    with pytest.raises(ExportError, match="exists already; pass --overwrite"):
        relabel_bundle(bundle, names, bundle)
    copy = copy_of(bundle, tmp_path)
    change_manifest(copy, lambda manifest: manifest["student"].update(classifier="trained head"))
    with pytest.raises(ExportError, match="a trained head"):
        relabel_bundle(copy, names, tmp_path / "new")
    (copy / "student.onnx").write_bytes(b"broken")
    with pytest.raises(BundleError, match=r"student\.onnx: was changed or damaged"):
        relabel_bundle(copy, names, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_teacher_is_refused(bundle: Path, tmp_path: Path) -> None:
    names = lines(tmp_path / "c.txt", "cat", "dog")
    other = tmp_path / "teacher"
    shutil.copytree(bundle.parents[1] / "teacher", other)
    here = [f"teacher.model=local-dir:{other}"]
    relabel_bundle(bundle, names, tmp_path / "moved", overrides=here)  # the same one elsewhere will do
    weights = other / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="its texts are in another space"):
        relabel_bundle(bundle, names, tmp_path / "new", overrides=here)
    copy = copy_of(bundle, tmp_path)
    teacher = manifest_of(bundle)["run"]["teacher"]["identity"]  # type: ignore[index]
    faithful = f"{teacher}+faithful(0.5,0.5,0.5;0.5,0.5,0.5;32)"
    change_manifest(copy, lambda manifest: manifest["run"]["teacher"].update(identity=faithful))
    relabel_bundle(copy, names, tmp_path / "new")  # whose texts are the same


def test_engines_of_the_old_classes_are_left_out_and_named(bundle: Path, tmp_path: Path) -> None:
    copy = copy_of(bundle, tmp_path)
    (copy / "student.fp32.plan").write_bytes(b"plan")
    (copy / "student.fp32.plan.json").write_text("{}")
    passport = to_json(made_up_passport(copy / "student.fp32.plan"))
    change_manifest(copy, lambda manifest: manifest["engines"].update({"student.fp32.plan": passport}))
    names = lines(tmp_path / "c.txt", "cat", "dog")
    result = relabel(copy, names)
    assert result.exit_code == 0, result.output
    assert "student.fp32.plan" in result.stderr
    new = tmp_path / "copy-relabelled"
    assert not list(new.glob("*.plan*"))
    manifest = manifest_of(new)
    assert manifest["engines"] == {}
    assert manifest["relabelled"]["from"]["engines"] == ["student.fp32.plan"]  # type: ignore[index]


def test_a_new_engine_with_wrong_answers_is_told(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passport = made_up_passport("student.fp32.plan", usable=False, unusable_because="labels differ")

    def build(requests: object, folder: Path, *_: object) -> dict[str, Passport]:
        (folder / "student.fp32.plan").write_bytes(b"plan")
        return {"student.fp32.plan": passport}

    monkeypatch.setattr("vl2v_deploy.exporting.finished.relabel.build_engines", build)
    monkeypatch.setattr(
        "vl2v_deploy.exporting.finished.relabel.verify_bundle",
        lambda path: [Check("student.fp32.plan", "wrong", "marked unusable")],
    )
    copy = copy_of(bundle, tmp_path)
    result = relabel(copy, lines(tmp_path / "c.txt", "cat", "dog"))
    assert result.exit_code == 1
    assert "student.fp32.plan: UNUSABLE" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "labels differ" in result.stderr.splitlines()[-1]
    assert Student.load(tmp_path / "copy-relabelled").classes == ("cat", "dog")  # the rest is right


def test_the_command_line(bundle: Path, tmp_path: Path) -> None:
    copy = copy_of(bundle, tmp_path)
    before = {path: sha256_of(path) for path in copy.rglob("*") if path.is_file()}
    names = lines(tmp_path / "c.txt", "cat", "dog", "cow")
    result = relabel(copy, names)
    assert result.exit_code == 0, result.output
    assert "3 classes" in result.stderr and "Accuracy is not known" in result.stderr
    again = relabel(copy, names)
    assert again.exit_code == 1 and "pass --overwrite" in again.output
    assert relabel(copy, names, "--overwrite").exit_code == 0
    assert {path: sha256_of(path) for path in copy.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob("*.partial"))
    assert relabel(copy, names, "--compute-capability", "8.6").exit_code == 1


def relabel(bundle: Path, names: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["relabel", str(bundle), "--classes", str(names), *options])


def _rename(model: onnx.ModelProto) -> None:
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == "classifier"]
    tensor.name = "head"
    [node] = [node for node in model.graph.node if "classifier" in node.input]
    node.input[1] = "head"


def _halve(model: onnx.ModelProto) -> None:
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == "classifier"]
    half = numpy_helper.to_array(tensor).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(half, "classifier"))


def _scale_logits(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = "unscaled"
    model.graph.node.append(helper.make_node("Softmax", ["unscaled"], ["logits"], name="late"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_rename, "expected one float32 matrix 'classifier'"),
        (_halve, "expected one float32 matrix 'classifier'"),
        (_scale_logits, "Softmax 'late' works on the logits"),
    ],
)
def test_graphs_without_a_classifier_to_replace(bundle: Path, change: object, expected: str) -> None:
    model = onnx.load(bundle / "student.onnx")
    change(model)  # type: ignore[operator]
    with pytest.raises(ExportError, match=expected):
        with_classifier(model, np.zeros((16, 3), np.float32), ("a", "b", "c"), "x.onnx")


def test_a_cast_behind_the_classifier_is_widened_too(bundle: Path) -> None:
    """As the fp16 converter may leave it: logits through fp16 and back."""
    model = onnx.load(bundle / "student.onnx")
    model.graph.node[-1].output[0] = "wide"
    for source, target, kind in (("wide", "half", 10), ("half", "logits", 1)):
        model.graph.node.append(helper.make_node("Cast", [source], [target], to=kind))
    for name, kind in (("wide", 1), ("half", 10)):
        model.graph.value_info.append(helper.make_tensor_value_info(name, kind, ["batch", 2]))
    new = with_classifier(model, np.ones((16, 3), np.float32), ("a", "b", "c"), "x.onnx")
    onnx.checker.check_model(new, full_check=True)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in new.graph.value_info}
    assert (shapes["wide"][1].dim_value, shapes["half"][1].dim_value) == (3, 3)
    with pytest.raises(ExportError, match=r"expected a classifier of shape \(16, 2\), got \(8, 2\)"):
        with_classifier(model, np.ones((8, 2), np.float32), ("a", "b"), "x.onnx")


def test_a_classifier_that_is_not_the_texts_is_caught(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check after the fact: files written with another matrix than the golden samples are made with."""
    from vl2v_deploy.errors import ParityError

    def wrong(model: object, classifier: np.ndarray, classes: object, name: str) -> object:
        return with_classifier(model, 1.01 * classifier, classes, name)  # type: ignore[arg-type]

    monkeypatch.setattr("vl2v_deploy.exporting.finished.relabel.with_classifier", wrong)
    with pytest.raises(ParityError, match="from the new classifier's"):
        relabel_bundle(bundle, lines(tmp_path / "c.txt", "cat", "dog"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_texts_of_one_class_are_averaged(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("cat: [a cat, the cat]\ndog: [a dog]\n")
    relabel_bundle(bundle, file, tmp_path / "new")
    teacher = load_teacher(load_recipe(bundle / "recipe.yaml").teacher)
    both = F.normalize(teacher.embed_texts(["a cat", "the cat"]).mean(0), dim=0)
    model = onnx.load(tmp_path / "new" / "student.onnx")
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == "classifier"]
    column = torch.tensor(numpy_helper.to_array(tensor))[:, 0]
    assert torch.allclose(F.normalize(column, dim=0), both, atol=1e-6)
