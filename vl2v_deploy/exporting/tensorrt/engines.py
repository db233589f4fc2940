"""TensorRT engines of a bundle: one for each request and precision, run and compared where a GPU can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vl2v_deploy.client.bundle import Precision, engine_precision, file_of, numeric
from vl2v_deploy.client.onnx_file import OnnxFile, Parity, Tolerance
from vl2v_deploy.client.passport import Passport
from vl2v_deploy.errors import BundleError, ExportError, MissingExtra, ParityError, ProviderError
from vl2v_deploy.exporting.options import EngineRequest
from vl2v_deploy.exporting.precision.parity import Reference, RunEngine, check_parity
from vl2v_deploy.exporting.precision.precisions import References
from vl2v_deploy.exporting.precision.tolerances import TOLERANCES
from vl2v_deploy.exporting.progress import ExportProgress
from vl2v_deploy.exporting.tensorrt.build import build_engine, engine_name, require_buildable
from vl2v_deploy.exporting.tensorrt.library import here
from vl2v_deploy.exporting.tensorrt.passport import read_passport, require_runnable
from vl2v_deploy.exporting.tensorrt.runner import filling, open_engine, prove_engine


def build_engines(
    requests: Sequence[EngineRequest],
    folder: Path,
    precisions: Sequence[Precision],
    files: Mapping[str, OnnxFile],
    references: References,
    progress: ExportProgress,
) -> dict[str, Passport]:
    """Build every engine into `folder` and compare what can run here; passports by plan file.

    An engine that gives other answers than torch stays where it is, marked unusable in its passport.

    requests:   that `require_buildable` has accepted
    precisions: to build, each from its own ONNX file
    files:      what the manifest says of each precision's ONNX file
    references: torch's answers; int8 is judged on source validation, as its ONNX file is

    Raises ExportError when the ONNX file of a precision is not there.
    """
    if requests and (missing := [name for name in precisions if engine_precision(name) not in files]):
        raise ExportError(
            f"{', '.join(missing)}: TensorRT takes the file {file_of(engine_precision(missing[0]))}, which "
            f"is not there; export the run with --precision {engine_precision(missing[0])}"
        )
    passports: dict[str, Passport] = {}
    for request in requests:
        trt = require_buildable(request)
        for precision in (engine_precision(name) for name in precisions):
            plan = folder / engine_name(request, numeric(precision))
            progress.say(f"building {plan.name}")
            build_engine(
                trt,
                request,
                folder / file_of(precision),
                plan,
                precision=numeric(precision),
                mac_shares=files[precision].macs.share,
                progress=progress.bar,
            )
            progress.say(f"running {plan.name}")
            passports[plan.name] = _compared(plan, references.of(precision))
    return passports


def not_runnable_here(plan: Path) -> str | None:
    """Why this machine cannot run the engine, in one line; None when it can.

    Raises BundleError when plan or passport is damaged, ParityError for an engine marked unusable.
    """
    passport = read_passport(plan)
    try:
        require_runnable(passport, here(passport.flavour))
    except (MissingExtra, ProviderError) as error:
        return str(error)
    return None


def check_answers(plan: Path, reference: Reference) -> Parity:
    """An engine's answers against torch's at min, opt and max batch; its passport is left as it is.

    How often int8 gives the same label is not judged: golden samples are too few to tell.

    Raises ParityError when they are outside the tolerance, and what `open_engine` raises.
    """
    with open_engine(plan) as runner:
        sizes = runner.signature.profile.sizes
        tolerance = _tolerance(plan)
        if not tolerance.ties:
            tolerance = replace(tolerance, agreement=0.0)
        return check_parity(reference, filling(runner), tolerance, plan.name, sizes)


def _tolerance(plan: Path) -> Tolerance:
    return TOLERANCES["tensorrt", read_passport(plan).precision]


def _prove(plan: Path, reference: Reference) -> None:
    """`prove_engine` with our parity; it writes the outcome into the passport."""
    tolerance = _tolerance(plan)

    def check(run: RunEngine, batch_sizes: tuple[int, ...]) -> Parity:
        return check_parity(reference, run, tolerance, plan.name, batch_sizes)

    prove_engine(plan, check)


def _compared(plan: Path, reference: Reference) -> Passport:
    """The engine's passport, after a comparison where this machine can run it."""
    if not_runnable_here(plan) is None:
        with suppress(ParityError, ProviderError, BundleError):  # the passport says so
            _prove(plan, reference)
    return read_passport(plan)
