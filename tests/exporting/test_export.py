"""A bundle in every precision from a real run: what it says of itself, and what `verify` finds in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from tests.helpers.vpmaddubsw import exact_product, products, saturating_product
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import Student as ClientStudent
from vl2v_deploy.client import open_bundle
from vl2v_deploy.client.bundle import GOLDEN
from vl2v_deploy.client.preprocess import open_image, preprocess
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import BundleError, ExportError, PrecisionError, ProviderError
from vl2v_deploy.exporting.finished.verification import Check, verify_bundle
from vl2v_deploy.exporting.images import export_images
from vl2v_deploy.exporting.manifest import write_checksums
from vl2v_deploy.exporting.options import ExportOptions
from vl2v_deploy.exporting.precision.saturation import WEIGHT_RULES, layers_that_may_saturate
from vl2v_deploy.exporting.run import export_run
from vl2v_deploy.models.run_directory import Run, load_run
from vl2v_deploy.recipe import load_recipe

PRECISIONS = ("fp32", "fp16", "int8", "int8-symmetric")
# The student is two stages of a few steps: what int8 costs it is not the question here.
EVERY = ExportOptions(PRECISIONS, max_accuracy_drop=100.0, calibration_images=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    recipe = load_recipe(write_recipe(folder, make_domain_folder(folder / "data")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VL2V_DEPLOY_CACHE", str(folder / "cache"))
        [path] = distill_recipe(recipe, folder / "runs" / "tiny")
    return load_run(path)


@pytest.fixture(scope="module")
def bundle(folder: Path, run: Run) -> Path:
    return export_run(run.path, folder / "bundles" / "tiny", EVERY)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(bundle, tmp_path / "copy")
    return tmp_path / "copy"


def verified(bundle: Path) -> list[Check]:
    return verify_bundle(open_bundle(bundle))


def manifest_of(bundle: Path) -> dict[str, object]:
    return dict(json.loads((bundle / "manifest.json").read_text()))


def call(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args))


def test_every_precision_is_proven_and_measured(bundle: Path) -> None:
    records = manifest_of(bundle)["precisions"]
    assert tuple(records) == PRECISIONS
    kinds = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int8-symmetric": "int8"}
    for precision, record in records.items():
        assert (bundle / record["file"]).stat().st_size == record["bytes"]
        assert record["macs"]["share"][kinds[precision]] > 0.95
        # held out: 4 + 4 test images of the sources, 20 of the target; int8 is judged where it was chosen
        images = {"held-out images": 28, "source validation": 4}
        assert record["parity"]["images"] == images[record["parity"]["on"]]
        assert (record["parity"]["on"] == "source validation") == precision.startswith("int8")
        accuracy = record["accuracy"]
        assert {name: facts["images"] for name, facts in accuracy["domains"].items()} == {
            "ink": 4,
            "paint": 4,
            "photo": 20,
        }
        assert accuracy["ood"] == accuracy["domains"]["photo"]["accuracy"]
    assert records["fp16"]["emulated_parity"]["max_embedding_error"] > 0
    assert records["fp16"]["kept_in_fp32"].keys() == {"fixed"}
    for precision in ("int8", "int8-symmetric"):  # the bound on the weights of what was written
        model, weights = onnx.load(bundle / records[precision]["file"]), records[precision]["weights"]
        assert layers_that_may_saturate(model) == weights["layers_that_may_saturate"] == []
        assert weights["tried"].keys() == set(WEIGHT_RULES) and weights["rule"] in WEIGHT_RULES
        with np.load(bundle / GOLDEN, allow_pickle=False) as golden:
            images = golden["images"]
        for name, left, right in products(model, images):
            assert (saturating_product(left, right) == exact_product(left, right)).all(), name
    calibration = records["int8"]["calibration"]
    assert (calibration["images"], calibration["of"]) == (16, "source training")
    assert calibration["tried"].keys() == {"minmax", "entropy", "percentile"}


def test_accuracies_are_those_of_the_files(bundle: Path, run: Run) -> None:
    """The client on the target's images, one by one, against what the manifest says."""
    target = [sample for sample in load_domains(run.recipe.data).samples if sample.domain == "photo"]
    for precision in PRECISIONS:
        student = ClientStudent.load(bundle, precision=precision)
        predictions = [student.predict(sample.path) for sample in target]
        right = [p.index == sample.label for p, sample in zip(predictions, target, strict=True)]
        facts = manifest_of(bundle)["precisions"][precision]["accuracy"]["domains"]["photo"]
        assert facts["accuracy"] == pytest.approx(np.mean(right))
        assert facts["answered"] == pytest.approx(np.mean([not p.abstained for p in predictions]))


