"""Manifests and passports made up by tests; they need no torch, and what a test does not name is neutral."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.client.manifest import (
    FORMAT,
    TEXT_EMBEDDINGS,
    Confidence,
    Manifest,
    StudentFacts,
    TensorFacts,
)
from vl2v_deploy.client.onnx_file import MacShares, OnnxFile, Parity, Tolerance
from vl2v_deploy.client.passport import PASSPORT_FORMAT, Passport, Profile
from vl2v_deploy.client.preprocess import PREPROCESSING

LINUX = "linux-x86_64"


def made_up_manifest(**changed: Any) -> Manifest:
    """Of a student of two classes in fp32 that never abstains."""
    manifest = Manifest(
        format=FORMAT,
        classes=("circle", "square"),
        image_size_px=16,
        embedding_dim=3,
        logit_scale=1.0,
        preprocessing=PREPROCESSING,
        input={"images": TensorFacts("uint8", ("batch", 16, 16, 3))},
        outputs={
            "logits": TensorFacts("float32", ("batch", 2)),
            "embedding": TensorFacts("float32", ("batch", 3)),
        },
        student=StudentFacts("resnet18", "adip", 18, TEXT_EMBEDDINGS),
        confidence=Confidence(temperature=1.0, abstain_below=0.0),
        precisions={"fp32": made_up_file("student.onnx")},
        engines={},
        accuracy=None,
        run=None,
        versions={},
        files={},
    )
    return replace(manifest, **changed)


def made_up_file(name: str) -> OnnxFile:
    """An ONNX file that agrees with torch; its accuracy is not known."""
    tolerance = Tolerance(1e-4, 1e-4, cosine=0.999, agreement=1.0, ties=True)
    parity = Parity(
        images=1,
        batch_sizes=(1,),
        agreement=1.0,
        max_embedding_error=0.0,
        mean_embedding_error=0.0,
        max_logit_error=0.0,
        mean_logit_error=0.0,
        min_cosine=1.0,
        logit_scale=1.0,
        tolerance=tolerance,
    )
    macs = MacShares(1_000_000, {"fp32": 1.0, "fp16": 0.0, "int8": 0.0})
    return OnnxFile(name, 1000, macs, parity, accuracy=None)


def made_up_passport(plan: Path | str, **changed: Any) -> Passport:
    """Of a plan; its hash is the file's where there is one."""
    path = Path(plan)
    passport = Passport(
        format=PASSPORT_FORMAT,
        plan=path.name,
        flavour="tensorrt",
        version="10.16",
        platform=LINUX,
        gpu="NVIDIA A10",
        compute_capabilities=("8.6",),
        precision="fp16",
        profile=Profile(1, 8, 64),
        version_compatible=False,
        hardware_compatible="none",
        plan_sha256=sha256_of(path) if path.is_file() else "0" * 64,
        parity_note="built, not run",
    )
    return replace(passport, **changed)
