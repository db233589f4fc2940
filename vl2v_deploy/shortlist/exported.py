"""An untrained student as the files that are timed: fp32, and int8 with ranges of generated pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from vl2v_deploy.errors import RecipeError, VL2VError, one_line
from vl2v_deploy.exporting.graph.macs import count_macs
from vl2v_deploy.exporting.graph.student_graph import write_model, write_student
from vl2v_deploy.exporting.precision.calibration import tensor_ranges
from vl2v_deploy.exporting.precision.qdq import quantized
from vl2v_deploy.exporting.precision.saturation import WEIGHT_RULES
from vl2v_deploy.exporting.trial import CLASSES, untrained_student
from vl2v_deploy.recipe import TEACHER_TOWER, Recipe, method_of, methods_of, recipe_of_method

CALIBRATION_IMAGES = 4


@dataclass(frozen=True)
class Exported:
    """The files of one backbone.

    parameters: of the backbone alone
    macs:       multiply-accumulates of the student for one image, as far as they can be counted
    files:      by precision
    refused:    by precision that it has no file of, why
    """

    backbone: str
    parameters: int
    macs: int
    files: dict[str, Path]
    refused: dict[str, str]


def recipe_of_student(recipe: Recipe) -> Recipe:
    """The recipe of one method whose student has a backbone of choice.

    Raises RecipeError where no method trains one.
    """
    for method in methods_of(recipe):
        one = recipe_of_method(recipe, method)
        if method_of(one).student and one.student.backbone != TEACHER_TOWER:
            return one
    raise RecipeError(
        f"method: {', '.join(methods_of(recipe))} trains no backbone of choice; shortlist is for recipes "
        "with a student.backbone of timm"
    )


def with_backbone(recipe: Recipe, backbone: str) -> Recipe:
    """The recipe with another backbone and timm's default weights of it."""
    student = recipe.student.model_copy(update={"backbone": backbone, "weights": "timm"})
    return recipe.model_copy(update={"student": student})


def export_untrained(recipe: Recipe, folder: Path) -> Exported:
    """The files of the recipe's student with random weights: how fast they are does not depend on weights.

    Nothing is said of what int8 costs in accuracy, which does.

    Raises ModelError when the student cannot be built, ExportError when it cannot be exported.
    """
    name, size_px = recipe.student.backbone, recipe.student.image_size_px
    deployed = untrained_student(recipe)
    fp32 = folder / f"{name}.onnx"
    write_student(deployed, fp32, classes=CLASSES, backbone=name, size_px=size_px)
    model = onnx.load(fp32)
    files, refused = {"fp32": fp32}, {}
    try:
        files["int8"] = _write_int8(model, size_px, folder / f"{name}.int8.onnx")
    except VL2VError as error:
        refused["int8"] = str(error)
    except Exception as error:  # onnxruntime's quantizer and sessions raise dozens of types
        refused["int8"] = f"int8: cannot be made of this backbone: {one_line(error)}"
    parameters = sum(parameter.numel() for parameter in deployed.student.backbone.parameters())
    return Exported(name, parameters, count_macs(model).total, files, refused)


def _write_int8(model: onnx.ModelProto, size_px: int, path: Path) -> Path:
    shape = (CALIBRATION_IMAGES, size_px, size_px, 3)
    images = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    ranges = tensor_ranges(model, images, "minmax")
    write_model(quantized(model, ranges, symmetric=False, weights=WEIGHT_RULES[0]), path)
    return path
