"""The export of an untrained student: whether its backbone exports is known before it is trained."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F

from vl2v_deploy.client.bundle import ONNX
from vl2v_deploy.client.onnx_file import MacShares, Parity
from vl2v_deploy.exporting.graph.macs import count_macs, uncounted
from vl2v_deploy.exporting.graph.student_graph import DeployedStudent, write_student
from vl2v_deploy.exporting.precision.parity import check_parity, reference_answers
from vl2v_deploy.exporting.precision.sessions import open_exact, run_session
from vl2v_deploy.exporting.precision.tolerances import TOLERANCES
from vl2v_deploy.models.student import build_student
from vl2v_deploy.recipe import Recipe, method_of, methods_of, recipe_of_method

CLASSES = ("first_class", "second_class")
DIM = 512  # in place of the teacher's, who is not asked; it changes the last matrix alone
LOGIT_SCALE = 100.0
IMAGES, BATCHES = 3, (1, 3)


@dataclass(frozen=True)
class ExportTrial:
    """The fp32 file of an untrained student.

    parity: with torch, on noise; None where random weights give answers that are not finite
    """

    backbone: str
    image_size_px: int
    bytes: int
    macs: MacShares
    parity: Parity | None


def try_exports(recipe: Recipe) -> list[ExportTrial]:
    """The export of each backbone that the recipe's methods train, with random weights.

    Raises ModelError when a student cannot be built, ExportError when it cannot be exported, ParityError when
    the file gives other answers than torch.
    """
    recipes = [recipe_of_method(recipe, method) for method in methods_of(recipe)]
    students = {one.student.backbone: one for one in recipes if method_of(one).student}
    return [_try_export(one) for one in students.values()]


def in_words(trial: ExportTrial) -> str:
    """What came of it, in a line."""
    missing = "".join(f"; MACs not counted of {line}" for line in uncounted(trial.macs))
    compared = (
        f"embeddings off torch's by at most {trial.parity.max_embedding_error:.1e}"
        if trial.parity
        else "not compared with torch, whose answers with random weights are not finite"
    )
    return (
        f"Export of {trial.backbone} at {trial.image_size_px} px, untrained: fp32 ONNX of "
        f"{trial.bytes / 1e6:.1f} MB, {trial.macs.total / 1e6:.0f} M MACs{missing}; {compared}"
    )


def untrained_student(recipe: Recipe) -> DeployedStudent:
    """The student of a recipe of one method with random weights, as it would be deployed, in eval mode.

    Raises ModelError when it cannot be built.
    """
    torch.manual_seed(recipe.seed)
    student = build_student(recipe, DIM, len(CLASSES), weights=False)
    size_px = recipe.student.image_size_px
    with torch.inference_mode():
        projected, _ = student(torch.zeros((1, size_px, size_px, 3), dtype=torch.uint8))
    dim = DIM if projected is None else projected.shape[1]
    text_emb = F.normalize(torch.randn(len(CLASSES), dim), dim=1)  # (K, D)
    return DeployedStudent(student, text_emb, LOGIT_SCALE).eval()


def _try_export(recipe: Recipe) -> ExportTrial:
    size_px, backbone = recipe.student.image_size_px, recipe.student.backbone
    pixels = np.random.default_rng(0).integers(256, size=(IMAGES, size_px, size_px, 3), dtype=np.uint8)
    deployed = untrained_student(recipe)
    reference = reference_answers(deployed, pixels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ONNX
        write_student(deployed, path, classes=CLASSES, backbone=backbone, size_px=size_px)
        parity = None
        if np.isfinite(reference.embedding).all():
            run = partial(run_session, open_exact(path))
            tolerance = TOLERANCES["onnxruntime", "fp32"]
            parity = check_parity(reference, run, tolerance, f"{backbone}, untrained", BATCHES)
        macs = count_macs(onnx.load(path)).facts()
        return ExportTrial(backbone, size_px, path.stat().st_size, macs, parity)
