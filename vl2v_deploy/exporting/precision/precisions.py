"""The student in each precision that was asked for: made, proven, and held against torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from onnxruntime.quantization.calibrate import TensorsData

from vl2v_deploy.client.bundle import MAY_SATURATE, PRECISIONS, Precision, file_of, numeric
from vl2v_deploy.errors import ExportError, ParityError, PrecisionError
from vl2v_deploy.exporting.graph.macs import Macs, count_macs
from vl2v_deploy.exporting.graph.student_graph import write_model
from vl2v_deploy.exporting.images import ExportImages
from vl2v_deploy.exporting.precision.bias_correction import Means, input_means
from vl2v_deploy.exporting.precision.calibration import Calibration
from vl2v_deploy.exporting.precision.fp16 import HEADROOM, to_fp16
from vl2v_deploy.exporting.precision.int8 import Validation, to_int8
from vl2v_deploy.exporting.precision.parity import TOLERANCES, Reference, check_parity
from vl2v_deploy.exporting.precision.qdq import calibrated_ranges
from vl2v_deploy.exporting.precision.saturation import layers_that_may_saturate
from vl2v_deploy.exporting.precision.sessions import answers, open_exact, run_session


class References(NamedTuple):
    """torch's answers, with the temperature in them.

    held_out:   to the parity images
    validation: to those of source validation
    """

    held_out: Reference
    validation: Reference


@dataclass(frozen=True)
class PrecisionOptions:
    """What the user asked for.

    precisions:        to export, fp32 among them
    max_accuracy_drop: points of source validation accuracy that int8 may cost
    max_fp32_share:    largest share of MACs left in fp32 in an fp16 or int8 file, in [0, 1]
    """

    precisions: tuple[Precision, ...] = ("fp32",)
    max_accuracy_drop: float = 0.5
    max_fp32_share: float = 0.2


def precisions_from_text(text: str) -> tuple[Precision, ...]:
    """The precisions of a comma-separated list, in their fixed order.

    Raises ExportError for an unknown one.

    >>> precisions_from_text("int8,fp16")
    ('fp16', 'int8')
    """
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if not wanted or (unknown := [part for part in wanted if part not in PRECISIONS]):
        raise ExportError(
            f"--precision {text}: expected one or more of {', '.join(PRECISIONS)}"
            + (f"; unknown: {', '.join(unknown)}" if wanted else "")
        )
    return tuple(precision for precision in PRECISIONS if precision in wanted)


def write_precisions(
    folder: Path,
    images: ExportImages,
    references: References,
    options: PrecisionOptions,
    advance: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Write the file of each precision into `folder`, beside the fp32 one; what the manifest says of each.

    fp32 and fp16 are held against torch on held-out images. int8 may answer otherwise; how far is judged on
    source validation, where there are more images and where it was chosen.

    references: torch's answers
    advance:    called with what is done next

    Raises PrecisionError when a file computes too little in its precision or loses too much accuracy,
    ParityError when it is too far from torch.
    """
    model = onnx.load(folder / file_of("fp32"))
    records: dict[str, dict[str, Any]] = {}
    make = _Maker(model, images, references.held_out, options, advance)
    for precision in options.precisions:
        advance(f"{precision}: converting")
        made, notes = make.graph(precision)
        path = folder / file_of(precision)
        if precision != "fp32":
            write_model(made, path)
        macs = count_macs(made)
        require_precision(precision, macs, options.max_fp32_share)
        advance(f"{precision}: against torch")
        parity = _parity(path, precision, references)
        records[precision] = {
            "file": path.name,
            "bytes": path.stat().st_size,
            "macs": macs.record(),
            "parity": {"engine": "onnxruntime", **parity},
            **notes,
        }
    return records


def _parity(path: Path, precision: Precision, references: References) -> dict[str, Any]:
    is_int8 = numeric(precision) == "int8"
    try:
        parity = check_parity(
            references.validation if is_int8 else references.held_out,
            partial(run_session, open_exact(path)),
            TOLERANCES["onnxruntime", numeric(precision)],
            path.name,
        )
    except ParityError as error:
        remedy = "; lower --max-accuracy-drop, so that layers stay fp32, or export without int8"
        raise ParityError(f"{error}{remedy if is_int8 else ''}") from error
    return {
        "on": "source validation" if is_int8 else "held-out images",
        **asdict(parity),
        "elsewhere": asdict(TOLERANCES["elsewhere", numeric(precision)]),
    }


