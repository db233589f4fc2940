"""A bundle made by hand, measured from end to end: what it answers is known, so must the measurements be."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from tests.helpers.colour_bundle import DOMAINS, RIGHT, make_colour_bundle, make_data, seal
from vl2v_deploy.benchmarking import run
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.measure.answers import ask_teacher
from vl2v_deploy.benchmarking.measure.display import Display
from vl2v_deploy.benchmarking.measure.images import load_images, target_of
from vl2v_deploy.benchmarking.measure.processes import EngineProcess, EngineSpec
from vl2v_deploy.benchmarking.measure.subject import Subject, teacher_subject
from vl2v_deploy.benchmarking.run import Places, failures, measure_bundle, why_not_timed
from vl2v_deploy.benchmarking.scenario import Scenario, SingleStream
from vl2v_deploy.benchmarking.schema import Measurements, Predictions, Prices
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import open_bundle
from vl2v_deploy.client.providers import problem_with
from vl2v_deploy.errors import BenchmarkError, VL2VError
from vl2v_deploy.recipe import load_recipe

QUICK = Scenario(seconds=0.2, rounds=2, samples_per_round=10, batches=(1, 2), threads=(1,), timeout_s=60.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32 is right, int8 calls every colour by the other's name."""
    root = tmp_path_factory.mktemp("bundles") / "colours"
    return make_colour_bundle(root, data, int8=RIGHT[:, ::-1])


def measured(bundle: Path, **changes: Any) -> Measurements:
    return measure_bundle(bundle, QUICK.model_copy(update=changes), Places(), Display())


@pytest.fixture(scope="module")
def whole(bundle: Path) -> Measurements:
    return measured(bundle, engines=("all",), streams=(1, 2))


def test_answers_are_what_the_student_is_known_to_get_right(whole: Measurements) -> None:
    engine = {engine.name: engine for engine in whole.engines}["onnxruntime:fp32"]
    images = whole.images.domains
    # OOD on every image of the target, which has no groups; ID on the sources' test split (20 %)
    assert {d: (i.role, len(i.names), i.of) for d, i in images.items()} == {
        "cartoon": ("source", 8, 8),
        "photo": ("source", 8, 8),
        "sketch": ("target", 40, 40),
    }
    right = {d: np.array(engine.predictions[d].labels) == np.array(images[d].labels) for d in images}
    assert {d: int(hits.sum()) for d, hits in right.items()} == {"cartoon": 8, "photo": 8, "sketch": 36}
    wrong = [name for name, hit in zip(images["sketch"].names, right["sketch"], strict=True) if not hit]
    assert wrong == [f"sketch/green/{number:02d}.png" for number in range(4)]
    # softmax over two cosines, one near 1 and one small
    assert all(0.6 < p < 0.75 for p in engine.predictions["photo"].confidence)


def test_a_wrong_file_is_caught_by_accuracy_and_agreement(whole: Measurements) -> None:
    results = judge(whole, Prices()).results
    right, wrong = results.engines["onnxruntime:fp32"], results.engines["onnxruntime:int8"]
    assert right.domains["sketch"].accuracy == 0.9 and right.id_accuracy == 1.0
    assert wrong.domains["sketch"].accuracy == pytest.approx(0.1) and wrong.id_accuracy == 0.0
    openvino = results.engines["openvino:int8"]
    assert openvino.domains["sketch"].accuracy == pytest.approx(0.1)
    broken = [
        verdict.numbers for verdict in results.verdicts if (verdict.about, verdict.answer) == ("parity", "no")
    ]
    assert any("onnxruntime:int8" in numbers for numbers in broken)
    assert wrong.domains["photo"].agreement_torch in (None, 0.0)


def test_every_scope_batch_and_stream_is_timed_for_every_engine(whole: Measurements) -> None:
    engines = [engine for engine in whole.engines if engine.status == "measured"]
    assert {engine.name for engine in engines} == {
        f"{runtime}:{precision}" for runtime in ("onnxruntime", "openvino") for precision in ("fp32", "int8")
    }
    for engine in engines:
        timed = {(cell.scope, cell.batch, cell.streams) for cell in engine.cells}
        scopes = ("session", "tensor_to_logits", "bytes_to_label")
        assert timed == {(scope, batch, 1) for scope in scopes for batch in (1, 2)} | {
            ("bytes_to_label", batch, 2) for batch in (1, 2)
        }
        for cell in engine.cells:
            samples = [sample for one_round in cell.rounds_s for sample in one_round]
            assert len(samples) >= 3 and min(samples) > 0 and len(cell.wall_s) == len(cell.rounds_s) <= 2
        [facts] = engine.processes
        assert facts.threads == 1 and facts.load_s > 0 and (facts.peak_rss_bytes or 0) > 10e6
        file = "student.onnx" if engine.precision == "fp32" else "student.int8.onnx"
        assert engine.file == file and len(engine.sha256 or "") == 64 and (engine.model_bytes or 0) > 100
    providers = {e.name: e.processes[0].provider for e in engines}
    assert providers["onnxruntime:fp32"] == "CPUExecutionProvider"
    assert providers["openvino:fp32"] == "OpenVINO CPU, f32"


