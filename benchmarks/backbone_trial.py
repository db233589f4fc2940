"""A timm backbone with random weights through export's own converters: what benchmarks/backbones.py runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import isfinite
from pathlib import Path
from statistics import median
from time import process_time, thread_time
from typing import Any

import onnx
import timm
import torch
import torch.nn.functional as F
from torch import nn

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.client.student import open_session
from vl2v_deploy.errors import VL2VError, one_line
from vl2v_deploy.exporting.graph.macs import count_macs, uncounted
from vl2v_deploy.exporting.graph.student_graph import DeployedStudent, write_model, write_student
from vl2v_deploy.exporting.precision.calibration import tensor_ranges
from vl2v_deploy.exporting.precision.fp16 import to_fp16
from vl2v_deploy.exporting.precision.parity import Reference, check_parity, compare, reference_answers
from vl2v_deploy.exporting.precision.precisions import require_precision
from vl2v_deploy.exporting.precision.qdq import quantized
from vl2v_deploy.exporting.precision.saturation import WEIGHT_RULES
from vl2v_deploy.exporting.precision.sessions import open_exact, run_session
from vl2v_deploy.exporting.precision.tolerances import TOLERANCES
from vl2v_deploy.models.student import Student, build_student
from vl2v_deploy.recipe import recipe_from_tree

REFERENCE = "tf_efficientnet_lite0"
DIM, CLASSES, LOGIT_SCALE, IMAGES = 512, 7, 20.0, 4
BATCHES = (1, 3)
ROUNDS, SECONDS_A_FILE = (5, 20), 0.3  # at least and at most; ends after so many seconds of each file
PRECISIONS, TIMED = ("fp32", "fp16", "int8"), ("fp32", "int8")  # fp16 is for GPUs
MAX_FP32_SHARE = 0.2  # export's default


def measured(name: str, size_px: int | None, most_parameters: float, scratch: Path) -> dict[str, Any]:
    """All that is known of one backbone; an error of a precision stands in its place."""
    cpu_s: dict[str, float] = {}
    with _timed(cpu_s, "build"):
        size_px = size_px or timm.models.get_pretrained_cfg(name).input_size[1]
        student = random_student(name, size_px)
        parameters = sum(parameter.numel() for parameter in student.student.parameters())
        if parameters > most_parameters:
            return {"error": f"has {parameters / 1e6:.0f} M parameters, more than are tried here"}
        images = pictures(IMAGES, size_px)
        reference = reference_answers(student, images)
    files = {precision: scratch / f"{name}.{precision}.onnx" for precision in PRECISIONS}
    try:
        with _timed(cpu_s, "export"):
            write_student(student, files["fp32"], classes=[*"abcdefg"], backbone=name, size_px=size_px)
        model = onnx.load(files["fp32"])
        macs = count_macs(model)
        found: dict[str, Any] = {
            "image_size_px": size_px,
            "parameters": parameters,
            "macs": macs.total,
            "macs_uncounted": uncounted(macs.facts()),
            "operators": sorted({node.op_type for node in model.graph.node}),
        }
        for precision in PRECISIONS:
            with _timed(cpu_s, precision):
                found[precision] = _compared(precision, model, reference, files[precision])
        with _timed(cpu_s, "latency"):
            sound = {p: files[p] for p in TIMED if "error" not in found[p]}
            found["latency"] = latencies(sound, images[:1], reference_file(scratch))
        return found | {"cpu_s": {step: round(seconds, 1) for step, seconds in cpu_s.items()}}
    finally:
        for file in files.values():
            file.unlink(missing_ok=True)


def random_student(name: str, size_px: int) -> DeployedStudent:
    """A student as `distill` builds it, with random weights by which every layer has a say.

    Layer scales and last norms begin at zero or nearly so, which would hide the branch behind them.
    """
    torch.manual_seed(0)
    tree = {
        "data": {"root": "unused", "target": "unused"},
        "teacher": {"model": "ViT-B-16", "pretrained": "openai"},
        "student": {"backbone": name, "image_size_px": size_px},
    }
    recipe = recipe_from_tree(tree, source="benchmarks/backbones.py")
    student = build_student(recipe, DIM, CLASSES, weights=False)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.abs().max() < 1e-2:
                nn.init.normal_(parameter, std=0.1)
        _settle_norms(student, size_px)
    return DeployedStudent(student, F.normalize(torch.randn(CLASSES, DIM), dim=1), LOGIT_SCALE).eval()


def _settle_norms(student: Student, size_px: int) -> None:
    """BatchNorm statistics of the pictures, so that values stay in range from layer to layer."""
    norms = [m for m in student.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches
        norm.train()
    if norms:
        student(torch.from_numpy(pictures(2 * IMAGES, size_px, seed=1)))
    student.eval()


def pictures(count: int, size_px: int, seed: int = 0) -> Pixels:
    """Blurry random pictures; uint8 (count, S, S, 3)."""
    coarse = torch.rand(count, 3, 7, 7, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size=size_px, mode="bicubic").clamp(0, 1)
    pixels: Pixels = (255 * smooth).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def _compared(precision: str, model: onnx.ModelProto, reference: Reference, file: Path) -> dict[str, Any]:
    """The file of a precision, made and compared with torch, or why there is none.

    int8 is compared only, not judged: how much eight bits lose depends on the weights.
    """
    try:
        made = _MAKE[precision](model, reference.images)
        write_model(made, file)
        macs = count_macs(made)
        require_precision(precision, macs, MAX_FP32_SHARE)  # type: ignore[arg-type]
        session, tolerance = open_exact(file), TOLERANCES["onnxruntime", precision]
        if precision == "int8":
            parity = compare(reference, *run_session(session, reference.images), tolerance)
        else:
            run = partial(run_session, session)
            parity = check_parity(reference, run, tolerance, file.name, BATCHES)
    except VL2VError as error:
        return {"error": _without_folder(str(error), file)}
    except Exception as error:  # onnxruntime's quantizer and sessions raise dozens of types
        return {"error": _without_folder(one_line(error), file)}
    if not isfinite(parity.max_embedding_error):
        return {"error": "its answers are not finite"}
    return {
        "bytes": file.stat().st_size,
        "share": round(macs.share(precision), 4),  # type: ignore[arg-type]
        "max_embedding_error": parity.max_embedding_error,
        "max_logit_error": parity.max_logit_error,
        "min_cosine": parity.min_cosine,
        "agreement": parity.agreement,
    }


def _int8(model: onnx.ModelProto, images: Pixels) -> onnx.ModelProto:
    ranges = tensor_ranges(model, images, "minmax")
    return quantized(model, ranges, symmetric=False, weights=WEIGHT_RULES[0])


_MAKE: dict[str, Callable[[onnx.ModelProto, Pixels], onnx.ModelProto]] = {
    "fp32": lambda model, _: model,
    "fp16": lambda model, images: to_fp16(model, images).model,
    "int8": _int8,
}


def _without_folder(words: str, file: Path) -> str:
    """What an error says, without the scratch folder of this machine."""
    return words.replace(f"{file.parent}/", "")


def reference_file(scratch: Path) -> Path:
    """The backbone that times are compared with, exported once for all."""
    file = scratch / f"{REFERENCE}.reference.onnx"
    if not file.exists():
        partial = file.with_suffix(".partial")
        write_student(
            random_student(REFERENCE, 224), partial, classes=[*"abcdefg"], backbone=REFERENCE, size_px=224
        )
        partial.rename(file)
    return file


def latencies(files: dict[str, Path], image: Pixels, reference: Path) -> dict[str, Any]:
    """Milliseconds of the computing thread by file, in turn, and each as a multiple of the reference's."""
    sessions = {
        name: open_session(file, threads=1) for name, file in (files | {"reference": reference}).items()
    }
    inputs = {name: {"images": image} for name in files} | {"reference": {"images": pictures(1, 224)}}
    samples: dict[str, list[float]] = {name: [] for name in sessions}
    fewest, most = ROUNDS
    for number in range(most + 1):
        for name, session in sessions.items():
            started = thread_time()
            session.run(["logits", "embedding"], inputs[name])
            if number:  # the first is a warm-up
                samples[name].append(1e3 * (thread_time() - started))
        if number >= fewest and min(map(sum, samples.values())) > 1e3 * SECONDS_A_FILE:
            break
    medians = {name: median(values) for name, values in samples.items()}
    return {
        "rounds": len(samples["reference"]),
        "median_ms": {name: round(value, 3) for name, value in medians.items()},
        **{f"{name}_to_reference": round(medians[name] / medians["reference"], 3) for name in files},
    }


@contextmanager
def _timed(into: dict[str, float], step: str) -> Iterator[None]:
    started = process_time()
    try:
        yield
    finally:
        into[step] = process_time() - started