def require_precision(precision: Precision, macs: Macs, max_fp32_share: float) -> None:
    """PrecisionError when an fp16 or int8 file leaves more than this share of its MACs in fp32."""
    share = macs.share("fp32")
    if precision != "fp32" and share > max_fp32_share:
        left = sorted((count, name) for name, (kind, count) in macs.by_node.items() if kind == "fp32")[::-1]
        names = ", ".join(f"{name} ({100 * count / macs.total:.0f} %)" for count, name in left[:3])
        raise PrecisionError(
            f"{file_of(precision)}: {100 * share:.1f} % of the MACs are still fp32 (allowed "
            f"{100 * max_fp32_share:.0f} %), the most in {names}; raise --max-fp32-share to accept that"
        )


@dataclass(frozen=True)
class _Maker:
    """Graphs of one student in any precision, with what the manifest says of how each was made."""

    model: onnx.ModelProto
    images: ExportImages
    reference: Reference
    options: PrecisionOptions
    advance: Callable[[str], None]

    def graph(self, precision: Precision) -> tuple[onnx.ModelProto, dict[str, Any]]:
        match precision:
            case "fp32":
                return self.model, {}
            case "fp16":
                return self._fp16()
            case "int8" | "int8-symmetric":
                return self._int8(precision)

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
        return Validation(self.images.validation, self.images.validation_labels, logits, embedding)

    def _fp16(self) -> tuple[onnx.ModelProto, dict[str, Any]]:
        fp16 = to_fp16(self.model, self.images.calibration)
        emulated = check_parity(
            self.reference,
            lambda batch: answers(fp16.emulated, batch),
            TOLERANCES["onnxruntime", "fp16"],
            "fp16 arithmetic",
            # an emulation, no engine: batches are not its question
            batch_sizes=(len(self.reference.images),),
        )
        reasons: dict[str, list[str]] = {}
        for node, reason in fp16.kept.items():
            reasons.setdefault(reason, []).append(node)
        return fp16.model, {
            "kept_in_fp32": reasons,
            "measured_on": {
                "images": len(self.images.calibration),
                "of": "source training",
                "headroom": HEADROOM,
            },
            "emulated_parity": {"engine": "emulated fp16", **asdict(emulated)},
        }

    def _int8(self, precision: Precision) -> tuple[onnx.ModelProto, dict[str, Any]]:
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
        return int8.model, {
            "calibration": {
                "images": len(self.images.calibration),
                "of": "source training",
                "method": int8.chosen,
                "tried": {method: asdict(trial) for method, trial in int8.calibrations.items()},
            },
            "weights": {
                "rule": int8.weights,
                "tried": {rule: asdict(trial) for rule, trial in int8.weight_rules.items()},
                MAY_SATURATE: layers_that_may_saturate(int8.model),
            },
            "layers_in_fp32": list(int8.fp32_layers),
            "sensitivity": int8.sensitivity,
            "budget": {
                "max_accuracy_drop": options.max_accuracy_drop,
                "drop": int8.drop,
                "fp32_accuracy": validation.accuracy,
                "accuracy": int8.final.accuracy,
                "on": "source validation",
                "images": len(validation.labels),
            },
        }


def engine_precision(precision: Precision) -> Precision:
    """The precision of the file that a TensorRT engine of this precision is built from."""
    return "int8-symmetric" if precision == "int8" else precision


def with_engine_files(precisions: Sequence[Precision]) -> tuple[Precision, ...]:
    """The precisions to export, with fp32 and those that TensorRT engines are built from."""
    return with_fp32([*precisions, *(engine_precision(precision) for precision in precisions)])


def with_fp32(precisions: Sequence[Precision]) -> tuple[Precision, ...]:
    """The precisions in their fixed order, and fp32: every bundle has its file."""
    return tuple(precision for precision in PRECISIONS if precision in ("fp32", *precisions))
