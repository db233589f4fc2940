"""Bundles made to break the client: each is refused by a BundleError of one line, with file and field."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.helpers.colour_bundle import SIZE_PX, make_colour_bundle, make_data, seal
from vl2v_deploy.client import Student
from vl2v_deploy.client.bundle import open_bundle
from vl2v_deploy.client.external_data import external_files
from vl2v_deploy.client.session import open_session
from vl2v_deploy.errors import BundleError
from vl2v_deploy.exporting.finished.inspection import print_bundle
from vl2v_deploy.terminal import new_console

SHAPED = np.full((SIZE_PX, SIZE_PX, 3), 7, np.uint8)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_colour_bundle(tmp_path / "bundle", make_data(tmp_path / "data"))


def use(bundle: Path) -> None:
    """What an application and the command line do with a bundle."""
    with Student.load(bundle, threads=1) as student:
        student.predict(SHAPED)
        student.verify()
        print_bundle(student.bundle, new_console())


def refused(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        use(bundle)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 900 and str(bundle) in message
    message.encode("utf-8")
    return message.replace(str(bundle), "")


def external(name: str, location: str) -> TensorProto:
    """A tensor of 6 floats that lie in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[3, 2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_initializer(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)


def in_constant(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["own"], value=tensor))


def in_subgraph(model: onnx.ModelProto, tensor: TensorProto) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "inner", [], [], [tensor])
    outer = helper.make_graph([helper.make_node("If", ["c"], ["z"], then_branch=inner)], "outer", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["v"], then_branch=outer, else_branch=outer))


def in_function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    nodes = [helper.make_node("Constant", [], ["y"], value=tensor)]
    model.functions.append(helper.make_function("own", "F", [], ["y"], nodes, [helper.make_opsetid("", 18)]))


def in_sparse_tensor(model: onnx.ModelProto, tensor: TensorProto) -> None:
    sparse = onnx.SparseTensorProto(values=tensor, dims=[3, 2])
    model.graph.sparse_initializer.append(sparse)


def in_sparse_attribute(model: onnx.ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["y"])
    node.attribute.append(
        onnx.AttributeProto(name="sparse_value", type=11, sparse_tensor={"values": tensor, "dims": [3, 2]})
    )
    model.graph.node.append(node)


def in_training(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(tensor)


PLACES = (
    *(in_initializer, in_constant, in_subgraph, in_function),
    *(in_sparse_tensor, in_sparse_attribute, in_training),
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "location", ["weights.data", "../weights.data", "/dev/zero", "*/_ORT_MEM_ADDR_/*", ""]
)
def test_hostile_weights_outside_the_checksums_are_refused(
    bundle: Path, place: Callable[[onnx.ModelProto, TensorProto], None], location: str
) -> None:
    model = onnx.load(bundle / "student.onnx")
    place(model, external("own", location))
    (bundle / "student.onnx").write_bytes(model.SerializeToString())
    assert external_files(bundle / "student.onnx") == (location,)
    seal(bundle)
    (bundle / "weights.data").write_bytes(bytes(24))  # lies there, unlisted
    (bundle.parent / "weights.data").write_bytes(bytes(24))
    message = refused(bundle)
    assert message.startswith("/student.onnx: has weights in ") and "SHA256SUMS does not list" in message
    with pytest.raises(BundleError, match="has weights in "):
        open_session(model.SerializeToString())


def test_weights_that_the_checksums_list_are_read(bundle: Path) -> None:
    model = onnx.load(bundle / "student.onnx")
    [weights] = [one for one in model.graph.initializer if one.name == "weights"]
    swapped = onnx.numpy_helper.to_array(weights)[:, ::-1]
    model.graph.initializer.remove(weights)
    model.graph.initializer.append(external("weights", "./weights.data"))
    (bundle / "student.onnx").write_bytes(model.SerializeToString())
    (bundle / "weights.data").write_bytes(np.ascontiguousarray(swapped).tobytes())
    seal(bundle)
    red = np.zeros_like(SHAPED) + np.array([200, 0, 0], np.uint8)
    with Student.load(bundle, threads=1) as student:
        assert student.predict(red).label == "green"  # by the swapped weights, so they were read
    (bundle / "weights.data").write_bytes(bytes(24))
    assert "/weights.data: was changed or damaged" in refused(bundle)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\x08\x07location", "is not a protobuf of ONNX"),
        (b"\x3a\xff\xff\xff\xff\x0flocation", "ends within a field"),
        (b"\xba\x80\x80\x80\x10\x00location", "is not a protobuf of ONNX: field"),  # 7 in 32 bits
        (b"\x08\x07\x00\x00ORTM" + bytes(40), "onnxruntime's own format"),
        (b"\x08\x07" + b"\x10\x00" * 2_000_001 + b"\x12\x08location", "more than 2,000,000 fields"),
        (b"\xff" * 30, "onnxruntime cannot load it"),
    ],
)
def test_hostile_bytes_in_place_of_a_graph(bundle: Path, content: bytes, expected: str) -> None:
    (bundle / "student.onnx").write_bytes(content)
    seal(bundle)
    message = refused(bundle)
    assert message.startswith("/student.onnx: ") and expected in message


