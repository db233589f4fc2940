"""The comparison of inference: do all engines do the same work, does the report say what was measured?"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from benchmarks.peers import inference, photographs, same_weights
from benchmarks.peers.inference_profile import Stopwatch, profile_client
from benchmarks.peers.inference_results import (
    COLUMNS,
    FLOOR,
    OURS,
    PARTS,
    PEERS,
    explained,
    rows,
    size_result,
    table,
)
from benchmarks.peers.photographs import source_pictures, write_photographs
from tests.helpers.tiny_bundle import make_bundle
from vl2v_deploy.benchmarking.measure.rounds import Key, Timed
from vl2v_deploy.benchmarking.schema import TimingCell
from vl2v_deploy.errors import BenchmarkError

TORCH, COMPILE, ORT, OPENVINO, BF16 = PEERS
OUR_FP32, OUR_INT8 = f"{OURS}fp32", f"{OURS}int8"
FLOOR_FP32, FLOOR_INT8 = f"{FLOOR}fp32", f"{FLOOR}int8"
MS = {TORCH: 20, COMPILE: 12, ORT: 9, OPENVINO: 10, BF16: 6}
MS |= {OUR_FP32: 8, FLOOR_FP32: 7.5, OUR_INT8: 4.5, FLOOR_INT8: 4.4}
LABELS = [3, 1, 2, 2, 0, 5, 5, 1, 4, 7]


def timed(milliseconds: Mapping[str, float], failures: Mapping[str, str] | None = None) -> dict[str, Timed]:
    """25 samples of each engine, the session taking half the time; those that failed have none."""
    result = {}
    for name, ms in milliseconds.items():
        seconds = {Key("bytes_to_label", 1): 1e-3 * ms, Key("session", 1): 5e-4 * ms}
        cells = {
            key: TimingCell(
                **key._asdict(),
                threads=2,
                warm_up_s=[second],
                steady=True,
                rounds_s=[[second] * 20, [second] * 5],
                wall_s=[1.0, 1.0],
            )
            for key, second in seconds.items()
        }
        facts = {"threads": 2, "provider": "p", "load_s": 0.5, "peak_rss_bytes": 10**8}
        result[name] = Timed(name, facts, cells)
    for name, why in (failures or {}).items():
        result[name] = Timed(name, failure=why)
    return result


def comparison(
    milliseconds: Mapping[str, float] = MS,
    failures: Mapping[str, str] | None = None,
    labels: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    given = dict.fromkeys(milliseconds, LABELS) | dict(labels or {})
    return size_result(timed(milliseconds, failures), given, goal=0.6, goal_over_floor=1.05)


def report_of(result: Mapping[str, Any]) -> dict[str, Any]:
    return {"threads": 2, "models": {"a cnn": {"image_size_px": 224, "sizes": {"640x480": result}}}}


def test_ratios_are_to_the_best_peer_in_fp32() -> None:
    """bfloat16 answers otherwise: it is shown, and is no yardstick."""
    result = comparison()
    assert result["best_fp32_peer"] == ORT
    assert result["ratio_to_best_fp32_peer"] == pytest.approx({name: ms / 9 for name, ms in MS.items()})
    assert result["fastest_of_ours"] == OUR_INT8
    assert result["goal"] == {"at_most": 0.6, "reached": pytest.approx(0.5), "met": True}
    assert result["ours_over_floor"] == pytest.approx({OUR_FP32: 8 / 7.5, OUR_INT8: 4.5 / 4.4})
    assert result["goal_over_floor"] == {"at_most": 1.05, "met": False}
    assert result["engines"][TORCH]["session_mean_ms"] == pytest.approx(10)


def test_what_the_report_says_in_words() -> None:
    first, second, third = explained(report_of(comparison()))
    assert first == (
        f"a cnn, 640x480: {OUR_INT8} takes 0.50 of the time of the best fp32 peer, {ORT}; "
        "the goal of 0.6 is met"
    )
    assert second.endswith(
        f"{OUR_FP32} takes 1.067 of decode + resize + session.run; the goal of 1.05 is not met"
    )
    assert third.endswith("takes 1.023 of decode + resize + session.run; the goal of 1.05 is met")
    slow = explained(report_of(comparison(MS | {OUR_INT8: 7})))
    assert "takes 0.78 of the time" in slow[0]
    assert "the goal of 0.6 is not met" in slow[0]


def test_a_peer_that_cannot_run_says_why_and_the_others_stand() -> None:
    why = "engine 'torch.compile': needs a C++ compiler"
    result = comparison({name: ms for name, ms in MS.items() if name != COMPILE}, {COMPILE: why})
    assert result["best_fp32_peer"] == ORT
    by_name = {cells[0]: cells for cells in rows(result)}
    assert by_name[COMPILE] == (COMPILE, "failed", "", "", "")
    assert by_name[OUR_INT8] == (OUR_INT8, "4.50", "0.50", "2.25", "100 %")
    lines = explained(report_of(result))
    assert lines[-1] == f"a cnn, 640x480: {COMPILE} failed: {why}"
    assert not [line for line in lines if line.startswith("WRONG")]


def test_a_failure_of_ours_is_an_error() -> None:
    others = {name: ms for name, ms in MS.items() if name != OUR_INT8}
    [wrong] = [
        line
        for line in explained(report_of(comparison(others, {OUR_INT8: "it died"})))
        if line.startswith("WRONG")
    ]
    assert wrong == f"WRONG: a cnn, 640x480: {OUR_INT8} failed: it died"


@pytest.mark.parametrize(
    ("name", "labels", "found"),
    [
        (ORT, [*LABELS[:-1], 9], None),  # one of ten: a tie, as it may be
        (ORT, [9, 9, *LABELS[2:]], f"{ORT} and {TORCH} agree on 80 % of the labels only"),
        (BF16, [9] * 10, None),
        (OUR_FP32, [9] * 10, f"{OUR_FP32} and its floor differ in labels: they do not do the same work"),
    ],
)
def test_labels_that_should_be_the_same(name: str, labels: list[int], found: str | None) -> None:
    lines = explained(report_of(comparison(labels={name: labels})))
    wrong = [line for line in lines if line.startswith("WRONG")]
    assert wrong == ([] if found is None else [f"WRONG: a cnn, 640x480: {found}"])


def test_the_table_shows_every_engine() -> None:
    console = Console(file=StringIO(), width=140)
    console.print(table(report_of(comparison()), "a cnn", "640x480"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(name in shown for name in (*MS, *COLUMNS))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures, no photographs: the package's own are fetched from PyPI."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(4):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        paths.append(folder / f"{number}.png")
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def test_photographs_are_as_asked_and_the_same_again(pictures: list[Path], tmp_path: Path) -> None:
    first = write_photographs(pictures, tmp_path / "a", (160, 120), 6, seed=1)
    again = write_photographs(pictures, tmp_path / "b", (160, 120), 6, seed=1)
    other = write_photographs(pictures, tmp_path / "c", (160, 120), 6, seed=2)
    encoded = [path.read_bytes() for path in first]
    assert encoded == [path.read_bytes() for path in again]
    assert len({*encoded, *(path.read_bytes() for path in other)}) == 12
    with Image.open(first[0]) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (160, 120), "RGB")
        # luma twice as dense as chroma, both ways: 4:2:0
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]


def test_pictures_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "PACKAGES", {"scikit-image": "0.0.0"})
    for name, value in {"UV_OFFLINE": "1", "PIP_NO_INDEX": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BenchmarkError, match=r"scikit-image==0\.0\.0, which hold them, could not be fetched"):
        source_pictures(tmp_path)


def test_pictures_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(folder: Path) -> None:
        fetched.append(folder)
        for name in photographs.PICTURES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)

    monkeypatch.setattr(photographs, "_fetch", fetch)
    first = source_pictures(tmp_path)
    assert [path.read_text() for path in first] == list(photographs.PICTURES)
    assert source_pictures(tmp_path) == first
    assert len(fetched) == 1
    assert not fetched[0].exists()


def test_inner_time_counts_for_the_inner_part() -> None:
    class Outer:
        def work(self) -> str:
            time.sleep(0.02)
            return Inner().work()

    class Base:
        def work(self) -> str:
            time.sleep(0.05)
            return "done"

    class Inner(Base):
        pass

    watch = Stopwatch()
    start = time.perf_counter()
    with watch.on(Outer, "work", "outer"), watch.on(Inner, "work", "inner"):
        assert Outer().work() == "done"
    whole = time.perf_counter() - start
    assert watch.seconds["inner"] >= 0.05
    assert watch.seconds["outer"] >= 0.02
    assert sum(watch.seconds.values()) <= whole
    before = dict(watch.seconds)
    Outer().work()
    assert watch.seconds == before  # nothing stays behind
    assert "work" not in vars(Inner)


def test_the_profile_adds_up(tmp_path: Path, pictures: list[Path]) -> None:
    bundle = make_bundle(tmp_path)
    photos = write_photographs(pictures, tmp_path / "photos", (640, 480), 3, seed=0)
    profile = profile_client(bundle, "fp32", photos, threads=1, timeout_s=120)
    assert profile["calls"] == 15
    assert all(profile[f"{part}_ms"] > 0 for part in PARTS)
    # medians of parts, so only about; a JPEG of 640 x 480 takes longer to decode than a tiny net to run
    assert sum(profile[f"{part}_ms"] for part in PARTS) == pytest.approx(profile["total_ms"], rel=0.5)
    assert profile["decode_ms"] > 0.1 * profile["total_ms"]


@pytest.mark.long
def test_a_whole_comparison(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """timm's smallest net in every form, through the command, on a machine without a compiler."""
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(inference, "source_pictures", lambda _: pictures)
    monkeypatch.setattr(inference, "GOALS", {"test_vit": 1e9})
    monkeypatch.setattr(inference, "CNN", "test_vit")
    monkeypatch.setattr(inference, "SMALL", (160, 120))
    monkeypatch.setattr(inference, "QUICK_SECONDS", 0.5)
    monkeypatch.setattr(inference, "QUICK_ROUNDS", 2)
    command = inspect.unwrap(inference.main.callback)  # type: ignore[arg-type]
    out = tmp_path / "result.json"
    command(quick=True, photos=6, threads=1, names=("test_vit",), profiled=True, out=out)

    report = json.loads(out.read_text())
    model = report["models"]["test_vit"]
    assert model["weights"].startswith("random")
    result = model["sizes"]["160x120"]
    engines = result["engines"]
    assert engines.keys() == MS.keys()
    assert "does not work here (it needs a C++ compiler)" in engines.pop(COMPILE)["failure"]
    assert {name: engine["failure"] for name, engine in engines.items() if engine["failure"]} == {}
    labels = {name: engine["labels"] for name, engine in engines.items()}
    assert labels[TORCH] == labels[ORT] == labels[OPENVINO]
    assert labels[OUR_FP32] == labels[FLOOR_FP32]
    assert labels[OUR_INT8] == labels[FLOOR_INT8]
    assert all(engine["p50_ms"] > 0 and engine["session_mean_ms"] > 0 for engine in engines.values())
    assert engines[OPENVINO]["provider"].endswith("f32")
    assert result["goal"]["met"]
    assert result["profile"].keys() == {"fp32", "int8"}
    shown = capsys.readouterr().out
    assert all(name in shown for name in engines)
    assert f"Written to {out}" in shown


@pytest.mark.slow
def test_a_student_that_is_another_one_is_caught(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_photographs(pictures, tmp_path / "photos", (160, 120), 6, seed=1)
    model, _ = same_weights.timm_model("test_vit")
    run = same_weights._run_of("test_vit", model, 160)
    run.student.mean += 5.0  # of 255
    monkeypatch.setattr(same_weights, "_run_of", lambda *_: run)
    with pytest.raises(BenchmarkError, match="these are not the same weights"):
        same_weights.write_bundle("test_vit", model, 160, photos, tmp_path / "bundle", lambda _: None)
