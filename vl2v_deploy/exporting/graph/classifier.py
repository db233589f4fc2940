"""The zero-shot classifier inside a finished ONNX file: found, and replaced by that of other classes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.errors import ExportError
from vl2v_deploy.exporting.graph.student_graph import CLASSIFIER

CLASSES = "classes"  # the entry of the file's metadata
# What may be between the product with the classifier and the logits: nothing that depends on their number.
_BEHIND = ("Cast", "Identity")


def with_classifier(
    model: onnx.ModelProto, classifier: Floats, classes: Sequence[str], name: str
) -> onnx.ModelProto:
    """A copy of the graph for other classes; everything before the classifier is left as it is.

    classifier: (D, K') text embeddings times the scale of the logits
    classes:    K' names, for the file's metadata
    name:       what errors call the graph, usually its file

    Raises ExportError when the graph does not end in one product with a float32 matrix `classifier`, or when
    its D is another.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    product, tensor = _classifier_of(copy, name)
    dim, was = tensor.dims
    if classifier.shape != (dim, len(classes)):
        raise ExportError(
            f"{name}: expected a classifier of shape ({dim}, {len(classes)}), got {classifier.shape}"
        )
    tensor.CopyFrom(numpy_helper.from_array(classifier, CLASSIFIER))
    widened = {CLASSIFIER, *_behind(copy, product, name)}
    for value in (*copy.graph.value_info, *copy.graph.output):
        if value.name in widened:
            columns = value.type.tensor_type.shape.dim[-1]
            if columns.dim_value != was:
                raise ExportError(f"{name}: {value.name} should have {was} columns, got {columns.dim_value}")
            columns.dim_value = len(classes)
    _set_metadata(copy, classes)
    return copy


def _classifier_of(model: onnx.ModelProto, name: str) -> tuple[NodeProto, TensorProto]:
    """The product with the classifier, and the classifier (D, K)."""
    tensors = [tensor for tensor in model.graph.initializer if tensor.name == CLASSIFIER]
    users = [node for node in model.graph.node if CLASSIFIER in node.input]
    if (
        [(tensor.data_type, len(tensor.dims)) for tensor in tensors] != [(TensorProto.FLOAT, 2)]
        or [node.op_type for node in users] != ["MatMul"]
        or users[0].input[1] != CLASSIFIER
    ):
        raise ExportError(
            f"{name}: expected one float32 matrix '{CLASSIFIER}' that the embedding is multiplied with: "
            "this file cannot be relabelled; export its run again with this version"
        )
    return users[0], tensors[0]


def _behind(model: onnx.ModelProto, product: NodeProto, name: str) -> set[str]:
    """Names of all that is computed from the product, itself included; the logits must be among it."""
    behind = set(product.output)
    for node in model.graph.node:  # in the order of computation
        if not behind.intersection(node.input):
            continue
        if node.op_type not in _BEHIND:
            raise ExportError(
                f"{name}: {node.op_type} '{node.name}' works on the logits: this file cannot be relabelled"
            )
        behind.update(node.output)
    if "logits" not in behind:
        raise ExportError(f"{name}: its logits do not come from '{CLASSIFIER}': it cannot be relabelled")
    return behind


def _set_metadata(model: onnx.ModelProto, classes: Sequence[str]) -> None:
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != CLASSES]
    del model.metadata_props[:]
    for key, value in (*kept, (CLASSES, json.dumps(list(classes)))):
        model.metadata_props.add(key=key, value=value)
