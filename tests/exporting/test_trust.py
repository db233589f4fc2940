"""A bundle's bill of materials fits CycloneDX's schema and the files; a signature shows every change."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.helpers.tiny_bundle import make_run
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import open_bundle
from vl2v_deploy.client.manifest import Manifest
from vl2v_deploy.client.run_facts import Terms
from vl2v_deploy.errors import BundleError, ExportError, MissingExtra
from vl2v_deploy.exporting.bill_of_materials import BILL, bill_of_materials
from vl2v_deploy.exporting.finished.signing import (
    SIGNATURE,
    require_signed,
    require_signer,
    sign_bundle,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Path]) -> Path:
    """As `export --sign` writes it."""
    folder = tmp_path_factory.mktemp("trust")
    run, out = make_run(folder), folder / "bundle"
    ran = CliRunner().invoke(cli, ["export", str(run), "--out", str(out), "--sign", str(keys["ours.pem"])])
    assert ran.exit_code == 0 and str(out / SIGNATURE) in ran.stderr, ran.output
    return out


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return open_bundle(bundle).manifest


def schema_errors(bill: dict[str, Any]) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))


def test_the_bill_fits_the_schema_and_lists_every_file(bundle: Path, manifest: Manifest) -> None:
    bill = json.loads((bundle / BILL).read_text())
    assert schema_errors(bill) is None
    assert schema_errors(bill | {"nonsense": 1}) is not None
    listed = {one["name"]: one["hashes"][0]["content"] for one in bill["components"] if one["type"] == "file"}
    on_disk = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert listed.keys() == on_disk - {BILL, "manifest.json", "SHA256SUMS", SIGNATURE}
    for name, digest in listed.items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest
    assert BILL in manifest.files


def test_the_bill_says_what_the_manifest_says(bundle: Path, manifest: Manifest) -> None:
    bill = json.loads((bundle / BILL).read_text())
    parts = {one["bom-ref"]: one for one in bill["components"]}
    accuracy, run = manifest.precisions["fp32"].accuracy, manifest.run
    assert accuracy and run
    metrics = bill["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    [photo] = [m for m in metrics if m["type"] == "accuracy" and "target domain photo" in m["slice"]]
    assert photo["value"] == f"{accuracy.domains['photo'].accuracy:.4f}"
    assert parts["teacher"]["name"] == run.teacher.identity and "licenses" not in parts["teacher"]
    assert {"name": "vl2v-deploy:fingerprint", "value": run.data.fingerprint} in parts["data"]["properties"]
    [numpy] = [one for one in bill["components"] if one["name"] == "numpy"]
    assert numpy["version"] == manifest.versions["export"]["numpy"] and numpy["licenses"]
    assert "<3" in numpy["properties"][0]["value"]


def test_a_bill_of_whatever_is_known_fits_the_schema(manifest: Manifest) -> None:
    assert manifest.run
    terms = Terms("https://vendor.example/terms", "2026-11-28", "internal")
    teacher = replace(manifest.run.teacher, terms=terms, identity="builtin:emojidg-teacher")
    bought = replace(manifest, run=replace(manifest.run, teacher=teacher), classes=("| # a", "two\nlines"))
    bill = bill_of_materials(bought, manifest.files)
    assert schema_errors(bill) is None
    assert bill == bill_of_materials(bought, manifest.files)  # nothing in it is of the moment
    [told] = [one for one in bill["components"] if one["bom-ref"] == "teacher"]
    assert told["licenses"] == [{"license": {"id": "CC-BY-SA-4.0"}}]
    assert {"name": "vl2v-deploy:terms permit", "value": "internal"} in told["properties"]
    assert schema_errors(bill_of_materials(replace(manifest, run=None, accuracy=None), {})) is None


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a private key, its public key, and the public key of somebody else."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / f"{name}.pem").write_bytes(private)
        (folder / f"{name}.pub").write_bytes(public)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def signed(bundle: Path, keys: dict[str, Path], tmp_path: Path) -> Path:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    sign_bundle(copy, keys["ours.pem"])
    return copy


def test_export_signs_and_asks_for_a_sound_key_first(
    bundle: Path, keys: dict[str, Path], tmp_path: Path
) -> None:
    require_signed(bundle, keys["ours.pub"])
    ran = CliRunner().invoke(cli, ["export", str(tmp_path), "--sign", str(keys["ours.pub"])])
    assert ran.exit_code == 1 and "expected a private key" in ran.stderr  # not: tmp_path is no run


def test_a_signed_bundle_is_verified_and_loads(signed: Path, keys: dict[str, Path]) -> None:
    ran = CliRunner().invoke(cli, ["verify", str(signed), "--key", str(keys["ours.pub"]), "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert found["passed"] and found["checks"][0]["what"] == SIGNATURE
    sign_bundle(signed, keys["ours.pem"])  # again, over the old signature
    require_signed(signed, keys["ours.pub"])


def _append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b" ")


def _forge(bundle: Path) -> None:
    """A change that SHA256SUMS agrees with."""
    _append(bundle / "recipe.yaml")
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    digest = hashlib.sha256((bundle / "recipe.yaml").read_bytes()).hexdigest()
    new = [f"{digest}  recipe.yaml" if line.endswith("  recipe.yaml") else line for line in lines]
    (bundle / "SHA256SUMS").write_text("\n".join(new) + "\n")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b: _append(b / "student.onnx"), "changed: student.onnx"),
        (_forge, "changed: SHA256SUMS; changed: recipe.yaml"),
        (lambda b: (b / "golden/extra.png").write_bytes(b"x"), "added: golden/extra.png"),
        (lambda b: (b / "README.md").unlink(), "missing: README.md"),
        (lambda b: (b / SIGNATURE).unlink(), "is not signed"),
        (lambda b: (b / SIGNATURE).write_text("{"), "is not as it was signed"),
        (lambda b: (b / ".git").mkdir() or (b / ".git/hook").write_text("x"), "added: .git/hook"),
    ],
)
def test_each_change_is_one_line(
    change: Callable[[Path], Any], told: str, signed: Path, keys: dict[str, Path]
) -> None:
    change(signed)
    ran = CliRunner().invoke(cli, ["verify", str(signed), "--key", str(keys["ours.pub"])])
    assert ran.exit_code == 1 and ran.stderr.count("\n") == 1
    assert told in ran.stderr


def test_another_key_or_none_is_told(signed: Path, keys: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not as it was signed"):
        require_signed(signed, keys["theirs.pub"])
    with pytest.raises(BundleError, match="is no public key"):
        require_signed(signed, keys["ours.pem"])
    for wrong in (keys["ours.pub"], tmp_path / "missing.pem"):
        with pytest.raises(ExportError, match="expected a private key"):
            require_signer(wrong)
    archive = Path(shutil.make_archive(str(tmp_path / "bundle"), "zip", signed))
    with pytest.raises(BundleError, match="unpack it first"):
        require_signed(archive, keys["ours.pub"])


def test_a_signature_with_other_bytes_is_refused(signed: Path, keys: dict[str, Path]) -> None:
    tree = json.loads((signed / SIGNATURE).read_text())
    [signature] = tree["dsseEnvelope"]["signatures"]
    signature["sig"] = signature["sig"][::-1].replace("=", "") + "=" * signature["sig"].count("=")
    (signed / SIGNATURE).write_text(json.dumps(tree))
    with pytest.raises(BundleError):
        require_signed(signed, keys["ours.pub"])


def test_without_the_extra_it_says_what_to_install(
    signed: Path, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(MissingExtra, match=r"vl2v-deploy\[sign\]"):
        require_signed(signed, keys["ours.pub"])
    with pytest.raises(MissingExtra, match=r"vl2v-deploy\[sign\]"):
        require_signer(keys["ours.pem"])
    ran = CliRunner().invoke(cli, ["verify", str(signed), "--key", str(keys["ours.pub"])])
    assert ran.exit_code == 1 and "vl2v-deploy[sign]" in ran.stderr


def test_the_documented_commands_make_such_keys(bundle: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    for words in (
        ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private),
        ("ec", "-in", private, "-pubout", "-out", public),
    ):
        subprocess.run([openssl, *map(str, words)], check=True, capture_output=True)
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    sign_bundle(copy, private)
    require_signed(copy, public)
