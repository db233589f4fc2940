"""From a finished run to a bundle whose file was checked against the torch student."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vl2v_deploy.client.bundle import CHECKSUMS, FORMAT, MANIFEST, ONNX, sha256_of
from vl2v_deploy.client.preprocess import PREPROCESSING, Pixels, open_image, preprocess
from vl2v_deploy.client.student import Student as ClientStudent
from vl2v_deploy.client.student import open_session
from vl2v_deploy.data.domains import Sample, load_domains
from vl2v_deploy.errors import ExportError
from vl2v_deploy.export.golden import GOLDEN_SAMPLES, write_golden
from vl2v_deploy.export.graph import OPSET, deployed_student, write_onnx
from vl2v_deploy.export.parity import TOLERANCES, Floats, Parity, check_parity
from vl2v_deploy.export.tensorrt import EngineRequest, build_engine, engine_name, require_buildable
from vl2v_deploy.models.run_directory import OWNER, RECIPE, Run, load_run, replace_folder, start_folder
from vl2v_deploy.models.versions import package_versions

PARITY_IMAGES = 64


def export_run(
    run_path: Path, out: Path, *, engines: Sequence[EngineRequest] = (), overwrite: bool = False
) -> Path:
    """The bundle at `out`, made from a run directory; nothing is there unless parity holds.

    engines: TensorRT engines to build into the bundle

    Raises RunError for a bad run, ExportError for a graph that cannot be exported or when `out` is in the
    way, ParityError when the file disagrees with torch, DataError when the run's images are gone.
    """
    _require_free(out, overwrite)
    builders = [(require_buildable(request), request) for request in engines]
    run = load_run(run_path)
    samples = _held_out_samples(run)
    size_px = run.recipe.student.image_size_px
    images = np.stack([preprocess(open_image(sample.path), size_px) for sample in samples])

    partial = start_folder(out, RECIPE)
    shutil.copyfile(run.path / RECIPE, partial / RECIPE)
    console = Console(stderr=True)
    with console.status(f"Exporting {run.recipe.student.backbone} to ONNX"):
        write_onnx(run, partial / ONNX)
    passports = {}
    for trt, request in builders:
        name = engine_name(request, "fp32")
        with console.status(f"Building {name}"):
            passports[name] = build_engine(trt, request, partial / ONNX, partial / name)
    with console.status("Checking the file against the torch student"):
        parity = _fill(partial, run, samples, images, passports)
    replace_folder(out, partial)
    console.print(
        f"{out / ONNX}: {(out / ONNX).stat().st_size / 1e6:.1f} MB; on {parity.images} held-out images at "
        f"batch {', '.join(map(str, parity.batch_sizes))} the largest logit error is "
        f"{parity.max_logit_error:.1e}."
        + "".join(f"\n{out / name}: {engine['parity_note']}." for name, engine in passports.items())
        + f"\nNext: vl2v-deploy predict {out} IMAGE",
        soft_wrap=True,
    )
    return out


def _fill(
    partial: Path, run: Run, samples: Sequence[Sample], images: Pixels, engines: dict[str, Any]
) -> Parity:
    """Everything beside student.onnx, and the check that it is right."""
    session = open_session(partial / ONNX)

    def run_onnxruntime(batch: Pixels) -> tuple[Floats, Floats]:
        logits, embedding = session.run(["logits", "embedding"], {"images": batch})
        return logits, embedding

    reference = deployed_student(run)
    parity = check_parity(reference, run_onnxruntime, images, TOLERANCES["onnxruntime", "fp32"], ONNX)
    golden = _one_of_each_class(samples)
    logits, embedding = run_onnxruntime(images[golden])
    write_golden(partial, [samples[row] for row in golden], images[golden], logits, embedding)
    manifest = _manifest(partial, run, parity, embedding.shape[1]) | {"engines": engines}
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sums = [f"{sha256_of(path)}  {path.relative_to(partial).as_posix()}\n" for path in _files(partial)]
    (partial / CHECKSUMS).write_text("".join(sums), encoding="utf-8")
    verification = ClientStudent.load(partial).verify()  # read it back as a client will
    if verification.argmax_agreement < 1 or verification.max_pixel_error > 0:
        raise ExportError(f"{partial}: the client does not reproduce the golden samples: {verification}")
    return parity


def _manifest(partial: Path, run: Run, parity: Parity, dim: int) -> dict[str, Any]:
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
        "student": {"backbone": run.recipe.student.backbone, "precision": "fp32", "opset": OPSET},
        "accuracy": record["accuracy"],
        "parity": {ONNX: {"engine": "onnxruntime", "precision": "fp32", **asdict(parity)}},
        "run": {key: record[key] for key in ("recipe_sha256", "seed", "teacher", "data", "seconds")},
        "versions": {"distill": record["versions"], "export": package_versions()},
        "files": {
            path.relative_to(partial).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
            for path in _files(partial)
        },
    }


def _held_out_samples(run: Run) -> list[Sample]:
    """Test images of every domain, classes and domains mixed; the same ones for the same run."""
    domain_set = load_domains(run.recipe.data, skip_bad=True)
    if domain_set.classes != run.classes:
        raise ExportError(f"{run.recipe.data.root}: its classes are no longer those of {run.path}")
    samples = list(domain_set.select(domain_set.domains, "test"))
    order = np.random.default_rng(0).permutation(len(samples))[:PARITY_IMAGES]
    return [samples[row] for row in order]


def _one_of_each_class(samples: Sequence[Sample]) -> list[int]:
    """Rows of up to GOLDEN_SAMPLES samples, as many classes as there can be."""
    first = {sample.label: row for row, sample in reversed(list(enumerate(samples)))}
    rows = [*first.values(), *(row for row in range(len(samples)) if row not in first.values())]
    return rows[:GOLDEN_SAMPLES]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != OWNER)


def _require_free(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise ExportError(f"{out}: exists already; pass --overwrite to replace it, or another --out")
    if out.exists() and not (out / CHECKSUMS).is_file():
        raise ExportError(f"{out}: is not a bundle: it will not be overwritten; pass another --out")
