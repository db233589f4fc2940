"""From a finished run to a bundle whose every file was checked against the torch student."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from rich.console import Console

from vl2v_deploy.client.bundle import CHECKSUMS, ONNX, Precision, numeric
from vl2v_deploy.client.student import Student as ClientStudent
from vl2v_deploy.errors import ExportError, ParityError
from vl2v_deploy.exporting.accuracy import accuracy_record, evaluate_files
from vl2v_deploy.exporting.confidence import Confidence, calibrate
from vl2v_deploy.exporting.golden import one_of_each_class, write_golden
from vl2v_deploy.exporting.graph.student_graph import deployed_student, write_onnx
from vl2v_deploy.exporting.images import ExportImages, export_images
from vl2v_deploy.exporting.manifest import manifest_of, write_manifest
from vl2v_deploy.exporting.precision.parity import Reference, reference_answers
from vl2v_deploy.exporting.precision.precisions import (
    PrecisionOptions,
    References,
    precisions_from_text,
    with_engine_files,
    with_fp32,
    write_precisions,
)
from vl2v_deploy.exporting.precision.sessions import answers_of_session, open_exact
from vl2v_deploy.exporting.progress import ExportProgress, export_progress
from vl2v_deploy.exporting.tensorrt.build import (
    EngineOptions,
    EngineRequest,
    engine_requests,
    require_buildable,
)
from vl2v_deploy.exporting.tensorrt.engines import build_engines
from vl2v_deploy.exporting.tensorrt.passport import outcome, unusable
from vl2v_deploy.folders import whole_folder
from vl2v_deploy.models.device import limit_torch_threads
from vl2v_deploy.models.run_directory import RECIPE, Run, load_run


@dataclass(frozen=True)
class ExportOptions:
    """What `vl2v-deploy export` was asked for.

    engines:            TensorRT engines to build, in each of engine_precisions
    engine_precisions:  fp32, fp16, int8
    calibration_images: most source training images to calibrate fp16 and int8 on
    coverage:           share of source validation images above the threshold of abstention, in (0, 1]
    max_images:         most held-out images a domain to measure accuracy on; None = all
    data_root:          where the run's images are now; None = as in its recipe
    allow_changed_data: go on when they are not the images that the run was distilled from
    """

    precision: PrecisionOptions = field(default_factory=PrecisionOptions)
    engines: tuple[EngineRequest, ...] = ()
    engine_precisions: tuple[Precision, ...] = ("fp32",)
    calibration_images: int = 256
    coverage: float = 0.9
    max_images: int | None = 1000
    data_root: Path | None = None
    allow_changed_data: bool = False


def options_from_cli(**given: Any) -> ExportOptions:
    """From the options of `vl2v-deploy export`, by their names; ExportError for one that is wrong."""
    for name in ("max_accuracy_drop", "max_fp32_share", "coverage"):
        if not math.isfinite(given[name]):
            raise ExportError(f"--{name.replace('_', '-')}: expected a number, got {given[name]}")
    workspace_mib = given["workspace_mib"]
    engines = engine_requests(
        trt=given["trt"],
        rtx=given["rtx"],
        profile=given["profile"],
        compute_capability=given["compute_capability"],
        options=EngineOptions(
            builder_level=given["builder_level"],
            workspace_bytes=workspace_mib * 2**20 if workspace_mib else None,
            tf32=given["tf32"],
            version_compatible=given["version_compatible"],
            hardware_compatible=given["hardware_compatible"],
            timing_cache=given["timing_cache"],
        ),
    )
    asked = precisions_from_text(given["precision"])
    files = with_engine_files(asked) if engines else with_fp32(asked)
    return ExportOptions(
        PrecisionOptions(files, given["max_accuracy_drop"], given["max_fp32_share"]),
        tuple(engines),
        tuple(dict.fromkeys(map(numeric, asked))),
        calibration_images=given["calibration_images"],
        coverage=given["coverage"],
        max_images=given["max_images"],
        data_root=given["data_root"],
        allow_changed_data=given["allow_changed_data"],
    )


def export_run(
    run_path: Path, out: Path, options: ExportOptions | None = None, *, overwrite: bool = False
) -> Path:
    """The bundle at `out`, made from a run directory; nothing is there unless every ONNX file is right.

    An engine whose answers are wrong is kept, marked unusable, and reported by a ParityError at the end.

    Raises RunError for a bad run, ExportError for a graph that cannot be exported or when `out` is in the
    way, PrecisionError and ParityError when a file is not what was asked for, DataError when the run's
    images are gone.
    """
    options = options or ExportOptions()
    require_free(out, overwrite)
    builders = [(require_buildable(request), request) for request in options.engines]
    limit_torch_threads()
    run = load_run(run_path)
    console = Console(stderr=True)
    with export_progress(console) as progress, whole_folder(out, RECIPE) as partial:
        records, passports = _fill(partial, run, options, builders, progress)
    _report(console, out, records, passports)
    if wrong := unusable(passports):
        raise ParityError(f"{out}: {wrong}")
    return out


def _fill(
    partial: Path,
    run: Run,
    options: ExportOptions,
    builders: Sequence[tuple[ModuleType, EngineRequest]],
    progress: ExportProgress,
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """All of the bundle; what its manifest says of each precision, and its engines' passports."""
    shutil.copyfile(run.path / RECIPE, partial / RECIPE)
    progress.say("reading images")
    images = export_images(
        run,
        calibration_images=options.calibration_images,
        max_images=options.max_images,
        data_root=options.data_root,
        allow_changed=options.allow_changed_data,
    )
    progress.say("calibrating confidence")
    uncalibrated = reference_answers(deployed_student(run), images.validation)
    confidence = calibrate(uncalibrated.logits, images.validation_labels, options.coverage)
    progress.say("fp32: exporting")
    write_onnx(run, partial / ONNX, confidence.temperature)
    references = References(
        held_out=reference_answers(deployed_student(run, confidence.temperature), images.parity),
        validation=replace(
            uncalibrated,
            logits=uncalibrated.logits / np.float32(confidence.temperature),
            logit_scale=uncalibrated.logit_scale / confidence.temperature,
        ),
    )
    records = write_precisions(partial, images, references, options.precision, progress.say)
    wanted = options.engine_precisions
    passports = build_engines(builders, partial, wanted, records, references, progress)
    _measure(partial, records, images, confidence, progress)
    progress.say("writing the bundle")
    _write_rest(partial, run, images, references.held_out, confidence, records, passports)
    _read_back(partial, tuple(records))
    return records, passports


