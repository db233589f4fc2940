"""Which engines a scenario means: names, what a bundle holds, what a machine has, whose run it was."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.colour_bundle import RIGHT, make_colour_bundle, make_data
from tests.helpers.manifests import made_up_passport
from tests.helpers.tiny_bundle import make_bundle, make_run
from vl2v_deploy.benchmarking.engine_names import PROVIDERS, parse_engine
from vl2v_deploy.benchmarking.measure import candidates
from vl2v_deploy.benchmarking.measure.candidates import find_candidates
from vl2v_deploy.benchmarking.measure.display import Display
from vl2v_deploy.benchmarking.measure.processes import EngineProcess
from vl2v_deploy.benchmarking.measure.subject import Subject
from vl2v_deploy.benchmarking.run import Places, failures, measure_bundle
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.client import Bundle, open_bundle
from vl2v_deploy.client.bundle import PRECISIONS
from vl2v_deploy.errors import BenchmarkError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("colours")
    data = make_data(folder / "data")
    others = {"fp16": RIGHT, "int8": RIGHT, "int8-symmetric": RIGHT}
    return open_bundle(make_colour_bundle(folder / "bundle", data, **others))


def found(bundle: Bundle, tmp_path: Path, *engines: str, **changes: Any) -> dict[str, Subject]:
    scenario = Scenario(engines=engines, **changes)
    return {subject.name: subject for subject in find_candidates(bundle, scenario, None, tmp_path / "runs")}


def test_every_engine_has_one_name_that_means_it() -> None:
    for runtime, providers in PROVIDERS.items():
        for precision in ("fp32",) if runtime == "torch" else PRECISIONS:
            for provider in providers:
                name = parse_engine(f"{runtime}:{precision}@{provider}")
                assert (name.runtime, name.precision, name.provider) == (runtime, precision, provider)
                assert parse_engine(str(name)) == name


def test_a_device_is_where_engines_compute_that_do_not_say(bundle: Bundle, tmp_path: Path) -> None:
    assert str(parse_engine("onnxruntime:fp16", "cuda")) == "onnxruntime:fp16@cuda"
    assert str(parse_engine("onnxruntime:fp16@cpu", "cuda")) == "onnxruntime:fp16"
    assert str(parse_engine("tensorrt:fp16", "cpu")) == "tensorrt:fp16"
    assert set(found(bundle, tmp_path, "files", device="cuda")) == {
        f"onnxruntime:{precision}@cuda" for precision in PRECISIONS
    }


def test_files_are_the_bundles_files_in_onnxruntime(bundle: Bundle, tmp_path: Path) -> None:
    engines = found(bundle, tmp_path, "files")
    assert list(engines) == [f"onnxruntime:{precision}" for precision in PRECISIONS]
    for precision, candidate in zip(PRECISIONS, engines.values(), strict=True):
        assert candidate.found.reason is None and candidate.file == bundle.onnx_of(precision)


def test_all_is_everything_and_each_engine_comes_once(bundle: Bundle, tmp_path: Path) -> None:
    engines = found(bundle, tmp_path, "openvino:int8", "all", "files")
    assert next(iter(engines)) == "openvino:int8"
    runtimes = {candidate.found.runtime for candidate in engines.values()}
    assert runtimes == set(PROVIDERS)
    # asymmetric int8 is refused by TensorRT, and neither int8 has kernels on CUDA
    assert "onnxruntime:int8@tensorrt" not in engines and "onnxruntime:int8@cuda" not in engines
    assert "onnxruntime:int8-symmetric@tensorrt" in engines


def test_a_missing_runtime_is_told_with_the_pip_command(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates.importlib.util, "find_spec", lambda name: None)
    reasons = {name: str(c.found.reason) for name, c in found(bundle, tmp_path, "all").items()}
    assert reasons["openvino:fp32"] == "openvino is not installed; run: pip install 'vl2v-deploy[openvino]'"
    assert reasons["torch:fp32"] == "torch is not installed; run: pip install 'vl2v-deploy[train]'"
    assert reasons["onnxruntime:fp32"] == "onnxruntime is not installed; run: pip install 'vl2v-deploy[cpu]'"
    with pytest.raises(BenchmarkError, match=r"engines: openvino:int8: openvino is not installed"):
        found(bundle, tmp_path, "openvino:int8")


def plans(bundle: Bundle, reasons: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The bundle with engines, each of which runs here or has a reason not to."""
    from vl2v_deploy.exporting.tensorrt import engines

    passports = {
        name: made_up_passport(
            name, flavour="tensorrt_rtx" if "rtx" in name else "tensorrt", precision=name.split(".")[1]
        )
        for name in reasons
    }
    for name in reasons:
        (bundle.path / name).write_bytes(b"plan")
    monkeypatch.setattr(engines, "not_runnable_here", lambda plan: reasons[plan.name])
    return replace(bundle, manifest=replace(bundle.manifest, engines=passports))


