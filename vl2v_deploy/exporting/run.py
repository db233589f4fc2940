"""From a finished run to a bundle whose every file was checked against the torch student."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from vl2v_deploy.client.bundle import ONNX, engine_precision, open_bundle
from vl2v_deploy.client.checksums import CHECKSUMS
from vl2v_deploy.client.manifest import Confidence, Manifest
from vl2v_deploy.client.onnx_file import OnnxFile
from vl2v_deploy.client.student import Student
from vl2v_deploy.client.target_words import TargetWords
from vl2v_deploy.errors import ExportError, ParityError
from vl2v_deploy.exporting.accuracy import validation_answers, with_accuracy
from vl2v_deploy.exporting.confidence import calibrate
from vl2v_deploy.exporting.golden import one_of_each_class, write_golden
from vl2v_deploy.exporting.graph.macs import uncounted
from vl2v_deploy.exporting.graph.student_graph import deployed_student, write_onnx
from vl2v_deploy.exporting.images import ExportImages, export_images
from vl2v_deploy.exporting.manifest import manifest_of, write_manifest
from vl2v_deploy.exporting.options import ExportOptions
from vl2v_deploy.exporting.precision.parity import Reference, reference_answers
from vl2v_deploy.exporting.precision.precisions import References, require_all, write_precisions
from vl2v_deploy.exporting.precision.sessions import answers_of_session, open_exact
from vl2v_deploy.exporting.progress import ExportProgress, export_progress
from vl2v_deploy.exporting.reference import add_reference
from vl2v_deploy.exporting.tensorrt.build import require_buildable
from vl2v_deploy.exporting.tensorrt.engines import build_engines
from vl2v_deploy.exporting.tensorrt.passport import outcome, unusable
from vl2v_deploy.folders import whole_folder
from vl2v_deploy.models.device import limit_torch_threads
from vl2v_deploy.models.run_directory import RECIPE, Run, load_run
from vl2v_deploy.names import command
from vl2v_deploy.terminal import new_console


def export_run(
    run_path: Path, out: Path, options: ExportOptions | None = None, *, overwrite: bool = False
) -> Path:
    """The bundle at `out`, made from a run directory; nothing is there unless every ONNX file is right.

    A precision that the student cannot have is an error once all were tried, or with `skip_refused` left out.
    An engine whose answers are wrong is kept, marked unusable, and reported by a ParityError at the end.

    Raises RunError for a bad run, ExportError for a graph that cannot be exported, an engine that cannot be
    built here or when `out` is in the way, PrecisionError and ParityError when a file is not what was asked
    for, DataError when the run's images are gone.
    """
    options = options or ExportOptions()
    require_free(out, overwrite)
    for request in options.engines:  # before the minutes that the rest takes
        require_buildable(request)
    limit_torch_threads()
    run = load_run(run_path)
    console = new_console(stderr=True)
    with export_progress(console) as progress, whole_folder(out) as partial:
        manifest = _write_bundle(partial, run, options, progress)
    _report(console, out, manifest)
    if wrong := unusable(manifest.engines):
        raise ParityError(f"{out}: {wrong}")
    return out


def require_free(out: Path, overwrite: bool) -> None:
    """ExportError when `out` exists and may not be replaced, or is no bundle."""
    if out.exists() and not overwrite:
        raise ExportError(f"{out}: exists already; pass --overwrite to replace it, or another --out")
    if out.exists() and not (out / CHECKSUMS).is_file():
        raise ExportError(f"{out}: is not a bundle: it will not be overwritten; pass another --out")


def _write_bundle(partial: Path, run: Run, options: ExportOptions, progress: ExportProgress) -> Manifest:
    """All of the bundle, read back once as a client would load it."""
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
    confidence, references = _calibrated(run, images, options.coverage)
    progress.say("fp32: exporting")
    write_onnx(run, partial / ONNX, confidence.temperature)
    files, refused = write_precisions(partial, images, references, options, progress.say)
    if not options.skip_refused:
        require_all(refused)
    possible = [name for name in options.engine_precisions if engine_precision(name) not in refused]
    engines = build_engines(options.engines, partial, possible, files, references, progress)
    advance = progress.count("accuracy on held-out images", len(images.held_out_samples()))
    validation = validation_answers(files, partial, images)
    files = with_accuracy(files, partial, images, confidence, validation, advance)
    progress.say("writing the bundle")
    _write_golden(partial, images, references.held_out, files)
    dim = references.held_out.embedding.shape[1]
    reference = add_reference(partial, images, confidence, validation)
    manifest = replace(
        manifest_of(run, dim, confidence, files, engines), reference=reference, refused=refused or None
    )
    write_manifest(partial, manifest)
    _read_back(partial)
    return manifest


def _calibrated(run: Run, images: ExportImages, coverage: float) -> tuple[Confidence, References]:
    """How confidence is calibrated, and torch's answers with the temperature in them."""
    uncalibrated = reference_answers(deployed_student(run), images.validation)
    labels, weights = images.validation_labels, images.validation_weights
    confidence = calibrate(uncalibrated.logits, labels, weights, coverage, run.recipe.validation_mean)
    temperature = confidence.temperature
    return confidence, References(
        held_out=reference_answers(deployed_student(run, temperature), images.parity),
        validation=replace(
            uncalibrated,
            logits=uncalibrated.logits / np.float32(temperature),
            logit_scale=uncalibrated.logit_scale / temperature,
        ),
    )