def test_images_serve_one_purpose_only(run: Run) -> None:
    images = export_images(run, calibration_images=8, max_images=3)
    domain_set = load_domains(run.recipe.data)

    def pixels(split: str) -> list[bytes]:
        chosen = [s for s in domain_set.samples if s.domain != "photo" and s.split == split]
        return [preprocess(open_image(s.path), 32).tobytes() for s in chosen]

    assert len(images.calibration) == 8
    assert {image.tobytes() for image in images.calibration} <= set(pixels("train"))
    assert [image.tobytes() for image in images.validation] == pixels("val")
    assert [(held.domain, len(held.samples), held.of) for held in images.held_out] == [
        ("ink", 3, 4),
        ("paint", 3, 4),
        ("photo", 3, 20),
    ]


def test_nothing_is_calibrated_or_chosen_on_other_images(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fp16 and int8 are handed, not what they should be: never an image of the target or of a test."""
    from vl2v_deploy.exporting.precision import fp16, int8, qdq

    seen: dict[str, set[bytes]] = {"train": set(), "val": set()}

    def watch(module: object, name: str, split: str) -> None:
        function = getattr(module, name)

        def watched(model: onnx.ModelProto, images: np.ndarray, *rest: object) -> object:
            seen[split] |= {image.tobytes() for image in images}
            return function(model, images, *rest)

        monkeypatch.setattr(module, name, watched)

    watch(qdq, "ranges_by_method", "train")
    watch(fp16, "largest_magnitudes", "train")
    watch(fp16, "answers", "train")
    watch(int8, "answers", "val")
    options = ExportOptions(("fp16", "int8"), max_accuracy_drop=100.0)  # fp32 comes without being asked for
    export_run(run.path, tmp_path / "out", options)
    for split, images in seen.items():
        chosen = [
            s for s in load_domains(run.recipe.data).samples if s.domain != "photo" and s.split == split
        ]
        assert images == {preprocess(open_image(s.path), 32).tobytes() for s in chosen}


def test_what_is_chosen_on_is_not_measured_on(run: Run) -> None:
    images = export_images(run, calibration_images=1000, max_images=None)
    held_out = {preprocess(open_image(sample.path), 32).tobytes() for sample in images.held_out_samples()}
    chosen_on = {image.tobytes() for image in (*images.calibration, *images.validation)}
    assert len(held_out) == 28 and len(chosen_on) == 32 and not held_out & chosen_on


def test_data_that_changed_since_is_refused(run: Run, folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder / "data", moved)
    options = ExportOptions(data_root=moved)
    assert export_run(run.path, tmp_path / "same", options)  # elsewhere, but the same images
    shutil.copy(moved / "ink/circle/0.png", moved / "ink/circle/new.png")
    with pytest.raises(ExportError, match=r"no longer those that .* --data, or pass --allow-changed-data"):
        export_run(run.path, tmp_path / "other", options)
    with pytest.raises(ExportError, match=r"nowhere: no such folder; .* --data"):
        export_run(run.path, tmp_path / "other", ExportOptions(data_root=tmp_path / "nowhere"))
    assert not list(tmp_path.glob("other*"))  # no half of a bundle either
    allowed = ExportOptions(data_root=moved, allow_changed_data=True)
    assert export_run(run.path, tmp_path / "other", allowed)


def test_the_same_run_gives_the_same_bytes(bundle: Path, run: Run, tmp_path: Path) -> None:
    again = export_run(run.path, tmp_path / "again", EVERY)
    for record in manifest_of(bundle)["precisions"].values():
        assert (again / record["file"]).read_bytes() == (bundle / record["file"]).read_bytes()


def test_the_temperature_is_in_the_graph_and_moves_no_label(bundle: Path, run: Run) -> None:
    confidence = manifest_of(bundle)["confidence"]
    images = export_images(run, calibration_images=1, max_images=None).validation
    logits, embedding = ClientStudent.load(bundle).run(images)
    plain = run.logit_scale * embedding @ run.text_emb.numpy().T
    assert np.abs(confidence["temperature"] * logits - plain).max() < 1e-3
    assert (logits.argmax(1) == plain.argmax(1)).all()


def test_verify_passes_and_says_what_it_ran(bundle: Path) -> None:
    result = call("verify", str(bundle))
    assert result.exit_code == 0, result.output
    for record in manifest_of(bundle)["precisions"].values():
        assert f"{record['file']}" in result.output
    assert result.output.count("ok") == 5
    tree = json.loads(call("verify", str(bundle), "--json").output)
    assert tree["passed"] and [check["outcome"] for check in tree["checks"]] == ["ok"] * 5


def test_files_are_of_a_version_that_the_oldest_onnxruntime_reads(bundle: Path) -> None:
    """onnxruntime 1.18, the oldest that the client takes, reads opset 21 and IR version 10."""
    for record in manifest_of(bundle)["precisions"].values():
        model = onnx.load(bundle / record["file"], load_external_data=False)
        assert model.ir_version <= 10
        assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]


@pytest.mark.parametrize("file", ["student.onnx", "student.fp16.onnx", "student.int8.onnx"])
def test_verify_finds_a_file_that_answers_otherwise(copy: Path, file: str) -> None:
    model = onnx.load(copy / file)
    [classifier] = [tensor for tensor in model.graph.initializer if tensor.name == "classifier"]
    values = numpy_helper.to_array(classifier).copy()
    values[:, 0] *= -1
    classifier.CopyFrom(numpy_helper.from_array(values, "classifier"))
    (copy / file).write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=f"{file}: was changed"):
        verified(copy)
    write_checksums(copy)  # as a careless hand would
    outcomes = {check.what: check.outcome for check in verified(copy)}
    assert [name for name, outcome in outcomes.items() if outcome == "wrong"] == [file]
    result = call("verify", str(copy))
    assert result.exit_code == 1
    assert f"gives other answers here than at export: {file}" in result.output
    first, *_ = call("verify", str(copy), "--json").output.splitlines()
    assert json.loads(first)["passed"] is False


def test_inspect_shows_what_the_manifest_says(bundle: Path) -> None:
    result = call("inspect", str(bundle))
    assert result.exit_code == 0, result.output
    for part in ("student.int8-symmetric.onnx", "source validation", "temperature", "circle, square"):
        assert part in result.output
    accuracy = manifest_of(bundle)["precisions"]["int8"]["accuracy"]["ood"]
    assert f"{100 * accuracy:.1f}" in result.output
    assert json.loads(call("inspect", str(bundle), "--json").output) == manifest_of(bundle)


def test_inspect_and_verify_take_zipped_bundles(bundle: Path, tmp_path: Path) -> None:
    packed = shutil.make_archive(str(tmp_path / "tiny"), "zip", bundle)
    assert json.loads(call("inspect", packed, "--json").output) == manifest_of(bundle)
    assert "tiny.zip" in call("inspect", packed).output.replace("\n", "")  # the terminal wraps
    result = call("verify", packed)
    assert result.exit_code == 0 and result.output.count(" ok ") == 1 + len(PRECISIONS), result.output


def test_predict_in_a_precision(bundle: Path, run: Run) -> None:
    image = str(load_domains(run.recipe.data).samples[0].path)
    for precision in PRECISIONS:
        result = call("predict", str(bundle), image, "--precision", precision, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.output)["abstained"] in (True, False)
    result = call("predict", str(bundle), image, "--precision", "int9")
    assert result.exit_code == 1
    assert "holds no int9 file; did you mean 'int8'?; it has: fp32, fp16, int8" in result.output


def test_a_bundle_without_a_precision_says_how_to_get_it(run: Run, tmp_path: Path) -> None:
    plain = export_run(run.path, tmp_path / "plain")
    with pytest.raises(BundleError, match=r"holds no int8 file; it has: fp32; .* --precision int8"):
        ClientStudent.load(plain, precision="int8")


def test_engines_of_every_precision_come_with_the_bundle(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    out = tmp_path / "engines"
    result = call(
        *("export", str(run.path), "--out", str(out), "--precision", "fp16,int8", "--rtx"),
        *("--compute-capability", "8.6,8.9,12.0", "--max-accuracy-drop", "100", "--profile", "1:4:16"),
    )
    assert result.exit_code == 0, result.output
    manifest = manifest_of(out)
    assert tuple(manifest["precisions"]) == PRECISIONS  # int8-symmetric came along for TensorRT
    source = {"fp16": "student.fp16.onnx", "int8": "student.int8-symmetric.onnx"}
    assert len(manifest["engines"]) == 2  # those that were asked for
    for precision, onnx_file in source.items():
        passport = manifest["engines"][f"student.{precision}.rtx-sm86-sm89-sm120.plan"]
        assert passport["onnx_sha256"] == manifest["files"][onnx_file]["sha256"]
        assert (passport["precision"], passport["usable"]) == (precision, None)
        assert passport["precision_proof"]["onnx_mac_shares"][precision] > 0.95
    checks = {check.what: check for check in verified(out)}
    engine = checks["student.int8.rtx-sm86-sm89-sm120.plan"]
    assert engine.outcome == "not run" and "needs an NVIDIA GPU" in engine.details


def test_triton_comes_with_an_export(run: Run, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    result = call("export", str(run.path), "--out", str(tmp_path / "b"), "--triton", str(repository))
    assert result.exit_code == 0, result.output
    assert (repository / "student_fp32" / "1" / "model.onnx").read_bytes() == (
        tmp_path / "b" / "student.onnx"
    ).read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    result = call("export", str(run.path), "--out", str(tmp_path / "c"), "--triton", str(tmp_path / "mine"))
    assert result.exit_code == 1 and "is not empty" in result.output
    assert not (tmp_path / "c").exists()  # found out before the export


def test_a_file_that_stays_fp32_is_no_export(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter that changes nothing must not pass for fp16."""
    from vl2v_deploy.exporting.precision import precisions

    made = precisions.to_fp16

    def unchanged(model: onnx.ModelProto, images: np.ndarray) -> object:
        return type(made(model, images))(model, {}, 0.0, model)

    monkeypatch.setattr(precisions, "to_fp16", unchanged)
    with pytest.raises(PrecisionError, match=r"student\.fp16\.onnx: 100\.0 % of the MACs are still fp32"):
        export_run(run.path, tmp_path / "out", ExportOptions(("fp32", "fp16")))
    assert not list(tmp_path.iterdir())


def test_backbones_that_cannot_have_a_precision_keep_the_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever onnxruntime says is one line; all precisions are tried before anything is refused."""

    def broken(*_: object, **__: object) -> object:
        raise KeyError("no such tensor")

    monkeypatch.setattr("vl2v_deploy.exporting.precision.precisions.to_fp16", broken)
    monkeypatch.setattr("vl2v_deploy.exporting.precision.precisions.calibrated_ranges", broken)
    wanted = ("export", str(run.path), "--precision", "fp32,fp16,int8", "--out", str(tmp_path / "out"))
    refused = call(*wanted)
    assert refused.exit_code == 1 and not list(tmp_path.iterdir())
    for precision in ("fp16", "int8"):
        assert f"{precision}: cannot be made of this backbone: KeyError: 'no such tensor'" in refused.output
    assert "pass --skip-refused" in refused.output
    written = call(*wanted, "--skip-refused")
    assert written.exit_code == 0 and "without fp16: fp16: cannot be made" in written.output
    manifest = manifest_of(tmp_path / "out")
    assert set(manifest["precisions"]) == {"fp32"} and set(manifest["refused"]) == {"fp16", "int8"}
    assert {check.outcome for check in verified(tmp_path / "out")} == {"ok"}
    assert "no int8: int8: cannot be made of this backbone" in call("inspect", str(tmp_path / "out")).output


@pytest.fixture(scope="module")
def headed(folder: Path, run: Run) -> Path:
    """A bundle of a student with a trained head, whose logits have nothing to do with the teacher's scale."""
    recipe = run.recipe.model_copy(update={"method": "erm"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VL2V_DEPLOY_CACHE", str(folder / "cache"))
        [path] = distill_recipe(recipe, folder / "runs" / "headed")
    return export_run(path, folder / "bundles" / "headed", EVERY)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_head_with_its_classes_swapped_is_found(headed: Path, tmp_path: Path, precision: str) -> None:
    assert {check.outcome for check in verified(headed)} == {"ok"}
    copy = tmp_path / "copy"
    shutil.copytree(headed, copy)
    file = "student.onnx" if precision == "fp32" else f"student.{precision}.onnx"
    model = onnx.load(copy / file)
    for tensor in model.graph.initializer:
        if "head." in tensor.name:
            swapped = numpy_helper.to_array(tensor)[::-1]
            tensor.CopyFrom(numpy_helper.from_array(swapped.copy(), tensor.name))
    (copy / file).write_bytes(model.SerializeToString())
    write_checksums(copy)
    assert [check.what for check in verified(copy) if check.outcome == "wrong"] == [file]


def test_an_engine_that_does_not_load_is_wrong_and_not_merely_unrun(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    from vl2v_deploy.exporting.tensorrt import engines
    from vl2v_deploy.exporting.tensorrt import runner as engine_runner

    def refuse(plan: Path, **_: object) -> object:
        raise ProviderError(f"{plan.name}: cannot be loaded here: the library's own words")

    for module in (engines, engine_runner):  # a machine that may run it, whose library then will not
        monkeypatch.setattr(module, "require_runnable", lambda passport, here: None)
        monkeypatch.setattr(module, "open_engine", refuse)
    out = tmp_path / "out"
    options = ["--rtx", "--compute-capability", "8.6", "--profile", "1:2:4"]
    result = call("export", str(run.path), "--out", str(out), *options)
    assert result.exit_code == 1
    assert "marked unusable" in result.output and "the library's own words" in result.output
    assert manifest_of(out)["engines"]["student.fp32.rtx-sm86.plan"]["usable"] is False
    monkeypatch.undo()
    outcomes = {check.what: check.outcome for check in verified(out)}
    assert outcomes["student.fp32.rtx-sm86.plan"] == "wrong" and outcomes["student.onnx"] == "ok"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--coverage", "nan"], "coverage nan: expected a share"),
        (["--max-fp32-share", "nan"], "max_fp32_share nan: expected a share"),
        (["--compute-capability", "8.6", "--trt"], "goes with --rtx"),
        (["--profile", "1:2:4"], "go with --trt or --rtx"),
        (["--triton-device", "gpu"], "goes with --triton"),
        (["--precision", "int4"], "precisions int4: expected fp32"),
    ],
)
def test_options_that_say_nothing(run: Run, tmp_path: Path, options: list[str], expected: str) -> None:
    result = call("export", str(run.path), "--out", str(tmp_path / "out"), *options)
    assert result.exit_code in (1, 2) and expected in result.output
    assert not list(tmp_path.iterdir())
