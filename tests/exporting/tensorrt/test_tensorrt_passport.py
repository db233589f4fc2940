"""Passports of engines: pure reading and deciding, for machines and libraries that are not here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.manifests import LINUX, made_up_file, made_up_passport
from vl2v_deploy.client.passport import Passport
from vl2v_deploy.client.typed_json import to_json
from vl2v_deploy.errors import BundleError, MissingExtra, ParityError, ProviderError
from vl2v_deploy.exporting.tensorrt.passport import (
    Here,
    mark_unusable,
    passport_path,
    read_passport,
    record_parity,
    require_runnable,
    write_passport,
)

PARITY = made_up_file("student.onnx").parity
HERE = Here("tensorrt", "10.16", "8.6", "NVIDIA A10", LINUX)
RTX_HERE = Here("tensorrt_rtx", "1.7.1.116", "8.9", "NVIDIA L4", LINUX)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "student.fp16.plan"
    path.write_bytes(b"an engine")
    write_passport(path, made_up_passport(path))
    return path


def passport(**changed: Any) -> Passport:
    return made_up_passport("student.fp16.plan", **changed)


def rtx_passport() -> Passport:
    return passport(
        flavour="tensorrt_rtx", version="1.7.1.116", gpu=None, compute_capabilities=("8.6", "8.9")
    )


def text(**changed: Any) -> str:
    """A passport's JSON, with wrong values too."""
    return json.dumps(to_json(passport()) | changed)


def refusal(made: Passport, here: Here) -> str:
    with pytest.raises(ProviderError) as raised:
        require_runnable(made, here)
    message = str(raised.value)
    assert "\n" not in message and message.startswith("student.fp16.plan: ")
    return message


def test_reads_back_what_was_written(plan: Path) -> None:
    assert read_passport(plan) == made_up_passport(plan)
    assert passport_path(plan).name == "student.fp16.plan.json"
    require_runnable(read_passport(plan), HERE)


def test_the_refusal_says_what_it_was_built_for_what_is_here_and_how_to_mend_it() -> None:
    assert refusal(
        passport(), replace(HERE, version="11.4", compute_capability="9.0", gpu="NVIDIA H100")
    ) == (
        "student.fp16.plan: built for TensorRT 10.16 / SM86, here TensorRT 11.4 / SM90: "
        "rebuild with: vl2v-deploy export RUN --trt"
    )


@pytest.mark.parametrize("version", ["10.16.1", "10.17", "10.9", "11.0", "9.0"])
def test_a_plain_engine_runs_on_its_version_and_no_other(version: str) -> None:
    assert f"here TensorRT {version} / SM86" in refusal(passport(), replace(HERE, version=version))


@pytest.mark.parametrize(
    ("version", "runs"),
    [("10.16", True), ("10.16.1", True), ("11.1", True), ("10.9.9", False), ("9.9", False)],
)
def test_a_version_compatible_engine_runs_on_later_versions(version: str, runs: bool) -> None:
    made, here = passport(version_compatible=True), replace(HERE, version=version)
    if runs:
        require_runnable(made, here)
    else:
        assert "built for TensorRT 10.16 or later / SM86" in refusal(made, here)


@pytest.mark.parametrize(
    ("level", "capability", "gpu", "runs"),
    [
        ("none", "8.6", "NVIDIA A10", True),
        ("none", "8.6", "NVIDIA RTX A6000", False),
        ("none", "8.9", "NVIDIA L4", False),
        ("same-capability", "8.6", "NVIDIA RTX A6000", True),
        ("same-capability", "8.9", "NVIDIA L4", False),
        ("ampere-plus", "8.0", "NVIDIA A100", True),
        ("ampere-plus", "12.0", "NVIDIA RTX 5090", True),
        ("ampere-plus", "10.0", "NVIDIA B200", True),
        ("ampere-plus", "7.5", "NVIDIA T4", False),
    ],
)
def test_hardware_compatibility_decides_which_gpus(level: str, capability: str, gpu: str, runs: bool) -> None:
    made, here = passport(hardware_compatible=level), replace(HERE, compute_capability=capability, gpu=gpu)
    if runs:
        require_runnable(made, here)
        return
    message = refusal(made, here)
    assert f"here TensorRT 10.16 / SM{capability.replace('.', '')}" in message
    assert ("SM80 or later" in message) == (level == "ampere-plus")


def test_another_model_of_gpu_is_named_with_the_option_that_serves_both() -> None:
    message = refusal(passport(), replace(HERE, gpu="NVIDIA RTX A6000"))
    assert "SM86, NVIDIA A10, here" in message and "NVIDIA RTX A6000" in message
    assert "--hardware-compatible same-capability" in message


