"""manifest.json and SHA256SUMS: what a bundle says of itself, and the hashes that show a change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vl2v_deploy.client.bundle import MANIFEST
from vl2v_deploy.client.checksums import CHECKSUMS, sha256_of
from vl2v_deploy.client.manifest import (
    FORMAT,
    TEXT_EMBEDDINGS,
    TRAINED_HEAD,
    Confidence,
    FileDigest,
    Manifest,
    RunAccuracy,
    StudentFacts,
    TensorFacts,
    text_of_manifest,
)
from vl2v_deploy.client.onnx_file import OnnxFile
from vl2v_deploy.client.passport import Passport
from vl2v_deploy.client.preprocess import PREPROCESSING
from vl2v_deploy.client.run_facts import RunFacts
from vl2v_deploy.client.typed_json import from_json
from vl2v_deploy.exporting.bill_of_materials import BILL, bill_of_materials
from vl2v_deploy.exporting.graph.student_graph import OPSET
from vl2v_deploy.exporting.model_card import CARD, model_card
from vl2v_deploy.folders import OWNER
from vl2v_deploy.models.run_directory import Run
from vl2v_deploy.models.versions import package_versions


def manifest_of(
    run: Run,
    dim: int,
    confidence: Confidence,
    precisions: Mapping[str, OnnxFile],
    engines: Mapping[str, Passport],
) -> Manifest:
    """The manifest of a run's bundle but for its list of files, which `write_manifest` makes.

    dim:     D of the embedding
    engines: by plan file
    """
    manifest = manifest_of_student(run, dim, confidence, precisions, engines)
    record = run.record.model_dump(mode="json")
    return replace(
        manifest,
        accuracy=from_json(RunAccuracy, record["accuracy"]),
        run=from_json(RunFacts, record),
        versions={"distill": run.record.versions, **manifest.versions},
    )


def manifest_of_student(
    run: Run,
    dim: int,
    confidence: Confidence,
    precisions: Mapping[str, OnnxFile],
    engines: Mapping[str, Passport],
) -> Manifest:
    """The same without what the run recorded of its accuracy, data and teacher."""
    size_px, classes = run.recipe.student.image_size_px, run.classes
    return Manifest(
        format=FORMAT,
        classes=tuple(classes),
        image_size_px=size_px,
        embedding_dim=dim,
        logit_scale=run.logit_scale,
        preprocessing=PREPROCESSING,
        input={"images": TensorFacts("uint8", ("batch", size_px, size_px, 3))},
        outputs={
            "logits": TensorFacts("float32", ("batch", len(classes))),
            "embedding": TensorFacts("float32", ("batch", dim)),
        },
        student=StudentFacts(
            backbone=run.recipe.student.backbone,
            method=str(run.recipe.method),
            opset=OPSET,
            classifier=TRAINED_HEAD if run.student.head is not None else TEXT_EMBEDDINGS,
        ),
        confidence=confidence,
        precisions=precisions,
        engines=engines,
        accuracy=None,
        run=None,
        versions={"export": package_versions()},
        files={},
    )


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """Write README.md, sbom.cdx.json, manifest.json with every other file listed, then SHA256SUMS of all."""
    (bundle / CARD).write_text(model_card(manifest), encoding="utf-8")
    (bundle / BILL).unlink(missing_ok=True)
    bill = bill_of_materials(manifest, file_digests(bundle))
    (bundle / BILL).write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    manifest = replace(manifest, files=file_digests(bundle))
    (bundle / MANIFEST).write_text(text_of_manifest(manifest), encoding="utf-8")
    write_checksums(bundle)


def file_digests(bundle: Path) -> dict[str, FileDigest]:
    """Of every file of the bundle but manifest.json and SHA256SUMS, by name."""
    return {
        path.relative_to(bundle).as_posix(): FileDigest(sha256_of(path), path.stat().st_size)
        for path in _files(bundle)
        if path.name not in (MANIFEST, CHECKSUMS)
    }


def write_checksums(bundle: Path) -> None:
    """SHA256SUMS of every other file of the bundle, as `sha256sum -c` reads it."""
    sums = [
        f"{sha256_of(path)}  {path.relative_to(bundle).as_posix()}\n"
        for path in _files(bundle)
        if path.name != CHECKSUMS
    ]
    (bundle / CHECKSUMS).write_text("".join(sums), encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != OWNER)
