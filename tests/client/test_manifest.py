"""The manifest's types: bundles as this repository wrote them, and what no bundle should hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.manifests import made_up_manifest
from vl2v_deploy.client import Student
from vl2v_deploy.client.archive import opened_bundle
from vl2v_deploy.client.bundle import GOLDEN
from vl2v_deploy.client.manifest import FORMAT, manifest_from_text, text_of_manifest
from vl2v_deploy.client.typed_json import from_json, to_json
from vl2v_deploy.errors import BundleError

# Written by `export` and `relabel` of November 2026 in every precision; the manifest is of a bundle with two
# TensorRT-RTX engines. Bundles of format 2 are in use and must go on loading.
KEPT = Path(__file__).parent / "format_2"
ENGINES = (KEPT / "manifest_with_engines.json").read_text()


def test_a_bundle_of_format_2_still_answers_as_it_did() -> None:
    with opened_bundle(KEPT / "bundle.zip") as bundle:
        assert bundle.classes == ("line", "circle", "star")
        assert bundle.precisions == ("fp32", "fp16", "int8", "int8-symmetric")
        with np.load(bundle.path / GOLDEN) as golden:
            images, expected = golden["images"], golden["logits"]
        with Student.load(bundle, precision="fp32") as student:
            np.testing.assert_allclose(student.run(images)[0], expected, atol=1e-3)
        manifest = bundle.manifest
    assert manifest.relabelled is not None and manifest.relabelled.before.classes == ("circle", "square")
    assert manifest.accuracy is None and manifest.confidence.abstain_below is None
    assert manifest.distilled_accuracy is not None and manifest.distilled_accuracy.target == "photo"


def test_every_key_of_format_2_is_read_and_written_back() -> None:
    with opened_bundle(KEPT / "bundle.zip") as bundle:
        relabelled = (bundle.path / "manifest.json").read_text()
    for text in (ENGINES, relabelled):
        assert json.loads(text_of_manifest(manifest_from_text(text, "x"))) == json.loads(text)


def test_the_types_hold_what_the_file_says() -> None:
    manifest, raw = manifest_from_text(ENGINES, "x"), json.loads(ENGINES)
    int8, fp16 = manifest.precisions["int8"].int8, manifest.precisions["fp16"].fp16
    assert int8 is not None and fp16 is not None and manifest.precisions["fp32"].int8 is None
    assert int8.budget.drop == raw["precisions"]["int8"]["budget"]["drop"]
    assert fp16.measured_on.headroom == raw["precisions"]["fp16"]["measured_on"]["headroom"]
    accuracy = manifest.precisions["int8"].accuracy
    assert accuracy is not None and accuracy.ood == accuracy.domains["photo"].accuracy
    passport = manifest.engines["student.fp16.rtx-sm86.plan"]
    assert (str(passport.profile), passport.compute_capabilities, passport.usable) == (
        "1:2:4",
        ("8.6",),
        None,
    )
    assert manifest.run is not None and manifest.run.teacher.queries == raw["run"]["teacher"]["queries"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(format=1), r"format 1, this version reads format 2: export the run again"),
        (lambda m: m.update(format=FORMAT + 1), r"format 3, this version reads format 2: update vl2v-deploy"),
        (lambda m: m.pop("format"), "of format None"),
        (lambda m: m.update(format=True), "of format True"),
        (lambda m: m.pop("classes"), "classes: is missing"),
        (lambda m: m.update(classes=[1]), r"classes\[0\]: expected a string, got 1"),
        (lambda m: m.update(image_size_px="32"), "image_size_px: expected a whole number, got '32'"),
        (lambda m: m.update(image_size_px=True), "image_size_px: expected a whole number, got True"),
        (lambda m: m.update(logit_scale=10**400), "is not a bundle's manifest"),
        (lambda m: m["confidence"].update(temperature=None), "confidence.temperature: expected a number"),
        (lambda m: m["precisions"]["fp32"].pop("file"), "precisions.fp32.file: is missing"),
        (lambda m: m["precisions"]["int8"]["budget"].pop("drop"), "precisions.int8.budget.drop: is missing"),
        (
            lambda m: m["precisions"]["fp32"]["accuracy"]["domains"]["photo"].update(role="judge"),
            "domains.photo.role: expected one of source, target",
        ),
        (
            lambda m: m["engines"]["student.fp16.rtx-sm86.plan"]["profile"].update(max="4"),
            "profile.max: expected a whole number",
        ),
        (lambda m: m.update(relabelled={"from": []}), "relabelled.prompts: is missing"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(change: Callable[[dict[str, Any]], Any], said: str) -> None:
    found = json.loads(ENGINES)
    change(found)
    with pytest.raises(BundleError, match=rf"^here: .*{said}"):
        manifest_from_text(json.dumps(found), "here")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"^here: "):
        manifest_from_text(text, "here")


def test_relabelled_without_end_is_refused() -> None:
    found = to_json(made_up_manifest())
    before = {"manifest_sha256": "", "classes": [], "accuracy": None, "confidence": found["confidence"]}
    before |= {"precisions": {}, "engines": []}
    outer = {"prompts": {}, "teacher": "", "parity": {}, "note": "", "versions": {}}
    innermost = json.dumps(outer | {"from": before})
    # as text: Python 3.12 encodes nothing nested as deep, whatever its recursion limit is set to
    head, tail = json.dumps(outer | {"from": before | {"relabelled": "@"}}).split('"@"')
    relabelled = head * 1999 + innermost + tail * 1999
    text = json.dumps(found | {"relabelled": "@"}).replace('"@"', relabelled)
    with pytest.raises(BundleError, match=r"^here: "):
        manifest_from_text(text, "here")


def test_numbers_and_optional_values() -> None:
    assert from_json(float, 1) == 1.0 and isinstance(from_json(float, 1), float)
    assert from_json(tuple[int | str, ...], ["batch", 3]) == ("batch", 3)  # type: ignore[arg-type]
    manifest = made_up_manifest()
    assert from_json(type(manifest), to_json(manifest)) == manifest
