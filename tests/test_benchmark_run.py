"""A bundle made by hand, benchmarked from end to end: what it answers is known, so must the report be."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image
from rich.console import Console

from vl2v_deploy.benchmark import run
from vl2v_deploy.benchmark.accuracy import measure_accuracy, teacher_labels
from vl2v_deploy.benchmark.engines import EngineProcess
from vl2v_deploy.benchmark.options import BenchmarkOptions
from vl2v_deploy.benchmark.render import print_report
from vl2v_deploy.benchmark.run import benchmark_bundle, engine_specs
from vl2v_deploy.client import Student, preprocess
from vl2v_deploy.client.preprocess import PREPROCESSING
from vl2v_deploy.data.domains import evaluation_samples, load_domains, spread
from vl2v_deploy.errors import BenchmarkError, VL2VError
from vl2v_deploy.recipe import load_recipe

SIZE_PX = 16
COLOURS = {"green": (20, 200, 30), "red": (210, 30, 20)}
DOMAINS = ("cartoon", "photo", "sketch")
PER_CLASS = 20
# In the target's folder 'green' this many images are red: the student, which sees colour, gets them wrong.
MISLABELLED = 4
QUICK = {"seconds": 0.2, "rounds": 2, "samples_per_round": 10, "batches": (1, 2), "threads": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        for name in COLOURS:
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(PER_CLASS):
                wrong = domain == "sketch" and name == "green" and number < MISLABELLED
                colour = COLOURS["red" if wrong else name]
                pixels = np.clip(np.array(colour) + rng.integers(-15, 16, (20, 24, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles") / "colours"
    (root / "golden").mkdir(parents=True)
    onnx.save(colour_graph(), root / "student.onnx")
    image = next((data / "photo" / "red").iterdir())
    (root / "golden" / image.name).write_bytes(image.read_bytes())
    with Image.open(image) as opened:
        pixels = preprocess(opened, SIZE_PX)
    expected = {"names": np.array([image.name]), "images": pixels[None], "logits": np.zeros((1, 2))}
    expected["logits_fp32"] = expected["logits"]
    np.savez(root / "golden" / "expected.npz", **expected)
    recipe = {
        "data": {"root": str(data), "target": "sketch"},
        "teacher": {"model": "local-dir:/nowhere"},
        "student": {"backbone": "resnet18", "image_size_px": SIZE_PX},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    accuracy = {"cartoon": 1.0, "photo": 0.98, "sketch": 0.95}
    manifest = {
        "format": 2,
        "preprocessing": PREPROCESSING,
        "classes": list(COLOURS),
        "image_size_px": SIZE_PX,
        "embedding_dim": 3,
        "logit_scale": 1.0,
        "confidence": {"temperature": 1.0, "abstain_below": 0.0},
        "precisions": {"fp32": {"file": "student.onnx"}},
        "accuracy": {"student": accuracy, "teacher": accuracy, "linear_probe": accuracy, "target": "sketch"},
    }
    (root / "manifest.json").write_text(json.dumps(manifest))
    seal(root)
    return root


def seal(root: Path) -> None:
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(root)}\n" for p in files]
    (root / "SHA256SUMS").write_text("".join(lines))


def colour_graph() -> onnx.ModelProto:
    """Mean colour, L2-normalised, against the axes green and red."""
    weights = np.array([[0, 1], [1, 0], [0, 0]], np.float32)  # (D=RGB, K=green red)
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("LpNormalization", ["mean"], ["embedding"], axis=1, p=2),
        helper.make_node("MatMul", ["embedding", "weights"], ["logits"]),
    ]
    initializers = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("weights", TensorProto.FLOAT, [3, 2], weights.flatten()),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", SIZE_PX, SIZE_PX, 3])
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 2]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", 3]),
    ]
    graph = helper.make_graph(nodes, "colours", [images], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def reported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("reports") / "new" / "colours"
    options = BenchmarkOptions(
        **QUICK, usd_per_hour=0.36, usd_per_1k_queries=1.5, distillation_usd=2.0, utilisation=0.5
    )
    return benchmark_bundle(bundle, out, options), out


def test_accuracy_is_what_the_student_is_known_to_get_right(reported: tuple[dict[str, Any], Path]) -> None:
    student = reported[0]["accuracy"]["student"]
    assert {d: a["role"] for d, a in student.items()} == {
        "cartoon": "source",
        "photo": "source",
        "sketch": "target",
    }
    # OOD on every image of the target, which has no groups; ID on the sources' test split (20 %)
    assert (student["sketch"]["correct"], student["sketch"]["n"]) == (36, 40)
    assert (student["photo"]["correct"], student["photo"]["n"]) == (8, 8)
    assert student["sketch"]["low"] < 0.9 < student["sketch"]["high"]


def test_report_on_disk_is_the_report(reported: tuple[dict[str, Any], Path]) -> None:
    report, out = reported
    assert sorted(p.name for p in out.iterdir()) == ["accuracy_cost.png", "report.json", "report.md"]
    read = json.loads((out / "report.json").read_text())
    assert read == json.loads(json.dumps(report))
    assert read["schema"] == 1
    for key in ("device", "versions", "recipe_sha256", "threads", "command", "created", "options"):
        assert read[key]
    assert read["device"]["cpu"] and read["device"]["physical_cores"] >= 1
    assert len(read["recipe_sha256"]) == len(read["bundle"]["onnx_sha256"]) == 64
    cells = read["engines"]["student"]["cells"]
    assert {(c["scope"], c["batch"]) for c in cells} == {
        (scope, batch) for scope in ("bytes_to_label", "tensor_to_logits") for batch in (1, 2)
    }
    for cell in cells:
        raw = [sample for one_round in cell["rounds_s"] for sample in one_round]
        assert cell["n"] == len(raw) >= 3 and min(raw) > 0
        assert cell["mean_ms"] == pytest.approx(1e3 * sum(raw) / len(raw))
        assert (cell["p50_ms"] is None) == (len(raw) < 20) and cell["p99_ms"] is None


def test_costs_in_the_report_follow_from_its_throughput(reported: tuple[dict[str, Any], Path]) -> None:
    report, _ = reported
    student, teacher = report["summary"]["student"], report["summary"]["teacher"]
    whole = [c for c in report["engines"]["student"]["cells"] if c["scope"] == "bytes_to_label"]
    assert student["images_per_s"] == max(c["images_per_s"] for c in whole)
    assert student["usd_per_million"] == pytest.approx(0.36 / 3600 / student["images_per_s"] * 1e6 / 0.5)
    assert teacher["usd_per_million"] == 1500.0 and not teacher["measured"]
    saved = (1500.0 - student["usd_per_million"]) / 1e6
    assert report["break_even_inferences"] == pytest.approx(2.0 / saved)
    assert report["verdict"].startswith("The student keeps 90.0 (95 % interval ")
    assert (
        "of the teacher's recorded 95.0 points of OOD accuracy on 'sketch' and costs 1/" in report["verdict"]
    )


def test_markdown_and_terminal_show_the_same_tables(reported: tuple[dict[str, Any], Path]) -> None:
    report, out = reported
    text = (out / "report.md").read_text()
    assert "accuracy_cost.png" in text and report["verdict"] in text and "nan" not in text.lower()
    console = Console(width=200, record=True, file=(out.parent / "terminal.txt").open("w"))
    with console.file:
        print_report(report, console)
    shown = console.export_text()
    assert "recorded teacher %" in shown and "agree %" not in shown  # no teacher was asked
    for word in ("sketch", "OOD: sketch, unseen", "90.0", "1,500", "Break-even"):
        assert word in text and word in shown


def test_worker_of_the_student_does_not_import_torch(bundle: Path, data: Path) -> None:
    recipe = load_recipe(bundle / "recipe.yaml")
    domain_set = load_domains(recipe.data)
    images = {domain: evaluation_samples(domain_set, domain, "sketch") for domain in DOMAINS}
    student = Student.load(bundle)
    (spec,) = engine_specs(student.bundle, recipe, images, 1, BenchmarkOptions())
    ballast = np.ones(300_000_000, dtype=np.uint8)
    with EngineProcess(spec, 60.0) as engine:
        assert engine.facts["torch_imported"] is False
        assert engine.facts["provider"] == "CPUExecutionProvider"
        # Its own peak, not this process's, which getrusage would hand down to a child.
        assert 10e6 < engine.facts["peak_rss_bytes"] < ballast.nbytes
        assert engine.facts["model_bytes"] == (bundle / "student.onnx").stat().st_size
        reply = engine.ask({"scope": "bytes_to_label", "batch": 2, "n": 3}, "testing")
        assert len(reply["samples_s"]) == 3


def test_teacher_is_scored_on_the_same_images_each_bought_once(bundle: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from vl2v_deploy.models.embedding_store import EmbeddingStore

    recipe = load_recipe(bundle / "recipe.yaml")
    domain_set = load_domains(recipe.data)
    full = {domain: evaluation_samples(domain_set, domain, "sketch") for domain in DOMAINS}
    images = {domain: spread(samples, 10) for domain, samples in full.items()}
    totals = {domain: len(samples) for domain, samples in full.items()}

    def embed_images(batch: list[Image.Image]) -> Any:
        # by its mean colour: (red, green, blue) -> the axes (green, red), the truth even in the target
        means = torch.tensor(np.stack([np.asarray(image).mean((0, 1)) for image in batch])).float()
        return torch.nn.functional.normalize(means, dim=-1)

    teacher: Any = SimpleNamespace(identity="colour", batch_size=6, embed_images=embed_images)
    text_emb = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    for expected_queries in (26, 0):  # the second time all come from the store
        store = EmbeddingStore(tmp_path, teacher)
        theirs = teacher_labels(store, text_emb, images)
        assert store.queries == expected_queries
    theirs["photo"] = 1 - theirs["photo"]
    scored = measure_accuracy(Student.load(bundle), theirs, images, totals, "sketch")
    assert scored["teacher"]["photo"].accuracy == 0.0 == scored["student"]["photo"].agreement
    target = scored["student"]["sketch"]
    assert (target.n, target.of, target.agreement) == (10, 40, 1.0)
    assert target.accuracy == scored["teacher"]["sketch"].accuracy == 0.9  # one of the ten is mislabelled


def test_subsampling_and_relocated_data_are_told(bundle: Path, data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(data)
    options = BenchmarkOptions(**QUICK, max_images=6, data_root=moved)
    report = benchmark_bundle(bundle, tmp_path / "out", options)
    assert report["data"]["subsampled"] and report["accuracy"]["student"]["sketch"]["n"] == 6
    assert "Subsampled" in (tmp_path / "out" / "report.md").read_text()
    assert report["summary"]["student"]["usd_per_million"] is None and report["break_even_inferences"] is None


def test_a_failure_leaves_no_half_report(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise BenchmarkError("no picture today")

    monkeypatch.setattr(run, "plot_report", fails)
    with pytest.raises(BenchmarkError, match="no picture"):
        benchmark_bundle(bundle, tmp_path / "out", BenchmarkOptions(**QUICK))
    assert list((tmp_path / "out").iterdir()) == []


def test_out_that_is_a_file_is_refused_before_anything_is_measured(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(BenchmarkError, match="cannot be a report directory"):
        benchmark_bundle(bundle, tmp_path / "out", BenchmarkOptions(**QUICK))


def test_data_of_other_classes_are_refused(bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        for name in ("cat", "dog"):
            (tmp_path / "data" / domain / name).mkdir(parents=True)
            for number in range(10):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / domain / name / f"{number}.png")
    with pytest.raises(BenchmarkError, match=r"expected the bundle's classes green, red; got cat, dog"):
        options = BenchmarkOptions(**QUICK, data_root=tmp_path / "data")
        benchmark_bundle(bundle, tmp_path / "out", options)


def test_recipes_for_each_target_need_the_manifest_to_name_one(bundle: Path) -> None:
    recipe = load_recipe(bundle / "recipe.yaml", ["data.target=each"])
    assert run._target(recipe, {"target": "photo"}) == "photo"
    with pytest.raises(VL2VError, match="which domain was unseen is not known"):
        run._target(recipe, None)


@pytest.fixture(scope="module")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip model directory with random weights: slow to import, quick to run."""
    open_clip = pytest.importorskip("open_clip")
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("teacher")
    tower = {"layers": 1, "width": 64}
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "patch_size": 16, **tower},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 2, **tower},
    }
    constants = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config_file = folder / "open_clip_config.json"
    config_file.write_text(json.dumps({"model_cfg": config, "preprocess_cfg": constants}))
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**config)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