@pytest.mark.parametrize(
    ("capability", "version", "runs"),
    [
        ("8.6", "1.7.1.116", True),
        ("8.9", "1.7.1.116", True),
        ("12.0", "1.7.1.116", False),
        ("8.6", "1.8.0.1", False),
        ("8.6", "1.7.0.9", False),
    ],
)
def test_an_rtx_engine_runs_on_each_of_its_capabilities_and_one_version(
    capability: str, version: str, runs: bool
) -> None:
    here = replace(RTX_HERE, compute_capability=capability, version=version, gpu="anything")
    if runs:
        require_runnable(rtx_passport(), here)
        return
    message = refusal(rtx_passport(), here)
    assert "built for TensorRT-RTX 1.7.1.116 / SM86, SM89, here TensorRT-RTX" in message
    assert message.endswith(f"rebuild with: vl2v-deploy export RUN --rtx --compute-capability {capability}")


def test_engines_and_operating_systems() -> None:
    windows = "windows-amd64"
    assert "SM86, linux-x86_64, here TensorRT 10.16 / SM86, windows-amd64" in refusal(
        passport(), replace(HERE, platform=windows)
    )
    require_runnable(rtx_passport(), replace(RTX_HERE, platform=windows))


def test_without_library_or_gpu_the_message_says_which() -> None:
    with pytest.raises(MissingExtra, match=r"tensorrt is not installed.*\[trt\].*needs version 10\.16"):
        require_runnable(passport(), replace(HERE, version=None))
    with pytest.raises(MissingExtra, match=r"vl2v-deploy\[rtx\]"):
        require_runnable(rtx_passport(), replace(RTX_HERE, version=None))
    assert "needs an NVIDIA GPU" in refusal(passport(), replace(HERE, compute_capability=None, gpu=None))
    assert "is a TensorRT engine, not one of TensorRT-RTX" in refusal(passport(), RTX_HERE)


def test_an_engine_marked_unusable_stays_and_is_never_run(plan: Path) -> None:
    mark_unusable(plan, "student.fp16.plan: disagrees with the torch student at batch 64")
    assert plan.read_bytes() == b"an engine"
    made = read_passport(plan)
    assert (made.usable, made.parity) == (False, None)
    with pytest.raises(ParityError, match=r"marked unusable: .* at batch 64; rebuild with: .*--trt"):
        require_runnable(made, HERE)


def test_parity_that_was_run_stands_in_the_passport(plan: Path) -> None:
    before, parity = read_passport(plan), replace(PARITY, batch_sizes=(1, 8, 64))
    record_parity(plan, parity)
    made = read_passport(plan)
    assert made == replace(before, usable=True, parity=parity, parity_note=None)
    require_runnable(made, HERE)


def test_a_passport_is_never_half_written(plan: Path) -> None:
    """Numbers that are no JSON fail before the old passport is touched."""
    before = passport_path(plan).read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        record_parity(plan, replace(PARITY, max_logit_error=float("nan")))
    assert passport_path(plan).read_bytes() == before


def test_changed_or_missing_files_are_refused(plan: Path) -> None:
    plan.write_bytes(b"another engine")
    with pytest.raises(BundleError, match=r"is not the file that student\.fp16\.plan\.json describes.*--trt"):
        read_passport(plan)
    plan.unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        read_passport(plan)
    passport_path(plan).unlink()
    with pytest.raises(BundleError, match=r"json: missing: "):
        read_passport(plan)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("\xff", "cannot be read"),
        ("[1]", "expected an object"),
        ("{}", "of format None, this version reads format 1: export the run again"),
        (text(format=2), "of format 2, this version reads format 1: update vl2v-deploy"),
        (text(format=True), "of format True"),
        (text(flavour="tensorflow"), "flavour: expected one of tensorrt, tensorrt_rtx, got 'tensorflow'"),
        (text(compute_capabilities="8.6"), "compute_capabilities: expected a list, got '8.6'"),
        (text(compute_capabilities=[8.6]), r"compute_capabilities\[0\]: expected a string, got 8\.6"),
        (text(profile={"min": 1, "opt": 8}), r"profile\.max: is missing"),
        (text(hardware_compatible="all"), "hardware_compatible: expected one of none"),
        (text(usable="yes"), "usable: expected true or false, got 'yes'"),
    ],
)
def test_a_damaged_passport_is_refused_with_its_field(plan: Path, written: str, said: str) -> None:
    passport_path(plan).write_bytes(written.encode("latin-1"))
    with pytest.raises(BundleError, match=said) as raised:
        read_passport(plan)
    assert str(raised.value).startswith(str(passport_path(plan)))
