"""`export --web`: what is written, from which runtime, and what is refused before anything is."""

from __future__ import annotations

import json
import re
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.helpers.tiny_bundle import add_precision, change_manifest, make_bundle, make_run
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.client.typed_json import to_json
from vl2v_deploy.errors import BundleError, ExportError
from vl2v_deploy.exporting.targets import web_runtime
from vl2v_deploy.exporting.targets.triton import write_triton
from vl2v_deploy.exporting.targets.web import PAGE, ShownAccuracy, WebOptions, write_web

LOCK = Path(__file__).parents[2] / "web/package-lock.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    made = make_bundle(folder)
    add_precision(made, "int8")
    return made


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """A folder as npm's, but for what is in its files."""
    made = tmp_path / "dist"
    made.mkdir()
    for script, binary in web_runtime.FILES.values():
        (made / script).write_text("/*!\n * ONNX Runtime Web v9.8.7\n */\n")
        (made / binary).write_bytes(b"\0asm" + script.encode())
    return made


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called npm, first in the path; tests write it."""
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_page_holds_what_it_asks_for(bundle: Path, dist: Path, tmp_path: Path) -> None:
    student = write_web(bundle, tmp_path / "site", WebOptions(runtime=str(dist)))
    site = tmp_path / "site"
    assert json.loads((site / "student.json").read_text()) == to_json(student)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert list(student.classes) == manifest["classes"]
    assert student.image_size_px == 32
    assert student.abstain_below == manifest["confidence"]["abstain_below"]
    assert [model.precision for model in student.models] == ["fp32", "int8"]
    for model in student.models:
        assert sha256_of(site / model.file) == sha256_of(bundle / model.file)
        assert model.bytes == (site / model.file).stat().st_size
        accuracy = manifest["precisions"][model.precision]["accuracy"]
        assert model.accuracy == ShownAccuracy(accuracy["id"], accuracy["ood"], ("photo",))
    assert student.runtime.version == "9.8.7"
    for provider in ("wasm", "webgpu"):
        runtime = getattr(student.runtime, provider)
        assert (site / runtime.script).is_file()
        assert (site / runtime.binary).stat().st_size == runtime.bytes
    assert (site / "runtime/LICENSE").read_text().startswith("MIT License")
    # What the page's own files ask for is there, and all is relative: any folder of any server will do.
    for path in site.glob("*.*"):
        if path.suffix in (".html", ".js"):
            for name in re.findall(r"""(?:from|import\(|src=|href=) ?["']([^"':]+)["']""", path.read_text()):
                assert (site / name).is_file(), (path.name, name)
    assert not list(site.rglob("golden*"))
    assert not list(tmp_path.glob("*.partial"))


def test_no_file_of_the_page_names_another_server() -> None:
    for path in PAGE.iterdir():
        named = re.findall(r"(?:https?|wss?)://[\w.]+", path.read_text(encoding="utf-8"))
        assert set(named) <= {"http://www.w3.org"}, path.name  # the name of SVG, which nobody fetches


def test_a_relabelled_bundle_has_neither_threshold_nor_accuracy(
    folder: Path, dist: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(folder)

    def forget(manifest: dict[str, Any]) -> None:
        manifest["confidence"]["abstain_below"] = None
        manifest["precisions"]["fp32"]["accuracy"] = None

    change_manifest(bundle, forget)
    student = write_web(bundle, tmp_path / "site", WebOptions(runtime=str(dist)))
    assert student.abstain_below is None
    assert [model.accuracy for model in student.models] == [None]


def test_cdn_copies_nothing_and_pins_the_version(bundle: Path, tmp_path: Path) -> None:
    student = write_web(bundle, tmp_path / "site", WebOptions(("int8",), "cdn"))
    assert not (tmp_path / "site/runtime").exists()
    assert [model.file for model in student.models] == ["student.int8.onnx"]
    assert not (tmp_path / "site/student.onnx").exists()
    for provider, files in web_runtime.FILES.items():
        found = getattr(student.runtime, provider)
        base = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{web_runtime.VERSION}/dist/"
        assert (found.script, found.binary) == (base + files[0], base + files[1])


def test_the_pinned_package_is_the_one_that_the_tests_run() -> None:
    locked = json.loads(LOCK.read_text())["packages"]["node_modules/onnxruntime-web"]
    assert (locked["version"], locked["integrity"]) == (web_runtime.VERSION, web_runtime.INTEGRITY)


def test_npm_brings_the_runtime(
    bundle: Path, dist: Path, npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = tmp_path / "onnxruntime-web.tgz"
    with tarfile.open(tarball, "w:gz") as package:
        package.add(dist, "package/dist")
    write_program(npm, f'[ "$1 $2" = "pack onnxruntime-web@{web_runtime.VERSION}" ] && cp {tarball} "$5"')
    with pytest.raises(ExportError, match="the registry gave another package"):
        write_web(bundle, tmp_path / "site")
    assert not (tmp_path / "site").exists()
    monkeypatch.setattr(web_runtime, "INTEGRITY", web_runtime.integrity_of(tarball))
    write_web(bundle, tmp_path / "site")
    for source, name in (("ort.wasm.bundle.min.mjs", "ort.wasm.bundle.min.js"),):
        assert (tmp_path / "site/runtime" / name).read_bytes() == (dist / source).read_bytes()


def test_npm_that_fails_or_is_missing_is_said(bundle: Path, npm: Path, tmp_path: Path) -> None:
    write_program(npm, "echo 'npm error code E404' >&2; exit 1")
    with pytest.raises(ExportError, match=r"failed: npm error code E404; pass --web-runtime cdn"):
        write_web(bundle, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_without_npm(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ExportError, match="npm is not installed"):
        write_web(bundle, tmp_path / "site")


def test_folders_without_the_runtime_are_refused(bundle: Path, dist: Path, tmp_path: Path) -> None:
    (dist / "ort-wasm-simd-threaded.wasm").unlink()
    for choice, message in (("nowhere", "expected vendor, cdn, or a folder"), (dist, "holds no ort-wasm")):
        with pytest.raises(ExportError, match=message):
            write_web(bundle, tmp_path / "site", WebOptions(runtime=str(choice)))


def test_nothing_of_others_is_overwritten(bundle: Path, dist: Path, tmp_path: Path) -> None:
    options, site = WebOptions(runtime=str(dist)), tmp_path / "site"
    write_web(bundle, site, options)
    write_web(bundle, site, options)  # unchanged: made anew
    (site / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"mine\.txt: changed or added since.*--overwrite"):
        write_web(bundle, site, options)
    write_web(bundle, site, options, overwrite=True)
    assert not (site / "mine.txt").exists()
    for made in (tmp_path / "models", tmp_path / "other"):
        if made.name == "models":
            write_triton(bundle, made)  # ours, but another kind of folder
        else:
            made.mkdir()
            (made / "file").touch()
        with pytest.raises(ExportError, match="holds no web page made here"):
            write_web(bundle, made, options, overwrite=True)
    with pytest.raises(ExportError, match="may not be inside"):
        write_web(bundle, bundle / "site", options)


def test_a_precision_that_the_bundle_lacks(bundle: Path, folder: Path, dist: Path, tmp_path: Path) -> None:
    plain = make_bundle(folder)
    with pytest.raises(BundleError, match="holds no int8 file"):
        write_web(plain, tmp_path / "site", WebOptions(("int8",), str(dist)))


def test_the_command_line_refuses_before_it_exports(folder: Path, dist: Path, tmp_path: Path) -> None:
    run = make_run(folder)
    out = tmp_path / "bundle"
    site = ("--web", tmp_path / "site")
    for options, message in (
        (("--web-precision", "fp32"), "--web-precision and --web-runtime go with --web"),
        ((*site, "--web-precision", "fp16"), "--web-precision fp16: expected one or both of fp32, int8"),
        ((*site, "--web-precision", "int8"), "--web-precision int8: is not exported; add it to --precision"),
        ((*site, "--web-runtime", "cnd"), "--web-runtime cnd: expected vendor, cdn, or a folder"),
        ((*site, "--web-runtime", dist, "--triton", tmp_path / "site"), "pass two folders"),
    ):
        done = CliRunner().invoke(cli, [str(each) for each in ("export", run, "--out", out, *options)])
        assert done.exit_code != 0
        assert message in f"{done.output}{done.exception}"
        assert not out.exists()


def test_the_command_line_writes_the_page_and_says_so(folder: Path, dist: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "bundle", "--web", tmp_path / "site", "--web-runtime", dist)
    done = CliRunner().invoke(cli, [str(each) for each in ("export", make_run(folder), *options)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "site/index.html").is_file()
    assert "onnxruntime-web 9.8.7, not the 1.30.0 that the page was tested with" in done.output
    assert f"python -m http.server -d {tmp_path / 'site'}" in done.output