def test_of_several_plans_the_one_that_runs_here_is_taken(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = {
        "student.fp16.rtx-sm86.plan": "built for SM86, here SM90",
        "student.fp16.rtx-sm90.plan": None,
        "student.int8.plan": "needs an NVIDIA GPU",
    }
    engines = found(plans(bundle, reasons, monkeypatch), tmp_path, "all")
    rtx, trt = engines["tensorrt-rtx:fp16"], engines["tensorrt:int8"]
    assert rtx.found.reason is None and rtx.file is not None and rtx.file.name == "student.fp16.rtx-sm90.plan"
    assert trt.found.reason == "needs an NVIDIA GPU" and "tensorrt:fp16" not in engines


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/tiny and its bundle bundles/tiny; runs/tiny1 is of another seed."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("tiny")
    make_bundle(folder)
    make_run(folder, "seed=1")
    return folder


@pytest.mark.slow
def test_the_run_of_a_bundle_is_found_and_gives_the_bundles_answers(workplace: Path) -> None:
    scenario = Scenario(
        engines=("torch:fp32", "onnxruntime:fp32"), seconds=0.2, rounds=2, batches=(1, 3), threads=(1, 2)
    )
    places = Places(runs=workplace / "runs")
    measurements = measure_bundle(workplace / "bundles" / "tiny", scenario, places, Display())
    assert failures(measurements) == []
    torch, onnx = measurements.engines
    assert [process.threads for process in torch.processes] == [1, 2]
    assert torch.processes[0].provider == "torch cpu" and (torch.model_bytes or 0) > 1000
    assert {(c.scope, c.batch, c.threads) for c in torch.cells} == {
        (c.scope, c.batch, c.threads) for c in onnx.cells
    }
    for domain, answers in torch.predictions.items():
        assert answers.labels == onnx.predictions[domain].labels
        apart = np.abs(np.array(answers.confidence) - np.array(onnx.predictions[domain].confidence))
        assert apart.max() < 2e-3


@pytest.mark.slow
def test_another_run_is_neither_found_nor_believed(workplace: Path, tmp_path: Path) -> None:
    bundle = open_bundle(workplace / "bundles" / "tiny")
    only_other = tmp_path / "runs"
    shutil.copytree(workplace / "runs" / "tiny1", only_other / "tiny1")
    with pytest.raises(BenchmarkError, match=r"is not under .*runs; name its directory with --run"):
        find_candidates(bundle, Scenario(engines=("torch:fp32",)), None, only_other)
    # ... and when it is named all the same, its answers to the golden samples give it away
    [candidate] = find_candidates(bundle, Scenario(engines=("torch:fp32",)), only_other / "tiny1", only_other)
    spec = candidate.spec(1, [])
    with (
        pytest.raises(BenchmarkError, match=r"is not the student that .* was made from"),
        EngineProcess(spec, 120),
    ):
        pass


@pytest.mark.slow
def test_the_newest_of_equal_runs_is_taken_and_unfinished_ones_are_not(
    workplace: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(workplace / "bundles" / "tiny")
    runs = tmp_path / "runs"
    for name, age in (("old", 100), ("each/new", 50), ("newest.partial", 0)):
        shutil.copytree(workplace / "runs" / "tiny", runs / name)
        record = runs / name / "run.json"
        os.utime(record, (record.stat().st_mtime - age,) * 2)
    (runs / "damaged").mkdir()
    (runs / "damaged" / "run.json").write_text("{")  # the newest of all
    [candidate] = find_candidates(bundle, Scenario(engines=("torch:fp32",)), None, runs)
    assert candidate.settings["run"] == str((runs / "each" / "new").resolve())
    newer = runs / "each" / "new" / "run.json"
    told = json.loads(newer.read_text())
    for change in (
        {"seed": 9},
        {"recipe_sha256": "other"},
        {"data": told["data"] | {"fingerprint": "other"}},
    ):
        newer.write_text(json.dumps(told | change))
        [candidate] = find_candidates(bundle, Scenario(engines=("torch:fp32",)), None, runs)
        assert candidate.settings["run"] == str((runs / "old").resolve()), change
