"""Files for other people's runtimes to run: of a CNN and a ViT, in every precision, with real images."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vl2v_deploy.client.bundle import ONNX, Precision, file_of
from vl2v_deploy.client.preprocess import Pixels, open_image, preprocess
from vl2v_deploy.client.student import open_session
from vl2v_deploy.data.emojidg import emojidg_root
from vl2v_deploy.exporting.graph.student_graph import deployed_student, write_onnx
from vl2v_deploy.exporting.images import ExportImages
from vl2v_deploy.exporting.options import ExportOptions
from vl2v_deploy.exporting.precision.parity import (
    Reference,
    RunEngine,
    check_parity,
    reference_answers,
)
from vl2v_deploy.exporting.precision.precisions import References, write_precisions
from vl2v_deploy.exporting.precision.sessions import answers_of_session
from vl2v_deploy.exporting.precision.tolerances import TOLERANCES
from vl2v_deploy.models.student import Student, build_student
from vl2v_deploy.recipe import recipe_from_tree

Kind = Literal["cnn", "vit"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8-symmetric")
CASES: list[tuple[Kind, Precision]] = [(kind, name) for kind in ("cnn", "vit") for name in PRECISIONS]
DIM, LOGIT_SCALE = 64, 20.0
SOURCES, TARGET = ("fluent-3d", "noto"), "fluent-high-contrast"
IMAGES = 64  # of 144 held-out ones


@dataclass(frozen=True)
class Exported:
    """A folder with the student's file in every precision, and what answers are expected of them.

    torch:       the torch student's answers
    onnxruntime: precision -> onnxruntime's answers to the same file
    """

    folder: Path
    torch: Reference
    onnxruntime: dict[Precision, Reference]


def check_runtime(exported: Exported, precision: Precision, runtime: str, run_engine: RunEngine) -> None:
    """ParityError when a runtime is too far from torch, or in int8 from onnxruntime with the same file."""
    name = f"{runtime}: {file_of(precision)}"
    if not precision.startswith("int8"):
        check_parity(exported.torch, run_engine, TOLERANCES[runtime, precision], name)
        return
    # Eight bits cost about as much in any runtime, far more than one runtime may be from another.
    check_parity(exported.torch, run_engine, TOLERANCES["onnxruntime", "int8"], name)
    onnxruntime = exported.onnxruntime[precision]
    check_parity(onnxruntime, run_engine, TOLERANCES[runtime, "int8"], f"{name}, against onnxruntime", (16,))


@functools.cache
def exported(kind: Kind, folder: Path) -> Exported:
    """The files of one student, made once a test session.

    folder: the session's
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VL2V_DEPLOY_CACHE", str(folder / "interop-cache"))
        # Which calibration is the best is not the question here, and the others take ten times as long.
        patch.setattr("vl2v_deploy.exporting.precision.qdq.CALIBRATIONS", ("minmax",))
        return _export(kind, folder / f"interop-{kind}")