@pytest.mark.slow
def test_teacher_beside_student_from_end_to_end(
    bundle: Path, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "colours"
    shutil.copytree(bundle, copy)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["teacher"]["model"] = f"local-dir:{tiny_teacher}"
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    seal(copy)
    options = BenchmarkOptions(**{**QUICK, "seconds": 2.0}, teacher=True, usd_per_hour=0.36)
    report = benchmark_bundle(copy, tmp_path / "out", options)
    student, teacher = report["summary"]["student"], report["summary"]["teacher"]
    assert report["provenance"]["teacher_queries"] == 56  # 8 + 8 of the sources, 40 of the target
    assert teacher["measured"] and teacher["model_bytes"] > student["model_bytes"]
    # Both on this machine, so the costs are in the ratio of the throughputs.
    ratio = student["images_per_s"] / teacher["images_per_s"]
    assert teacher["usd_per_million"] / student["usd_per_million"] == pytest.approx(ratio)
    assert report["engines"]["teacher"]["torch_imported"] and report["engines"]["teacher"]["threads"] == 1
    assert not report["engines"]["student"]["torch_imported"]
    agreement = report["accuracy"]["student"]["sketch"]["agreement"]
    assert 0.0 <= agreement <= 1.0
    cells = {
        name: [(c["scope"], c["batch"], c["n"]) for c in e["cells"]] for name, e in report["engines"].items()
    }
    assert cells["student"] == cells["teacher"]
