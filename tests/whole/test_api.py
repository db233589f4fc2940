"""The Python API: what it takes, refuses early and returns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vl2v_deploy
from vl2v_deploy import api
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.errors import BenchmarkError, ExportError, RunError


def test_the_names_are_functions_whatever_was_imported_before() -> None:
    script = (
        "import sys, vl2v_deploy\n"
        "assert not {'torch', 'onnxruntime', 'pydantic', 'numpy'} & sys.modules.keys()\n"
        "import vl2v_deploy.cli.main, vl2v_deploy.benchmarking.scenario, vl2v_deploy.exporting.options\n"
        "from vl2v_deploy import benchmark, distill, distill_all, export, load_recipe\n"
        "assert all(map(callable, (benchmark, distill, distill_all, export, load_recipe)))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert set(vl2v_deploy.__all__) <= set(dir(vl2v_deploy))


def test_runs_of_several_targets_and_trials_are_not_exported_onto_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vl2v_deploy import client
    from vl2v_deploy.exporting import run as exporting

    monkeypatch.chdir(tmp_path)
    written: list[Path] = []
    monkeypatch.setattr(exporting, "export_run", lambda run, out, *_, **__: written.append(out))
    monkeypatch.setattr(client, "open_bundle", lambda path: SimpleNamespace(path=path))
    for run in ("runs/each/photo/trial-0", "runs/each/sketch/trial-0", tmp_path / "elsewhere/one"):
        api.export(run)
    assert [path.as_posix() for path in written] == [
        "bundles/each-photo-trial-0",
        "bundles/each-sketch-trial-0",
        "bundles/one",
    ]


@pytest.mark.parametrize("scenario", [None, Scenario()], ids=["default", "object"])
@pytest.mark.parametrize("setting", [{"seconds": -3}, {"secnds": 3}, {"engines": "onnxruntime:int8"}])
def test_a_wrong_setting_of_a_benchmark_is_named_before_anything_is_written(
    tmp_path: Path, scenario: Scenario | None, setting: dict[str, Any]
) -> None:
    with pytest.raises(BenchmarkError, match=f"^scenario: {next(iter(setting))}: "):
        api.benchmark("bundles/none", tmp_path / "report", scenario=scenario, **setting)
    assert not (tmp_path / "report").exists()


def test_wrong_arguments_are_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"int9: expected .*did you mean"):
        api.export(tmp_path, precision=("fp32", "int9"))
    with pytest.raises(RunError, match="out: name the run directory"):
        api.distill(vl2v_deploy.load_recipe(Path(__file__).parents[2] / "recipes/quickstart.yaml"))
