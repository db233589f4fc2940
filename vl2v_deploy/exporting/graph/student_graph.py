"""The torch student as an ONNX file: uint8 pixels in, logits and embedding out."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from vl2v_deploy.errors import ExportError, one_line
from vl2v_deploy.exporting.graph.macs import LAYERS
from vl2v_deploy.exporting.graph.written_out import written_out
from vl2v_deploy.models.run_directory import Run
from vl2v_deploy.models.student import Student

OPSET = 18
MOST_BYTES = 2**31 - 1  # of a protobuf message
CLASSIFIER = "classifier"  # the initializer (D, K) that holds the zero-shot classifier


class DeployedStudent(nn.Module):
    """Predict as one graph: the student with its classifier inside. Source: VL2V-ADiP, Predict.

    The classifier is the student's own head where its method trained one, else the zero-shot classifier; the
    embedding is the projected one, or of a student without projector its features.

    temperature: T; logits are divided by it, which changes confidence and no label
    classifier:  (D, K) text embeddings times logit scale over T; None for a student with a head
    """

    def __init__(
        self, student: Student, text_emb: Tensor, logit_scale: float, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.student = student
        self.logit_scale, self.temperature = logit_scale, temperature
        # One matrix under one name, whatever the precision: `relabel` replaces it in a finished file.
        self.classifier: Tensor | None
        scaled = (logit_scale / temperature * text_emb).T.contiguous()  # (D, K)
        self.register_buffer(CLASSIFIER, scaled if student.head is None else None)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and L2-normalised embeddings (B, D'), float32; images uint8 (B, S, S, 3)."""
        # Contiguous: from channels-last strides the exporter makes Range and Gather instead of a Reshape.
        features = self.student.backbone(self.student.normalize(images).contiguous())  # (B, d_s)
        projected, class_logits = self.student.output(features)
        embedding = features if projected is None else projected  # (B, D')
        # Not F.normalize and zero_shot_logits: they export as a dozen shape operators and a second norm.
        embedding = embedding / embedding.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        if self.classifier is not None:
            return embedding @ self.classifier, embedding  # (B, K)
        assert class_logits is not None
        return class_logits / self.temperature, embedding


def deployed_student(run: Run, temperature: float = 1.0) -> DeployedStudent:
    """The run's student as it is deployed, in eval mode."""
    return DeployedStudent(run.student, run.text_emb, run.logit_scale, temperature).eval()


def write_onnx(run: Run, path: Path, temperature: float = 1.0) -> None:
    """Write the run's student as an fp32 ONNX file with a dynamic batch; same run, same bytes.

    Raises ExportError as `write_student` does.
    """
    backbone, size_px = run.recipe.student.backbone, run.recipe.student.image_size_px
    write_student(
        deployed_student(run, temperature), path, classes=run.classes, backbone=backbone, size_px=size_px
    )


def write_student(
    student: DeployedStudent, path: Path, *, classes: Sequence[str], backbone: str, size_px: int
) -> None:
    """Write a student as an fp32 ONNX file with a dynamic batch.

    backbone: what errors call it
    size_px:  S, side of the square that the graph takes

    Raises ExportError when torch cannot export the backbone or the checker refuses the graph.
    """
    example = torch.zeros((2, size_px, size_px, 3), dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own internals; the checks below decide
            shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
            captured = torch.export.export(student, (example,), dynamic_shapes=shapes, strict=False)
            program = torch.onnx.export(
                written_out(captured),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits", "embedding"],
                dynamic_shapes=shapes,  # for the name of the batch
                verbose=False,
            )
    except Exception as error:  # torch.export fails with dozens of types
        raise ExportError(f"{backbone} cannot be exported: {one_line(error)}") from error
    assert program is not None
    model = program.model_proto
    _clean(model)
    model.metadata_props.add(key="classes", value=json.dumps(list(classes)))
    _check_signature(model)
    write_model(model, path)


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a checked graph as one file; the same graph gives the same bytes.

    Raises ExportError when it is not valid ONNX, or too large for one file.
    """
    if model.ByteSize() > MOST_BYTES:
        raise ExportError(
            f"{path.name}: is {model.ByteSize() / 1e9:.1f} GB; an ONNX file holds at most 2: choose a "
            "smaller backbone"
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path.name}: is not valid ONNX: {error}") from error
    path.write_bytes(model.SerializeToString(deterministic=True))


def classifier_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the layers that make the logits: the zero-shot classifier, or a student's trained head."""
    producer = {name: node for node in model.graph.node for name in node.output}
    found, waiting = [], ["logits"]
    while waiting:
        node = producer.get(waiting.pop())
        if node is None:
            continue
        if node.op_type in LAYERS:
            found.append(node.name)
        else:
            waiting += node.input
    return list(dict.fromkeys(found))


def _clean(model: onnx.ModelProto) -> None:
    """Drop the exporter's stack traces: they hold paths of this machine, and a bundle goes to strangers."""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.doc_string = model.doc_string = ""


def _check_signature(model: onnx.ModelProto) -> None:
    """The signature that every client relies on (images uint8 in, logits and embedding float32 out)."""
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)
    }
    expected = {
        "images": onnx.TensorProto.UINT8,
        "logits": onnx.TensorProto.FLOAT,
        "embedding": onnx.TensorProto.FLOAT,
    }
    if types != expected:
        raise ExportError(f"the exported graph has inputs and outputs {types}, expected {expected}")
