"""The scenarios that come with the project: each loads, names engines that exist, and says what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vl2v_deploy.benchmarking.engine_names import ALL, FILES, parse_engine
from vl2v_deploy.benchmarking.scenario import load_scenario
from vl2v_deploy.errors import BenchmarkError

FOLDER = Path(__file__).parents[2] / "benchmarks" / "scenarios"
SCENARIOS = sorted(FOLDER.glob("*.yaml"))


def test_there_are_those_that_the_readme_promises() -> None:
    assert [path.stem for path in SCENARIOS] == ["cpu_full", "cpu_quick", "gpu_h100"]


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_loads_and_its_engines_exist(path: Path) -> None:
    scenario = load_scenario(path)
    named = [name for name in scenario.engines if name not in (FILES, ALL)]
    engines = [parse_engine(name, scenario.device) for name in named]
    # written as the report will call them, but for a @cpu that a GPU's scenario must say
    assert [str(engine) for engine in engines] == [name.removesuffix("@cpu") for name in named]
    on_gpu = {engine.provider for engine in engines} - {"cpu"}
    assert bool(on_gpu) == (scenario.device == "cuda") == path.stem.startswith("gpu")
    assert scenario.teacher
    assert scenario.roofline
    assert scenario.energy
    assert None not in (scenario.single_stream, scenario.offline, scenario.server)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_field_is_set_once_and_the_file_begins_with_what_it_is_for(path: Path) -> None:
    """YAML takes the second of two equal keys without a word."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"--scenario benchmarks/scenarios/{path.name}" in text
    tops = [line.partition(":")[0] for line in text.splitlines() if line[:1].isalpha()]
    assert tops == list(yaml.safe_load(text))


def test_the_full_one_measures_more_than_the_quick_one() -> None:
    quick, full = (load_scenario(FOLDER / f"cpu_{name}.yaml") for name in ("quick", "full"))
    assert full.seconds > quick.seconds
    assert full.rounds > quick.rounds
    assert set(quick.batches) < set(full.batches)
    assert quick.max_images is not None
    assert full.max_images is None


def test_a_mistake_in_one_names_file_and_field(tmp_path: Path) -> None:
    changed = tmp_path / "mine.yaml"
    text = (FOLDER / "cpu_quick.yaml").read_text(encoding="utf-8")
    changed.write_text(text.replace("rounds:", "round:"), encoding="utf-8")
    with pytest.raises(BenchmarkError, match=r"mine\.yaml: round: unknown field; did you mean 'rounds'"):
        load_scenario(changed)
