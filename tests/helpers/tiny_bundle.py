"""A finished bundle of the tiny student, as tests that start from one want it, in precisions of choice."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.client.bundle import GOLDEN, Precision, file_of, numeric
from vl2v_deploy.client.student import open_session
from vl2v_deploy.client.typed_json import to_json
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.exporting.manifest import file_digests, write_checksums
from vl2v_deploy.exporting.precision.calibration import tensor_ranges
from vl2v_deploy.exporting.precision.fp16 import to_fp16
from vl2v_deploy.exporting.precision.precisions import write_model
from vl2v_deploy.exporting.precision.qdq import quantized
from vl2v_deploy.exporting.precision.sessions import answers_of_session
from vl2v_deploy.exporting.run import export_run
from vl2v_deploy.recipe import load_recipe

CACHE = "VL2V_DEPLOY_CACHE"


def make_run(folder: Path, *overrides: str) -> Path:
    """A run of the tiny recipe, everything it needs inside the folder."""
    recipe = folder / "tiny.yaml"
    if not recipe.exists():
        write_recipe(folder, make_domain_folder(folder / "data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(folder / "cache"))
        name = f"tiny{len(list(folder.glob('runs/*'))) or ''}"
        [run] = distill_recipe(load_recipe(recipe, overrides), folder / "runs" / name)
    return run


def make_bundle(folder: Path, *overrides: str) -> Path:
    """The tiny run's bundle, in fp32."""
    run = make_run(folder, *overrides)
    return export_run(run, folder / "bundles" / run.name)


def add_precision(bundle: Path, precision: Precision) -> None:
    """Put a file into a bundle by export's own converters; its searches and measurements are skipped."""
    with np.load(bundle / GOLDEN, allow_pickle=False) as stored:
        golden = dict(stored)
    model = onnx.load(bundle / "student.onnx")
    if precision == "fp16":
        made = to_fp16(model, golden["images"]).model
    else:
        ranges = tensor_ranges(model, golden["images"], "minmax")
        made = quantized(model, ranges, symmetric=precision == "int8-symmetric", weights="pairwise")
    file = bundle / file_of(precision)
    write_model(made, file)
    golden[f"logits_{precision}"] = answers_of_session(open_session(file), golden["images"])[0]
    np.savez(bundle / GOLDEN, allow_pickle=False, **golden)
    change_manifest(bundle, partial(_add_record, precision=precision, file=file))


def change_manifest(bundle: Path, change: Any) -> None:
    """`change` applied to the manifest's JSON, right or wrong; digests and checksums are made to fit."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    manifest["files"] = to_json(file_digests(bundle))
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    write_checksums(bundle)


def _add_record(manifest: dict[str, Any], precision: str, file: Path) -> None:
    fp32 = manifest["precisions"]["fp32"]
    tolerance = fp32["parity"]["tolerance"] | {"logit_share": 0.5}
    manifest["precisions"][precision] = fp32 | {
        "file": file.name,
        "bytes": file.stat().st_size,
        "parity": fp32["parity"] | {"tolerance": tolerance},
        **(
            {"weights": {"rule": "pairwise", "layers_that_may_saturate": []}}
            if numeric(precision) == "int8"
            else {}
        ),
    }