def test_what_cannot_run_here_says_why_and_what_to_install(whole: Measurements) -> None:
    reasons = {e.name: str(e.reason) for e in whole.engines if e.status == "unavailable"}
    assert "with --run" in reasons["torch:fp32"]
    assert "vl2v-deploy export RUN --precision fp16 --trt" in reasons["tensorrt:fp16"]
    assert "--rtx" in reasons["tensorrt-rtx:fp16"]
    if "onnxruntime:fp32@cuda" in reasons:  # no GPU here
        assert "pip install" in reasons["onnxruntime:fp32@cuda"]
    assert failures(whole) == []


def test_what_does_not_fit_into_the_time_limit_is_left_out_and_named(bundle: Path) -> None:
    asked = {"roofline": True, "single_stream": SingleStream(queries=20, seconds=0.2)}
    cut = measured(bundle, limit_s=0.01, **asked)
    students = [engine for engine in cut.engines if engine.status == "measured"]
    assert students and all(engine.predictions and engine.cells for engine in students)  # never left out
    assert not any(engine.single_stream for engine in students) and not cut.machine
    [note] = [note for note in cut.notes if "limit_s" in note]
    assert all(f"loads of {engine.name}" in note for engine in students) and "peaks of the cpu" in note
    assert note in judge(cut, Prices()).results.warnings
    in_time = measured(bundle, limit_s=600.0, **asked)
    assert all(engine.single_stream for engine in in_time.engines if engine.status == "measured")
    assert in_time.machine and not any("limit_s" in note for note in in_time.notes)


def test_measurements_go_through_json_unchanged(whole: Measurements) -> None:
    assert Measurements.model_validate_json(whole.model_dump_json()) == whole
    assert whole.scenario.threads == (1,) and whole.device["cpu"] and len(whole.recipe_sha256) == 64


def test_a_zipped_bundle_is_measured_and_what_was_unpacked_is_removed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipped = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", bundle))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    measurements = measured(zipped, engines=("onnxruntime:fp32",), batches=(1,))
    assert measurements.bundle.name == "zipped"
    [engine] = measurements.engines
    assert engine.status == "measured" and len(engine.predictions["sketch"].labels) == 40
    assert list(scratch.iterdir()) == []


def test_openvino_answers_alike_for_one_stream_and_for_several(bundle: Path) -> None:
    pytest.importorskip("openvino", reason="pip install openvino")
    from vl2v_deploy.benchmarking.worker.load_openvino import load_openvino

    file = {"file": str(bundle / "student.onnx"), "image_size_px": 16, "draft": False}
    engine = load_openvino({**file, "threads": 1})
    [image] = (bundle / "golden").glob("*.png")
    alone = engine.classify([image.read_bytes()])
    assert engine.set_streams is not None
    engine.set_streams(3)
    assert [label for label, _ in engine.classify([image.read_bytes()] * 2)] == [alone[0][0]] * 2 == [1, 1]


def test_worker_of_the_student_does_not_import_torch(bundle: Path) -> None:
    [image] = (bundle / "golden").glob("*.png")
    settings = {"engine": "onnxruntime", "bundle": str(bundle), "precision": "fp32", "provider": "cpu"}
    spec = EngineSpec("student", {**settings, "threads": 1, "images": [str(image)]})
    ballast = np.ones(300_000_000, dtype=np.uint8)
    with EngineProcess(spec, 60.0) as engine:
        assert engine.facts["torch_imported"] is False
        # Its own peak, not this process's, which getrusage would hand down to a child.
        assert 10e6 < engine.facts["peak_rss_bytes"] < ballast.nbytes


