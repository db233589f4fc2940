"""manifest.json and SHA256SUMS: what a bundle says it is, and the proof that it still is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vl2v_deploy.client.bundle import CHECKSUMS, FORMAT, MANIFEST, sha256_of
from vl2v_deploy.client.preprocess import PREPROCESSING
from vl2v_deploy.exporting.graph.student_graph import OPSET
from vl2v_deploy.folders import OWNER
from vl2v_deploy.models.run_directory import Run
from vl2v_deploy.models.versions import package_versions


def manifest_of(
    run: Run,
    dim: int,
    confidence: Mapping[str, Any],
    precisions: Mapping[str, Any],
    engines: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a run's bundle but for its list of files.

    dim:        D of the embedding
    confidence: see exporting.confidence
    precisions: for each ONNX file its MACs by type, parity, accuracy, and how it was made
    engines:    plan file -> passport
    """
    record = run.record
    size_px, classes = run.recipe.student.image_size_px, len(run.classes)
    return {
        "format": FORMAT,
        "classes": list(run.classes),
        "image_size_px": size_px,
        "embedding_dim": dim,
        "logit_scale": run.logit_scale,
        "preprocessing": PREPROCESSING,
        "input": {"images": {"dtype": "uint8", "shape": ["batch", size_px, size_px, 3]}},
        "outputs": {
            "logits": {"dtype": "float32", "shape": ["batch", classes]},
            "embedding": {"dtype": "float32", "shape": ["batch", dim]},
        },
        "student": {
            "backbone": run.recipe.student.backbone,
            "method": run.recipe.method,
            "opset": OPSET,
            "classifier": "trained head" if run.student.head is not None else "text embeddings",
        },
        "confidence": dict(confidence),
        "precisions": dict(precisions),
        "engines": dict(engines),
        "accuracy": record.accuracy.model_dump(mode="json"),
        "run": record.model_dump(
            mode="json", include={"recipe_sha256", "seed", "teacher", "data", "seconds"}
        ),
        "versions": {"distill": record.versions, "export": package_versions()},
    }


def write_manifest(bundle: Path, manifest: Mapping[str, Any]) -> None:
    """Write manifest.json, with every other file of the bundle listed, then SHA256SUMS of all."""
    listed = {
        path.relative_to(bundle).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in _files(bundle)
        if path.name not in (MANIFEST, CHECKSUMS)
    }
    text = json.dumps({**manifest, "files": listed}, indent=2) + "\n"
    (bundle / MANIFEST).write_text(text, encoding="utf-8")
    write_checksums(bundle)


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
