"""`vl2v-deploy doctor`: processor, threads, folders, hub and variables, and the report as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.helpers.read_only import read_only
from vl2v_deploy.client.typed_json import from_json
from vl2v_deploy.doctor import places, processor
from vl2v_deploy.doctor.environment import check_environment, findings_of
from vl2v_deploy.doctor.findings import FORMAT, Finding, Report, tree_of
from vl2v_deploy.doctor.network import check_hub
from vl2v_deploy.doctor.pillow import check_pillow
from vl2v_deploy.doctor.places import folder_finding, size_of
from vl2v_deploy.doctor.processor import check_processor, check_threads, spinning
from vl2v_deploy.doctor.render import lines_of
from vl2v_deploy.doctor.run import examine

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("instruction", "saturates", "level", "words"),
    [
        ("avx512_vnni", False, "ok", "1.5 to 2.0 times as fast as fp32"),
        ("avx2", True, "ok", "Without VNNI sums of 8-bit products may saturate"),
        ("avx_vnni", False, "ok", "how much was not measured"),
        (None, False, "note", "precision auto takes fp32"),
    ],
)
def test_what_a_processor_means_for_int8(
    instruction: str | None, saturates: bool, level: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vl2v_deploy.client.cpu.int8_instruction", lambda: instruction)
    monkeypatch.setattr("vl2v_deploy.client.cpu.may_saturate_int8", lambda: saturates)
    *_, found = check_processor()
    assert found.check == "int8" and found.level == level and words in found.what
    assert ("saturate" in found.what) == saturates


def test_features_are_read_from_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: A Chip\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n\nflags\t: none\n")
    monkeypatch.setattr(processor, "CPUINFO", file)
    first = next(check_processor())
    assert first.what == "A Chip: avx2, avx512_vnni, amx_int8"


def test_openmp_that_spins_on_a_busy_machine() -> None:
    [found] = spinning(2, 7.5, {"OMP_WAIT_POLICY": "passive"}, has_torch=True)
    assert found.level == "warning" and found.fix == "start commands with GOMP_SPINCOUNT=0"
    [found] = spinning(2, 2.0, {}, has_torch=True)
    assert found.fix == "start commands with OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0"
    assert not list(spinning(8, 7.5, {}, has_torch=True))
    assert not list(spinning(2, 7.5, {}, has_torch=False))
    set_right = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    assert not list(spinning(2, 7.5, set_right, has_torch=True))


def test_a_number_of_threads_that_is_none_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_INTRA_OP_NUM_THREADS", "many")
    [found] = check_threads()
    assert found.level == "broken" and "ORT_INTRA_OP_NUM_THREADS=many" in found.what


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VL2V_DEPLOY_CAHCE", "OPENAI_API_KEY", "HF_SECRET"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRET}@proxy:3128")
    monkeypatch.setenv("HF_ENDPOINT", f"https://{SECRET}@hub.example")
    report = examine((check_environment,))
    text = json.dumps(tree_of(report)) + "\n".join(lines_of(report))
    assert SECRET not in text
    for part in ("HF_TOKEN=(set; not shown)", "http://***@proxy:3128", "https://***@hub.example"):
        assert part in text
    [warned] = [found for found in report.findings if "CAHCE" in found.what]
    assert warned.level == "warning" and "did you mean 'VL2V_DEPLOY_CACHE'" in warned.what


def test_variables_that_do_harm() -> None:
    found = list(findings_of({"PYTHONDONTWRITEBYTECODE": "1", "HOME": "/x", "HF_HUB_OFFLINE": ""}))
    assert [(one.level, one.fix) for one in found] == [
        *(("note", ""), ("note", "")),
        ("warning", "unset PYTHONDONTWRITEBYTECODE"),
    ]
    assert found[0].what == "HF_HUB_OFFLINE=(empty)"


def test_a_folder_is_measured_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_bytes(bytes(3_000_000))
    found = folder_finding("cache", tmp_path, "set X")
    assert found.level == "ok" and found.facts["bytes"] == 3_000_000
    assert f"{tmp_path}: 3.0 MB, " in found.what
    found = folder_finding("cache", tmp_path / "none/deep", "set X")
    assert found.level == "ok" and "not made yet" in found.what and not (tmp_path / "none").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert size_of(tmp_path, limit_s=-1.0).whole is False


def test_a_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    found = folder_finding("cache", file / "cache", "set X to a folder")
    assert (found.level, found.fix) == ("broken", "set X to a folder")
    (tmp_path / "closed").mkdir()
    with read_only(tmp_path / "closed"):
        found = folder_finding("cache", tmp_path / "closed", "set X to a folder")
    assert found.level == "warning" and "it cannot be written: " in found.what
    assert found.fix == "permit writing there, or set X to a folder that can be written"
    monkeypatch.setattr(places, "LEAST_FREE_BYTES", 1 << 62)
    found = folder_finding("cache", tmp_path, "set X to a folder")
    assert (found.level, found.fix) == ("warning", "make room, or set X to a folder on another disk")


class Hub(BaseHTTPRequestHandler):
    """A server that has no model, and counts who asks."""

    asked = 0

    def do_HEAD(self) -> None:
        Hub.asked += 1
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("huggingface_hub")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield os.environ["HF_ENDPOINT"]
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_hub_is_asked_unless_offline(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub.asked = 0
    [found] = check_hub()
    assert (found.level, found.what, Hub.asked) == ("ok", f"{hub} answers", 1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    [found] = check_hub()
    assert (found.level, Hub.asked) == ("note", 1) and "switched off" in found.what


def test_a_hub_that_cannot_be_reached(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port of `discard`, where nobody listens
    [found] = check_hub()
    assert found.level == "warning" and "cannot be reached" in found.what and "HTTPS_PROXY" in found.fix


def test_an_old_pillow_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, count in (("10.4.0", 1), ("12.2.0", 1), ("12.3.0", 0), ("13.0.0", 0)):
        monkeypatch.setattr("vl2v_deploy.doctor.pillow.metadata.version", lambda _, found=version: found)
        assert [found.level for found in check_pillow()] == ["warning"] * count


def test_a_check_that_fails_is_a_finding_and_the_others_have_their_say() -> None:
    def check_nothing() -> Iterator[Finding]:
        raise RuntimeError("no\nidea")
        yield

    def check_all() -> Iterator[Finding]:
        yield Finding("all", "broken", "it is", "mend it")

    report = examine((check_nothing, check_all))
    assert [found.level for found in report.findings] == ["unknown", "broken"] and report.broken
    assert report.findings[0].what == "could not be found out: RuntimeError: no idea"
    assert from_json(Report, json.loads(json.dumps(tree_of(report)))) == report
    assert tree_of(report)["format"] == FORMAT and tree_of(report)["broken"] is True
    assert lines_of(report)[1:] == [
        "broken   all: it is",
        "         fix: mend it",
        "Something is broken; broken: 1; could not be found out: 1",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "code"), [("1", 0), ("many", 1)])
def test_the_command_exits_1_where_something_is_broken(threads: str, code: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "vl2v_deploy", "doctor", "--json"],
        env=os.environ | {"ORT_INTRA_OP_NUM_THREADS": threads, "HF_TOKEN": SECRET},
        capture_output=True,
        text=True,
        check=False,
    )
    tree = json.loads(ran.stdout)
    assert (ran.returncode, tree["broken"]) == (code, bool(code)), ran.stdout + ran.stderr
    report = from_json(Report, tree)
    assert {"python", "packages", "onnxruntime", "processor", "threads", "environment"} <= {
        found.check for found in report.findings
    }
    assert SECRET not in ran.stdout + ran.stderr and not ran.stderr