def _write_golden(
    partial: Path, images: ExportImages, reference: Reference, files: Mapping[str, OnnxFile]
) -> None:
    """Golden samples, one of each class, with what every file answers to them here."""
    golden = one_of_each_class(images.parity_samples)
    chosen = Reference(
        reference.images[golden], reference.logits[golden], reference.embedding[golden], reference.logit_scale
    )
    answers = {
        precision: answers_of_session(open_exact(partial / made.file), chosen.images)[0]
        for precision, made in files.items()
    }
    write_golden(partial, [images.parity_samples[row] for row in golden], chosen, answers)


def _read_back(partial: Path) -> None:
    """The bundle as a client will load it, or ExportError."""
    bundle = open_bundle(partial)
    for precision in bundle.precisions:
        verification = Student.load(bundle, precision=precision).verify()
        if verification.argmax_agreement < 1 or verification.max_pixel_error > 0:
            raise ExportError(
                f"{partial}: the client does not reproduce the golden samples in {precision}: {verification}"
            )


def _report(console: Console, out: Path, manifest: Manifest) -> None:
    lines, words = [], manifest.run.target_words if manifest.run else TargetWords()
    for made in manifest.precisions.values():
        accuracy, parity = made.accuracy, made.parity
        assert accuracy is not None  # measured by this export
        sizes = ", ".join(map(str, parity.batch_sizes))
        shares = ", ".join(f"{100 * share:.1f} % {kind}" for kind, share in made.macs.share.items() if share)
        shares += "".join(f", not counted: {line}" for line in uncounted(made.macs))
        lines.append(
            f"{out / made.file}: {made.bytes / 1e6:.1f} MB; MACs {shares}; accuracy ID "
            f"{100 * accuracy.id:.1f} %, {words.short} {accuracy.ood_text}{words.marks}; largest logit error "
            f"on {parity.images} images ({parity.on}) at batch {sizes}: {parity.max_logit_error:.1e}"
        )
    lines += [f"{out}: without {name}: {why}" for name, why in (manifest.refused or {}).items()]
    lines += [f"{out / name}: {outcome(passport)}" for name, passport in manifest.engines.items()]
    lines.append(f"Next: {command('inspect', out)}; {command('predict', out)} IMAGE")
    console.print("\n".join(lines), soft_wrap=True)