def require_free(out: Path, overwrite: bool) -> None:
    """ExportError when `out` exists and may not be replaced, or is no bundle."""
    if out.exists() and not overwrite:
        raise ExportError(f"{out}: exists already; pass --overwrite to replace it, or another --out")
    if out.exists() and not (out / CHECKSUMS).is_file():
        raise ExportError(f"{out}: is not a bundle: it will not be overwritten; pass another --out")


def _measure(
    partial: Path,
    records: Mapping[str, dict[str, Any]],
    images: ExportImages,
    confidence: Confidence,
    progress: ExportProgress,
) -> None:
    """Put the accuracy of each file into its record."""
    files: dict[str, Path] = {precision: partial / record["file"] for precision, record in records.items()}
    advance = progress.count("accuracy on held-out images", len(images.held_out_samples()))
    validation, held_out = evaluate_files(files, images, advance)
    for precision, record in records.items():
        record["accuracy"] = accuracy_record(
            validation[precision], held_out[precision], held_out["fp32"], images, confidence.abstain_below
        )


def _write_rest(
    partial: Path,
    run: Run,
    images: ExportImages,
    reference: Reference,
    confidence: Confidence,
    records: Mapping[str, dict[str, Any]],
    passports: Mapping[str, Any],
) -> None:
    """Golden samples, manifest and checksums."""
    golden = one_of_each_class(images.parity_samples)
    chosen = Reference(
        reference.images[golden], reference.logits[golden], reference.embedding[golden], reference.logit_scale
    )
    answers = {
        precision: answers_of_session(open_exact(partial / record["file"]), chosen.images)[0]
        for precision, record in records.items()
    }
    write_golden(partial, [images.parity_samples[row] for row in golden], chosen, answers)
    dim = reference.embedding.shape[1]
    write_manifest(partial, manifest_of(run, dim, asdict(confidence), records, passports))


def _read_back(partial: Path, precisions: Sequence[str]) -> None:
    """The bundle as a client will load it, or ExportError."""
    for precision in precisions:
        verification = ClientStudent.load(partial, precision=precision).verify()
        if verification.argmax_agreement < 1 or verification.max_pixel_error > 0:
            raise ExportError(
                f"{partial}: the client does not reproduce the golden samples in {precision}: {verification}"
            )


def _report(
    console: Console, out: Path, records: Mapping[str, dict[str, Any]], passports: Mapping[str, Any]
) -> None:
    lines = []
    for record in records.values():
        accuracy, parity = record["accuracy"], record["parity"]
        sizes = ", ".join(map(str, parity["batch_sizes"]))
        shares = ", ".join(
            f"{100 * share:.1f} % {kind}" for kind, share in record["macs"]["share"].items() if share
        )
        lines.append(
            f"{out / record['file']}: {record['bytes'] / 1e6:.1f} MB; MACs {shares}; accuracy ID "
            f"{100 * accuracy['id']:.1f} %, OOD {100 * accuracy['ood']:.1f} %; largest logit error on "
            f"{parity['images']} images ({parity['on']}) at batch {sizes}: {parity['max_logit_error']:.1e}"
        )
    lines += [f"{out / name}: {outcome(passport)}" for name, passport in passports.items()]
    lines.append(f"Next: vl2v-deploy inspect {out}; vl2v-deploy predict {out} IMAGE")
    console.print("\n".join(lines), soft_wrap=True)