def test_an_engine_that_is_named_and_not_there_is_an_error_before_anything_long(
    bundle: Path, tmp_path: Path
) -> None:
    for name, words in {
        "onnxruntime:fp16": "engines: onnxruntime:fp16: holds no fp16 file",
        "torch:fp32": "torch:fp32: .* with --run",
        "tensorrt:int8": "the bundle holds no such engine",
        "onnxruntime:int9": "did you mean 'int8'",
        "onyxruntime:int8": "did you mean 'onnxruntime'",
        "openvino:fp32@cuda": "openvino computes on cpu, not on 'cuda'",
        "torch:fp16": "expected torch: and one of fp32",
        "file": "did you mean 'files'",
    }.items():
        places = Places(data=tmp_path / "nowhere")  # which would be the next error
        with pytest.raises(BenchmarkError, match=words):
            measure_bundle(bundle, QUICK.model_copy(update={"engines": (name,)}), places, Display())


FAILS = """
import os, sys, time
from vl2v_deploy.benchmarking.worker.process import load_engine, main
def load(settings):
    if settings["precision"] == "int8":
        FAIL
    return load_engine(settings)
sys.exit(main(load))
"""


def fail_with(fail: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From now on int8's worker runs this line instead of loading."""
    script = folder / "worker.py"
    script.write_text(FAILS.replace("FAIL", fail))
    spec = Subject.spec
    command = (sys.executable, str(script))
    monkeypatch.setattr(Subject, "spec", lambda *args: replace(spec(*args), command=command))


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fail_with("os._exit(3)", monkeypatch, tmp_path)


def test_where_no_engine_can_run_nothing_is_measured_and_the_reason_is_told(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vl2v_deploy.benchmarking.measure.candidates.problem_with", lambda name: f"no {name} here"
    )
    with pytest.raises(BenchmarkError, match=r"none of the student's engines can run here: CUDA\w+: no CUDA"):
        measured(bundle, device="cuda")


def test_a_stalled_engine_is_in_the_report_and_the_others_are_measured(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with("time.sleep(90)", monkeypatch, tmp_path)
    measurements = measured(bundle, timeout_s=12.0)
    fp32, int8 = measurements.engines
    assert (fp32.status, int8.status) == ("measured", "failed")
    assert fp32.predictions and fp32.cells and not int8.predictions
    assert str(int8.reason).startswith("engine 'onnxruntime:int8' stalled while loading")
    assert failures(measurements) == []  # 'files' asked for whatever is there
    assert judge(measurements, Prices()).results.primary == "onnxruntime:fp32"


def test_the_command_writes_the_report_and_fails_for_a_named_engine_that_failed(
    bundle: Path, tmp_path: Path, dying: None
) -> None:
    def benchmark(*options: str) -> Any:
        common = ["--seconds", "0.2", "--batch", "1", "--threads", "1"]
        return CliRunner().invoke(
            cli, ["benchmark", str(bundle), *common, "--out", str(tmp_path / "out"), *options]
        )

    result = benchmark("--engines", "onnxruntime:fp32,onnxruntime:int8")
    assert result.exit_code == 1 and "died while loading, exit status 3" in result.output
    read = json.loads((tmp_path / "out" / "report.json").read_text())
    status = {engine["name"]: engine["status"] for engine in read["measurements"]["engines"]}
    assert status == {"onnxruntime:fp32": "measured", "onnxruntime:int8": "failed"}
    assert not (tmp_path / "out" / "measurements.json").exists()
    assert benchmark().exit_code == 0


def test_all_engines_failing_is_a_failure_whatever_was_asked_for(
    bundle: Path, dying: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = run.find_candidates
    monkeypatch.setattr(
        run, "find_candidates", lambda *args: [c for c in find(*args) if c.found.precision == "int8"]
    )
    [told] = failures(measured(bundle))
    assert "died while loading" in told


def test_measurements_stay_when_the_report_cannot_be_made(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vl2v_deploy.benchmarking.report import files as report

    def fails(*_: Any) -> None:
        raise BenchmarkError("no ink")

    monkeypatch.setattr(report, "write_report", fails)
    options = ["--seconds", "0.1", "--batch", "1", "--engines", "onnxruntime:fp32", "--threads", "1"]
    result = CliRunner().invoke(cli, ["benchmark", str(bundle), *options, "--out", str(tmp_path)])
    assert result.exit_code == 1 and "no ink" in result.output
    [kept] = tmp_path.iterdir()
    Measurements.model_validate_json(kept.read_text())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "1;8"], "--batch: expected whole numbers such as 1,8,32, got '1;8'"),
        (["--batch", "0"], "batches.0: input should be greater than or equal to 1"),
        (["--threads", "2,2"], "threads: expected different values"),
        (["--utilisation", "1.5"], "utilisation: input should be less than or equal to 1 (got 1.5)"),
        (["--usd-per-hour", "-1"], "usd_per_hour: input should be greater than or equal to 0"),
        (["--machine", "big"], "pass --prices FILE"),
        (["--seconds", "0"], "seconds: input should be greater than 0"),
        (["--engines", "abacus"], "engines: 'abacus'; expected files, all"),
        (["--scenario", "none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_options_that_make_no_sense_are_refused(bundle: Path, options: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, ["benchmark", str(bundle), *options])
    assert result.exit_code == 1 and words in result.output and "Traceback" not in result.output, (
        result.output
    )


def test_options_override_the_scenario_file(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    def asked(path: Path, scenario: Scenario, places: Places, display: Any) -> None:
        raise Asked(scenario, places)

    monkeypatch.setattr(run, "measure_bundle", asked)
    file = tmp_path / "scenario.yaml"
    file.write_text(yaml.safe_dump({"batches": [2, 4], "rounds": 7, "teacher": True, "streams": [1, 3]}))
    options = ["--scenario", str(file), "--batch", "16", "--engines", "all,torch:fp32", "--run", "runs/x"]
    result = CliRunner().invoke(cli, ["benchmark", str(bundle), *options, "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, Asked)
    scenario, places = result.exception.args
    expected = {"batches": (16,), "rounds": 7, "teacher": True, "streams": (1, 3)}
    assert {name: getattr(scenario, name) for name in expected} == expected
    assert scenario.engines == ("all", "torch:fp32") and places.run == Path("runs/x")


def test_out_that_is_a_file_is_refused_before_anything_is_measured(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    result = CliRunner().invoke(cli, ["benchmark", str(bundle), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and "cannot be a report directory" in result.output


def test_teacher_is_scored_on_the_same_images_each_bought_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from vl2v_deploy.models.teacher import load

    def embed_images(batch: list[Image.Image]) -> Any:
        # by its mean colour: (red, green, blue) -> the axes (green, red), the truth even in the target
        means = torch.tensor(np.stack([np.asarray(image).mean((0, 1)) for image in batch])).float()
        return torch.nn.functional.normalize(means, dim=-1)

    text_emb = {"green": [0.0, 1.0, 0.0], "red": [1.0, 0.0, 0.0]}
    teacher: Any = SimpleNamespace(
        identity="colour",
        batch_size=6,
        embedding_dim=3,
        embed_images=embed_images,
        embed_texts=lambda texts: torch.tensor([text_emb[text] for text in texts]),
        logit_scale=None,
        price=None,
    )
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path))
    monkeypatch.setattr(load, "load_teacher", lambda recipe, device: teacher)
    opened, recipe = open_bundle(bundle), load_recipe(bundle / "recipe.yaml")
    images = load_images(opened, recipe, None, skip_bad=False, max_images=10)
    for expected_queries in (26, 0):  # the second time all come from the store
        told = ask_teacher(recipe.teacher, (("green",), ("red",)), 10.0, images.samples, "cpu")
        assert (told.queries, told.identity) == (expected_queries, "colour")
    labels = images.record.domains["sketch"].labels
    assert sum(a == b for a, b in zip(told.predictions["sketch"].labels, labels, strict=True)) == 9
    assert {d: len(p.confidence) for d, p in told.predictions.items()} == {
        "cartoon": 8,
        "photo": 8,
        "sketch": 10,
    }
    assert min(told.predictions["photo"].confidence) > 0.99  # softmax of 10 times the cosines


def test_a_teacher_that_cannot_be_timed_keeps_its_answers_and_says_why(bundle: Path) -> None:
    pytest.importorskip("torch")
    files = "{kind: precomputed, images: i.npz, texts: t.npz}"
    recipe = load_recipe(bundle / "recipe.yaml", [f"teacher={files}"])
    predictions = {"sketch": Predictions(labels=[0], confidence=[1.0])}
    engine = teacher_subject({}, "cpu", predictions, why_not_timed(recipe.teacher)).found
    assert (engine.status, engine.predictions) == ("unavailable", predictions)
    assert engine.reason is not None and engine.reason.startswith(
        "teacher.kind: precomputed: timing it needs"
    )


def test_subsampling_and_relocated_data_are_told(bundle: Path, data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(data)
    opened, recipe = open_bundle(bundle), load_recipe(bundle / "recipe.yaml")
    told = load_images(opened, recipe, moved, skip_bad=False, max_images=6).record
    sketch = told.domains["sketch"]
    assert (len(sketch.names), sketch.of, sorted(set(sketch.labels))) == (6, 40, [0, 1])
    assert Path(told.root) == data.resolve() or Path(told.root) == moved


def test_the_images_that_are_timed_come_in_an_order_that_is_fair_to_slow_engines(bundle: Path) -> None:
    opened, recipe = open_bundle(bundle), load_recipe(bundle / "recipe.yaml")
    images = load_images(opened, recipe, None, skip_bad=False, max_images=None)
    paths = images.timed_paths()
    assert paths == images.timed_paths() and len(set(paths)) == len(paths) == 56
    early = [Path(path).parts[-3] for path in paths[:8]]  # as many as the first domain has
    assert len(set(early)) > 1


def test_data_of_other_classes_are_refused(bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        for name in ("cat", "dog"):
            (tmp_path / domain / name).mkdir(parents=True)
            for number in range(10):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / domain / name / f"{number}.png")
    with pytest.raises(BenchmarkError, match=r"expected the bundle's classes green, red; got cat, dog"):
        measure_bundle(bundle, QUICK, Places(data=tmp_path), Display())


def test_recipes_for_each_target_need_the_manifest_to_name_one(bundle: Path) -> None:
    recipe, opened = load_recipe(bundle / "recipe.yaml", ["data.target=each"]), open_bundle(bundle)
    assert target_of(opened, recipe) == "sketch"
    with pytest.raises(VL2VError, match="which domain was unseen is not known"):
        target_of(replace(opened, manifest=replace(opened.manifest, accuracy=None)), recipe)


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
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "colours"
    shutil.copytree(bundle, copy)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["teacher"]["model"] = f"local-dir:{tiny_teacher}"
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    seal(copy)
    measurements = measured(copy, teacher=True, engines=("onnxruntime:fp32",), seconds=1.0)
    student, teacher = measurements.engines
    assert (teacher.name, teacher.kind, teacher.status) == ("teacher", "teacher", "measured")
    assert (
        measurements.provenance.teacher_queries == 64
    )  # 8 + 8 of the sources, 40 of the target, 4 + 4 validation
    weights = torch.load(tiny_teacher / "open_clip_pytorch_model.bin", weights_only=True)
    # an application embeds the texts once: the text encoder is no part of what it must hold
    assert teacher.model_bytes == sum(w.nbytes for name, w in weights.items() if name.startswith("visual."))
    cells = {
        engine.name: {(c.scope, c.batch, c.threads) for c in engine.cells} for engine in (student, teacher)
    }
    assert cells["onnxruntime:fp32"] == cells["teacher"]
    assert {d: len(p.labels) for d, p in teacher.predictions.items()} == {
        "cartoon": 8,
        "photo": 8,
        "sketch": 40,
    }


@pytest.mark.gpu
def test_onnxruntime_on_a_gpu_answers_as_on_the_cpu_and_is_timed_there(bundle: Path) -> None:
    if reason := problem_with("CUDAExecutionProvider"):
        pytest.skip(reason)
    measurements = measured(bundle, engines=("onnxruntime:fp32@cuda", "onnxruntime:fp32@cpu"), energy=True)
    assert failures(measurements) == []
    gpu, cpu = measurements.engines
    assert gpu.processes[0].provider == "CUDAExecutionProvider"
    assert {d: p.labels for d, p in gpu.predictions.items()} == {
        d: p.labels for d, p in cpu.predictions.items()
    }
    assert {(c.scope, c.batch) for c in gpu.cells} == {(c.scope, c.batch) for c in cpu.cells}
    assert gpu.energy is not None and (gpu.energy.joules is None) == (gpu.energy.reason is not None)


@pytest.mark.parametrize("fresh", [True, False])
def test_engines_are_loaded_twice_only_where_fresh_processes_are_asked_for(
    fresh: bool, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, int]] = []
    start = EngineProcess.__init__

    def counted(self: EngineProcess, spec: EngineSpec, timeout_s: float) -> None:
        started.append((spec.name, int(spec.settings["threads"])))
        start(self, spec, timeout_s)

    monkeypatch.setattr(EngineProcess, "__init__", counted)
    asked = {"threads": (1, 2), "batches": (1,), "single_stream": SingleStream(queries=20, seconds=0.2)}
    found = measured(bundle, fresh_processes=fresh, **asked)
    assert found.scenario.fresh_processes is fresh
    for engine in found.engines:
        threads = [count for name, count in started if name == engine.name]
        assert engine.single_stream is not None and len(engine.single_stream.samples_s) >= 2
        kept = not fresh and engine.single_stream.threads == 2  # the last timed, whose process is still there
        assert threads == ([1, 2] if kept else [1, 2, engine.single_stream.threads])
        assert {process.threads for process in engine.processes} == {1, 2}