def _export(kind: Kind, folder: Path) -> Exported:
    folder.mkdir()
    size_px = {"cnn": 96, "vit": 64}[kind]
    train = _images(size_px, SOURCES, slice(0, 12))
    validation = _images(size_px, SOURCES, slice(12, 15))
    held_out, _ = _images(size_px, (*SOURCES, TARGET), slice(15, 19))
    student, text_emb = _fitted(kind, size_px, *train)
    classes = sorted(path.name for path in (emojidg_root() / TARGET).iterdir())
    run = SimpleNamespace(
        student=student,
        text_emb=text_emb,
        logit_scale=LOGIT_SCALE,
        classes=classes,
        recipe=SimpleNamespace(student=SimpleNamespace(image_size_px=size_px, backbone=kind)),
    )
    write_onnx(run, folder / ONNX)  # type: ignore[arg-type]
    whole = reference_answers(deployed_student(run), held_out)  # type: ignore[arg-type]
    # Where two labels are all but tied eight bits decide by chance: the images with the clearest ones.
    second, best = np.sort(whole.logits, axis=1).T[-2:]
    clearest = np.sort((second - best).argsort()[:IMAGES])
    reference = Reference(held_out[clearest], whole.logits[clearest], whole.embedding[clearest], LOGIT_SCALE)
    held_out = reference.images
    images = ExportImages(
        size_px,
        train[0][::4],
        *validation,
        validation_weights=np.full(len(validation[1]), 1 / len(validation[1])),
        validation_groups=tuple(map(str, range(len(validation[1])))),
        parity_samples=(),
        parity=held_out,
        held_out=(),
    )
    options = ExportOptions(PRECISIONS, max_accuracy_drop=100.0)  # not the question here either
    write_precisions(folder, images, References(reference, reference), options, lambda _: None)
    answers = {
        precision: answers_of_session(open_session(folder / file_of(precision)), held_out)
        for precision in PRECISIONS
    }
    return Exported(
        folder,
        reference,
        {
            precision: replace(reference, logits=logits, embedding=embedding)
            for precision, (logits, embedding) in answers.items()
        },
    )


def _images(size_px: int, domains: tuple[str, ...], numbers: slice) -> tuple[Pixels, np.ndarray]:
    """EmojiDG's images of these domains and their labels; `numbers` of each domain and class."""
    found = [
        (preprocess(open_image(path), size_px), label)
        for domain in domains
        for label, folder in enumerate(sorted((emojidg_root() / domain).iterdir()))
        for path in sorted(folder.iterdir())[numbers]
    ]
    pixels, labels = zip(*found, strict=True)
    return np.stack(pixels), np.array(labels)


def _fitted(kind: Kind, size_px: int, images: Pixels, labels: np.ndarray) -> tuple[Student, torch.Tensor]:
    """A student whose projector is the ridge regression to its classes' embeddings, and these (K, D)."""
    torch.manual_seed(0)
    backbone = {
        "cnn": {"backbone": "tf_efficientnet_lite0", "weights": "builtin"},  # trained on ImageNet
        "vit": {"backbone": "test_vit"},
    }[kind]
    recipe = recipe_from_tree(
        {
            "data": {"root": "builtin:emojidg", "target": TARGET},
            "teacher": {"model": "builtin:emojidg-teacher"},
            "student": {**backbone, "image_size_px": size_px},
        },
        source="test",
    )
    student = build_student(recipe, DIM, int(labels.max()) + 1, weights=kind == "cnn")
    if kind == "vit":
        _wake(student.backbone)
    text_emb = F.normalize(torch.randn(int(labels.max()) + 1, DIM), dim=1)
    with torch.no_grad():
        features = torch.cat([student.features(torch.from_numpy(batch)) for batch in _batches(images)])
        mean = features.mean(dim=0)
        centred = features - mean  # (N, d_s)
        gram = centred.T @ centred
        ridge = 0.01 * gram.diagonal().mean() * torch.eye(len(gram))
        weight = torch.linalg.solve(gram + ridge, centred.T @ text_emb[torch.from_numpy(labels)])  # (d_s, D)
        assert student.projector is not None
        student.projector.weight.copy_(weight.T)
        student.projector.bias.copy_(-mean @ weight)
    return student, text_emb


def _wake(vit: nn.Module) -> None:
    """timm's random weights are so small that the blocks add next to nothing: a wrong one would not show."""
    with torch.no_grad():
        for module in vit.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=0.3 * module.in_features**-0.5)


def _batches(images: Pixels) -> Iterator[Pixels]:
    return iter(np.array_split(images, -(-len(images) // 32)))


def require_standard_operators(path: Path) -> None:
    """What onnxruntime runs may not run elsewhere where it holds onnxruntime's own operators."""
    model = onnx.load(path)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 18}
    assert {node.domain for node in model.graph.node} == {""}
