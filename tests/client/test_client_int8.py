"""int8 in the client: when it is chosen, and files whose sums are not proven to saturate nowhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.tiny_bundle import add_precision, change_manifest, make_bundle
from vl2v_deploy.client import Student, cpu, session
from vl2v_deploy.client.bundle import GOLDEN, open_bundle
from vl2v_deploy.client.session import EXACT_SUMS, choose_precision
from vl2v_deploy.errors import BundleError
from vl2v_deploy.exporting.finished.verification import verify_bundle

CPU = "CPUExecutionProvider"
OPTION = "session.x64quantprecision"
MAY_SATURATE = "layers_that_may_saturate"  # a key of the manifest


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny student in fp32 and int8."""
    made = make_bundle(tmp_path_factory.mktemp("int8"))
    add_precision(made, "int8")
    return made


@pytest.fixture
def older(bundle: Path, tmp_path: Path) -> Path:
    """The same, as export wrote it before it proved anything of the weights."""
    copy = Path(shutil.copytree(bundle, tmp_path / "older"))
    change_manifest(copy, lambda manifest: manifest["precisions"]["int8"].pop("weights"))
    return copy


@pytest.fixture
def on_processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Let the processor have this instruction, or none that is known; of x86."""

    def has(instruction: str | None) -> None:
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        for module in (cpu, session):
            monkeypatch.setattr(module, "int8_instruction", lambda: instruction)

    return has


def is_exact(student: Student) -> bool:
    try:
        return bool(student._session.get_session_options().get_session_config_entry(OPTION) == "1")
    except RuntimeError:  # the option was not set
        return False


@pytest.mark.parametrize(
    ("instruction", "proven", "expected"),
    [
        ("avx512_vnni", True, "int8"),
        ("avx512_vnni", False, "int8"),  # sums are exact there
        ("avx2", True, "int8"),
        ("avx2", False, "fp32"),
        (None, True, "fp32"),
        (None, False, "fp32"),
    ],
)
def test_auto_takes_int8_where_it_is_faster_and_right(
    instruction: str | None, proven: bool, expected: str, on_processor: Callable[[str | None], None]
) -> None:
    on_processor(instruction)
    chosen, why = choose_precision(("fp32", "int8"), CPU, proven=proven)
    assert chosen == expected and why.startswith(f"{expected}: ")
    assert ("saturate" in why) == (instruction == "avx2" and not proven)


def test_every_instruction_that_auto_takes_has_a_reason() -> None:
    measured = [figures for figures in cpu.FASTER_IN_INT8.values() if figures is not None]
    assert len(measured) >= 2 and min(map(min, measured)) > 1
    assert set(cpu.VNNI) < set(cpu.FASTER_IN_INT8)


@pytest.mark.parametrize(
    ("machine", "instruction", "expected"),
    [
        ("x86_64", "avx512_vnni", False),
        ("AMD64", "avx_vnni", False),
        ("x86_64", "avx2", True),
        ("AMD64", None, True),  # Windows does not tell of VNNI
        ("aarch64", "asimddp", False),
        ("arm64", None, False),
    ],
)
def test_which_processors_may_saturate(
    machine: str, instruction: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(cpu, "int8_instruction", lambda: instruction)
    assert cpu.may_saturate_int8() == expected


def test_a_proven_file_runs_as_it_is(bundle: Path, on_processor: Callable[[str | None], None]) -> None:
    on_processor("avx2")
    assert not open_bundle(bundle).may_saturate("int8") and not open_bundle(bundle).may_saturate("fp32")
    with Student.load(bundle, precision="int8", threads=1) as student:
        assert not is_exact(student) and student.runtime.why == "as asked for"
    with Student.load(bundle) as student:
        assert student.precision == "int8" and "avx2" in student.runtime.why


def test_an_older_file_is_summed_exactly_where_it_would_saturate(
    older: Path, on_processor: Callable[[str | None], None]
) -> None:
    on_processor("avx2")
    with Student.load(older, precision="int8", threads=1) as student:
        assert is_exact(student)
        assert student.runtime.why == f"as asked for; student.int8.onnx: {EXACT_SUMS}"
    with Student.load(older) as student:
        assert student.precision == "fp32" and "saturate" in student.runtime.why
    with Student.load(older, precision="fp32", threads=1) as student:
        assert not is_exact(student) and student.runtime.why == "as asked for"
    on_processor("avx_vnni")
    with Student.load(older, precision="int8", threads=1) as student:
        assert not is_exact(student) and student.runtime.why == "as asked for"


@pytest.mark.parametrize("layers", [{}, {MAY_SATURATE: None}, {MAY_SATURATE: ["conv"]}])
def test_only_an_empty_list_proves_anything(layers: dict[str, Any], older: Path) -> None:
    weights = {"rule": "pairwise"} | layers
    change_manifest(older, lambda manifest: manifest["precisions"]["int8"].update(weights=weights))
    assert open_bundle(older).may_saturate("int8")


@pytest.mark.parametrize("weights", ["proven", [], {}, {"rule": "pairwise", MAY_SATURATE: "none"}])
def test_malformed_weights_are_refused(weights: Any, older: Path) -> None:
    change_manifest(older, lambda manifest: manifest["precisions"]["int8"].update(weights=weights))
    with pytest.raises(BundleError, match=r"precisions\.int8\.weights"):
        open_bundle(older)


def test_verify_names_the_likely_cause(bundle: Path, older: Path, tmp_path: Path) -> None:
    """Golden answers that saturated where they were recorded."""
    proven = Path(shutil.copytree(bundle, tmp_path / "proven"))
    for folder in (older, proven):
        with np.load(folder / GOLDEN, allow_pickle=False) as stored:
            golden = dict(stored)
        golden["logits_int8"] = golden["logits_int8"][:, ::-1] + 50
        np.savez(folder / GOLDEN, allow_pickle=False, **golden)
        change_manifest(folder, lambda manifest: None)  # checksums
    found = {folder: Student.load(folder, precision="int8").verify() for folder in (older, proven)}
    assert not any(verification.passed for verification in found.values())
    assert "without VNNI" in found[older].problems[-1] and "export the run again" in found[older].problems[-1]
    assert "VNNI" not in "".join(found[proven].problems)
    by_file = {check.what: check for check in verify_bundle(open_bundle(older))}
    assert by_file["student.int8.onnx"].outcome == "wrong"
    assert "without VNNI" in by_file["student.int8.onnx"].details


def test_verify_says_of_an_older_file_that_it_is_not_proven(older: Path, bundle: Path) -> None:
    [check] = [check for check in verify_bundle(open_bundle(older)) if check.what == "student.int8.onnx"]
    assert check.outcome == "ok" and "without VNNI" in check.details
    [check] = [check for check in verify_bundle(open_bundle(bundle)) if check.what == "student.int8.onnx"]
    assert check.outcome == "ok" and "VNNI" not in check.details