@pytest.mark.parametrize("name", [b"\x12\x01B", b"logits"])
def test_hostile_names_in_a_graph_that_are_no_text(bundle: Path, name: bytes) -> None:
    """Of a dimension, which onnxruntime loads, and of an output."""
    content = (bundle / "student.onnx").read_bytes()
    assert name in content
    (bundle / "student.onnx").write_bytes(content.replace(name, name[:-1] + b"\x80"))
    seal(bundle)
    assert refused(bundle).startswith("/student.onnx: ")


def nested(depth: int) -> bytes:
    content = onnx.GraphProto(initializer=[external("w", "weights.data")]).SerializeToString()
    for _ in range(depth):
        inside = b"\x32" + varint(len(content)) + content  # attribute.g
        node = b"\x2a" + varint(len(inside)) + inside  # node.attribute
        content = b"\x0a" + varint(len(node)) + node  # graph.node
    return b"\x3a" + varint(len(content)) + content  # model.graph


def varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def test_hostile_nesting_is_bounded(tmp_path: Path) -> None:
    assert external_files(nested(15)) == ("weights.data",)
    with pytest.raises(ValueError, match="nests deeper"):
        external_files(nested(5000))


MANIFEST: list[tuple[str, Any, str]] = [
    ("classes", ["green", 3], "classes[1]: expected a string"),
    ("classes", ["green"], "logits: expected tensor(float) of shape (batch, 1)"),
    ("classes", ["green", "\ud800"], "classes[1]: expected a string"),
    ("classes", [], "classes: expected at least one name"),
    ("classes", ["a", "b", "c"], "logits: expected tensor(float) of shape (batch, 3)"),
    ("image_size_px", 10**400, "image_size_px: expected a whole number"),
    ("image_size_px", 10**6, "image_size_px: expected 1 to 8192"),
    ("image_size_px", 32, "images: expected tensor(uint8) of shape (batch, 32, 32, 3)"),
    ("embedding_dim", 4, "embedding: expected tensor(float) of shape (batch, 4)"),
    ("logit_scale", 10**400, "logit_scale: expected a number"),
    ("logit_scale", float("nan"), "logit_scale: expected a finite number above 0"),
    ("confidence.temperature", 0, "confidence.temperature: expected a finite number above 0"),
    ("confidence.temperature", "warm", "confidence.temperature: expected a number"),
    ("confidence.abstain_below", float("nan"), "confidence.abstain_below: expected a finite number"),
    ("confidence", [1], "confidence: expected an object"),
    ("confidence", {}, "confidence.temperature: is missing"),
    ("precisions.fp32.macs.share", {"fp32": 1.0}, "macs.share: expected a finite number for each of"),
    ("precisions.fp32.file", "golden/../student.onnx", "is not in SHA256SUMS"),
    ("precisions.fp32.file", "manifest.json", "expected a file that ends in .onnx"),
    ("precisions.fp32.bytes", 1e300, "precisions.fp32.bytes: expected a whole number"),
    ("engines", {"x": 1}, "engines.x: expected an object"),
    ("format", [[[]]], "is of format [[[]]]"),
    ("preprocessing", "x" * 10**6, "is not 'jpeg"),
]


