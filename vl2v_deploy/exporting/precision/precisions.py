"""The student in each precision: converted, its precision proven, its answers compared with torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import onnx
from onnxruntime.quantization.calibrate import TensorsData

from vl2v_deploy.client.bundle import Precision, file_of, numeric
from vl2v_deploy.client.onnx_file import (
    Budget,
    CalibrationFacts,
    Fp16Facts,
    Int8Facts,
    MeasuredOn,
    OnnxFile,
    Parity,
    WeightFacts,
)
from vl2v_deploy.errors import ExportError, ParityError, PrecisionError, VL2VError, one_line
from vl2v_deploy.exporting.graph.macs import Macs, count_macs
from vl2v_deploy.exporting.graph.student_graph import write_model
from vl2v_deploy.exporting.images import ExportImages
from vl2v_deploy.exporting.options import ExportOptions
from vl2v_deploy.exporting.precision.bias_correction import Means, input_means
from vl2v_deploy.exporting.precision.calibration import Calibration
from vl2v_deploy.exporting.precision.fp16 import HEADROOM, to_fp16
from vl2v_deploy.exporting.precision.int8 import Validation, to_int8
from vl2v_deploy.exporting.precision.parity import Reference, check_parity
from vl2v_deploy.exporting.precision.qdq import calibrated_ranges
from vl2v_deploy.exporting.precision.saturation import layers_that_may_saturate
from vl2v_deploy.exporting.precision.sessions import answers, open_exact, run_session
from vl2v_deploy.exporting.precision.tolerances import TOLERANCES


class References(NamedTuple):
    """torch's answers, with the temperature in them.

    held_out:   to the parity images
    validation: to those of source validation, on which int8 is judged: it was chosen there, on more images
    """

    held_out: Reference
    validation: Reference

    def of(self, precision: str) -> Reference:
        """What a file or engine of this precision is judged by."""
        return self.validation if numeric(precision) == "int8" else self.held_out


class Written(NamedTuple):
    """What came of each precision that was asked for.

    files:   by precision, what the manifest says of the file
    refused: by precision that this student cannot have, why
    """

    files: dict[str, OnnxFile]
    refused: dict[str, str]


def write_precisions(
    folder: Path,
    images: ExportImages,
    references: References,
    options: ExportOptions,
    advance: Callable[[str], None],
) -> Written:
    """Write the file of each precision into `folder`, beside the fp32 one; what the manifest says of it.

    fp32 and fp16 are compared with torch on held-out images. int8 may give other answers; how far they are
    off is judged on source validation, which has more images and on which it was chosen. A precision that
    cannot be made, or whose file is wrong, leaves no file and does not keep the others from being tried.

    references: torch's answers
    advance:    called with what is done next

    Raises ParityError when the fp32 file is too far from torch.
    """
    model = onnx.load(folder / file_of("fp32"))
    written = Written({}, {})
    make = _Maker(model, images, references.held_out, options, advance)
    for precision in options.files:
        try:
            written.files[precision] = _write(folder, precision, make, references)
        except ExportError as error:
            if precision == "fp32":
                raise
            (folder / file_of(precision)).unlink(missing_ok=True)
            written.refused[precision] = str(error)
    return written


def require_all(refused: Mapping[str, str]) -> None:
    """PrecisionError with a line for each precision that could not be made."""
    if refused:
        lines = [*refused.values()]
        lines[-1] += "; or pass --skip-refused for a bundle of the other precisions"
        raise PrecisionError("\n".join(lines))


def _write(folder: Path, precision: Precision, make: _Maker, references: References) -> OnnxFile:
    make.advance(f"{precision}: converting")
    made = make.graph(precision)
    path = folder / file_of(precision)
    if precision != "fp32":
        write_model(made.model, path)
    macs = count_macs(made.model)
    require_precision(precision, macs, make.options.max_fp32_share)
    make.advance(f"{precision}: against torch")
    return OnnxFile(
        file=path.name,
        bytes=path.stat().st_size,
        macs=macs.facts(),
        parity=_parity(path, precision, references),
        accuracy=None,
        fp16=made.fp16,
        int8=made.int8,
        weights=made.weights,
    )


def _parity(path: Path, precision: Precision, references: References) -> Parity:
    is_int8 = numeric(precision) == "int8"
    try:
        parity = check_parity(
            references.of(precision),
            partial(run_session, open_exact(path)),
            TOLERANCES["onnxruntime", numeric(precision)],
            path.name,
        )
    except ParityError as error:
        remedy = "; lower --max-accuracy-drop, so that layers stay fp32, or export without int8"
        raise ParityError(f"{error}{remedy if is_int8 else ''}") from error
    return replace(
        parity,
        engine="onnxruntime",
        on="source validation" if is_int8 else "held-out images",
        elsewhere=TOLERANCES["elsewhere", numeric(precision)],
    )


def require_precision(precision: Precision, macs: Macs, max_fp32_share: float) -> None:
    """PrecisionError when an fp16 or int8 file has, or may have, more of its MACs in fp32 than this."""
    if precision != "fp32" and max_fp32_share < 1 and (reason := macs.unproven()):
        raise PrecisionError(
            f"{file_of(precision)}: its precision cannot be proven: {reason}; raise --max-fp32-share to 1 to "
            "accept that"
        )
    share = macs.share("fp32")
    if precision != "fp32" and share > max_fp32_share:
        left = sorted((count, name) for name, (kind, count) in macs.by_node.items() if kind == "fp32")[::-1]
        names = ", ".join(f"{name} ({100 * count / macs.total:.0f} %)" for count, name in left[:3])
        raise PrecisionError(
            f"{file_of(precision)}: {100 * share:.1f} % of the MACs are still fp32 (allowed "
            f"{100 * max_fp32_share:.0f} %), the most in {names}; raise --max-fp32-share to accept that"
        )


class _Made(NamedTuple):
    """A graph, and what the manifest says of how it was made."""

    model: onnx.ModelProto
    fp16: Fp16Facts | None = None
    int8: Int8Facts | None = None
    weights: WeightFacts | None = None


@dataclass(frozen=True)
class _Maker:
    """Graphs of one student in any precision."""

    model: onnx.ModelProto
    images: ExportImages
    reference: Reference
    options: ExportOptions
    advance: Callable[[str], None]

    def graph(self, precision: Precision) -> _Made:
        """The graph in a precision; PrecisionError where it cannot be made."""
        try:
            match precision:
                case "fp32":
                    return _Made(self.model)
                case "fp16":
                    return self._fp16()
                case "int8" | "int8-symmetric":
                    return self._int8(precision)
        except VL2VError:
            raise
        except Exception as error:  # onnxruntime's quantizer and sessions raise dozens of types
            raise PrecisionError(
                f"{precision}: cannot be made of this backbone: {one_line(error)}"
            ) from error

    @cached_property
    def _ranges(self) -> dict[Calibration, TensorsData]:
        return calibrated_ranges(
            self.model, self.images.calibration, lambda doing: self.advance(f"int8: {doing}")
        )

    @cached_property
    def _means(self) -> Means:
        self.advance("int8: means of the layers' inputs")
        return input_means(self.model, self.images.calibration)

    @cached_property
    def _validation(self) -> Validation:
        logits, embedding = answers(self.model, self.images.validation)
        images = self.images
        return Validation(
            images.validation, images.validation_labels, images.validation_weights, logits, embedding
        )

    def _fp16(self) -> _Made:
        fp16 = to_fp16(self.model, self.images.calibration)
        emulated = check_parity(
            self.reference,
            lambda batch: answers(fp16.emulated, batch),
            TOLERANCES["onnxruntime", "fp16"],
            "fp16 arithmetic",
            # an emulation, no engine: batch sizes make no difference
            batch_sizes=(len(self.reference.images),),
        )
        reasons: dict[str, tuple[str, ...]] = {}
        for node, reason in fp16.kept.items():
            reasons[reason] = (*reasons.get(reason, ()), node)
        facts = Fp16Facts(
            kept_in_fp32=reasons,
            measured_on=MeasuredOn(len(self.images.calibration), "source training", HEADROOM),
            emulated_parity=replace(emulated, engine="emulated fp16"),
        )
        return _Made(fp16.model, fp16=facts)

    def _int8(self, precision: Precision) -> _Made:
        options, validation = self.options, self._validation
        int8 = to_int8(
            self.model,
            self._ranges,
            self._means,
            validation,
            symmetric=precision == "int8-symmetric",
            max_drop=options.max_accuracy_drop,
            max_fp32_share=options.max_fp32_share,
            advance=lambda doing: self.advance(f"{precision}: {doing}"),
        )
        facts = Int8Facts(
            calibration=CalibrationFacts(
                images=len(self.images.calibration),
                of="source training",
                method=int8.chosen,
                tried={str(method): trial for method, trial in int8.calibrations.items()},
            ),
            layers_in_fp32=int8.fp32_layers,
            sensitivity=int8.sensitivity,
            budget=Budget(
                max_accuracy_drop=options.max_accuracy_drop,
                drop=int8.drop,
                accuracy=int8.final.accuracy,
                on="source validation",
                images=len(validation.labels),
                fp32_accuracy=validation.accuracy,
            ),
        )
        weights = WeightFacts(
            rule=int8.weights,
            tried={str(rule): trial for rule, trial in int8.weight_rules.items()},
            layers_that_may_saturate=tuple(layers_that_may_saturate(int8.model)),
        )
        return _Made(int8.model, int8=facts, weights=weights)