@pytest.mark.parametrize(("field", "value", "expected"), MANIFEST)
def test_hostile_manifests(bundle: Path, field: str, value: Any, expected: str) -> None:
    file = bundle / "manifest.json"
    tree = json.loads(file.read_text())
    *above, key = field.split(".")
    holder = tree
    for step in above:
        holder = holder[step]
    holder[key] = value
    file.write_text(json.dumps(tree))
    seal(bundle)
    assert expected in refused(bundle)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": 2, "a": ' + "9" * 5000 + "}", "null", "", '{"format": 2}', "\ufeff{}"]
)
def test_hostile_json_as_a_manifest(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    seal(bundle)
    assert refused(bundle).startswith("/manifest.json: ")


def test_hostile_sizes_are_refused_unread(bundle: Path) -> None:
    for name, size in (("manifest.json", 65_000_000), ("SHA256SUMS", 1_000_001)):
        seal(bundle)
        with (bundle / name).open("r+b") as file:
            os.truncate(file.fileno(), size)
        if name == "manifest.json":
            seal(bundle)
        assert f"/{name}: is larger than" in refused(bundle)


ARRAYS: list[tuple[str, Any, str]] = [
    ("names", None, "names: is missing"),
    ("names", np.array([3]), "names: expected at least one text"),
    ("names", np.array(["../../etc/passwd"]), "is not in SHA256SUMS"),
    ("names", np.array(["/etc/passwd"]), "is not in SHA256SUMS"),
    ("names", np.array(["expected.npz"]), "expected.npz: is not an image"),
    ("images", np.zeros((1, 8, 8, 3), np.uint8), "images: expected uint8 (1, 16, 16, 3)"),
    ("images", np.zeros((1, 16, 16, 3)), "images: expected uint8"),
    ("logits", np.zeros((1, 3)), "logits: expected numbers of shape (1, 2)"),
    ("logits_fp32", None, "logits_fp32: is missing"),
    ("logits_fp32", np.array([["a", "b"]]), "logits_fp32: expected numbers"),
    ("logits", np.array([[None, None]], dtype=object), "its arrays cannot be read"),
]


@pytest.mark.parametrize(("name", "value", "expected"), ARRAYS)
def test_hostile_golden_samples(bundle: Path, name: str, value: Any, expected: str) -> None:
    file = bundle / "golden" / "expected.npz"
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays.pop(name)
    if value is not None:
        arrays[name] = value
    np.savez(file, **arrays)
    seal(bundle)
    message = refused(bundle)
    assert message.startswith("/golden/expected.npz: ") and expected in message


def test_hostile_headers_of_arrays_take_no_memory(bundle: Path) -> None:
    file = bundle / "golden" / "expected.npz"
    shapes = ("(10**9,)", "(9999999999999,)", "(-1, 2)", "(1, 2) + x", "((((((")
    for shape in shapes:
        with zipfile.ZipFile(file, "w") as archive:
            header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            archive.writestr(
                "logits.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
            )
        seal(bundle)
        assert refused(bundle).startswith("/golden/expected.npz: its arrays cannot be read: ")


def changed_graph(bundle: Path, change: Callable[[onnx.GraphProto], None]) -> None:
    model = onnx.load(bundle / "student.onnx")
    change(model.graph)
    (bundle / "student.onnx").write_bytes(model.SerializeToString())
    seal(bundle)


def test_hostile_graphs_that_fail_when_they_run(bundle: Path) -> None:
    def gather_too_far(graph: onnx.GraphProto) -> None:
        graph.initializer.append(helper.make_tensor("far", TensorProto.INT64, [2], [0, 99]))
        graph.node[-1].output[0] = "few"
        graph.node.append(helper.make_node("Gather", ["few", "far"], ["logits"], axis=1))

    changed_graph(bundle, gather_too_far)
    message = refused(bundle)
    assert message.startswith("/student.onnx: ") and "fails on 1 images" in message


def test_hostile_graphs_whose_answers_have_another_shape(bundle: Path) -> None:
    def twice(graph: onnx.GraphProto) -> None:
        graph.node[-1].output[0] = "once"
        graph.node.append(helper.make_node("Concat", ["once", "once"], ["logits"], axis=0))
        graph.output[0].type.tensor_type.shape.dim[0].dim_param = "other"

    changed_graph(bundle, twice)
    assert "/student.onnx: logits: expected shape (1, 2), got (2, 2)" in refused(bundle)


@pytest.mark.parametrize("name", ["images", "logits", "embedding"])
def test_hostile_graphs_without_an_input_or_output(bundle: Path, name: str) -> None:
    def renamed(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.input[:] = ["other" if one == name else one for one in node.input]
            node.output[:] = ["other" if one == name else one for one in node.output]
        for value in (*graph.input, *graph.output):
            value.name = "other" if value.name == name else value.name

    changed_graph(bundle, renamed)
    assert name in refused(bundle)


def test_answers_that_are_no_numbers_abstain_without_a_warning(bundle: Path) -> None:
    def infinite(graph: onnx.GraphProto) -> None:
        graph.initializer.append(helper.make_tensor("inf", TensorProto.FLOAT, [1], [float("inf")]))
        graph.node[-1].output[0] = "finite"
        graph.node.append(helper.make_node("Add", ["finite", "inf"], ["logits"]))

    changed_graph(bundle, infinite)
    with Student.load(bundle, threads=1) as student:
        assert student.predict(SHAPED).abstained
        assert not student.verify().passed


def test_hostile_lists_of_checksums(bundle: Path) -> None:
    sums = (bundle / "SHA256SUMS").read_text()
    for line in (
        "0" * 64 + "  a\x1bb\n",
        "0" * 64 + "  ../x\n",
        "0" * 64 + "  /etc/passwd\n",
        "x\n",
        "\x00" * 64 + "  x\n",
    ):
        (bundle / "SHA256SUMS").write_text(sums + line)
        assert "/SHA256SUMS: line " in refused(bundle)


def test_an_open_bundle_knows_what_was_verified(bundle: Path) -> None:
    listed = {line.split("  ")[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()}
    opened = open_bundle(bundle)
    assert set(opened.sums) == listed and opened.listed("recipe.yaml") == bundle / "recipe.yaml"
    (bundle / "other.yaml").write_text("a: 1")
    with pytest.raises(BundleError, match=r"other\.yaml: is not in SHA256SUMS"):
        opened.listed("other.yaml")
