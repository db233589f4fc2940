"""A bundle made by hand that tells green from red by the mean colour: what it answers is known."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper
from PIL import Image

from tests.helpers.manifests import made_up_file, made_up_manifest
from vl2v_deploy.client import preprocess
from vl2v_deploy.client.manifest import RunAccuracy, text_of_manifest

SIZE_PX = 16
COLOURS = {"green": (20, 200, 30), "red": (210, 30, 20)}
DOMAINS = ("cartoon", "photo", "sketch")
PER_CLASS = 20
# In the target's folder 'green' this many images are red: the student, which sees colour, gets them wrong.
MISLABELLED = 4
RIGHT = np.array([[0, 1], [1, 0], [0, 0]], np.float32)  # (D=RGB, K=green red)


def make_data(root: Path) -> Path:
    """root/domain/class/image: the target is 'sketch'."""
    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        for name in COLOURS:
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(PER_CLASS):
                wrong = domain == "sketch" and name == "green" and number < MISLABELLED
                colour = COLOURS["red" if wrong else name]
                pixels = np.clip(np.array(colour) + rng.integers(-15, 16, (20, 24, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return root


def make_colour_bundle(root: Path, data: Path, **weights: np.ndarray) -> Path:
    """A bundle with a file of each precision; fp32 is right, and the weights (3, 2) of others are given."""
    (root / "golden").mkdir(parents=True)
    files = {"fp32": "student.onnx"}
    onnx.save(colour_graph(RIGHT), root / "student.onnx")
    for precision, matrix in weights.items():
        files[precision] = f"student.{precision}.onnx"
        onnx.save(colour_graph(matrix), root / files[precision])
    image = next((data / "photo" / "red").iterdir())
    (root / "golden" / image.name).write_bytes(image.read_bytes())
    with Image.open(image) as opened:
        pixels = preprocess(opened, SIZE_PX)
    expected = {"names": np.array([image.name]), "images": pixels[None], "logits": np.zeros((1, 2))}
    np.savez(root / "golden" / "expected.npz", allow_pickle=False, **expected, logits_fp32=expected["logits"])
    recipe = {
        "data": {"root": str(data), "target": "sketch"},
        "teacher": {"model": "local-dir:/nowhere"},
        "student": {"backbone": "resnet18", "image_size_px": SIZE_PX},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    accuracy = {"cartoon": 1.0, "photo": 0.98, "sketch": 0.95}
    manifest = made_up_manifest(
        classes=tuple(COLOURS),
        image_size_px=SIZE_PX,
        embedding_dim=3,
        precisions={precision: made_up_file(file) for precision, file in files.items()},
        accuracy=RunAccuracy("sketch", student=accuracy, teacher=accuracy, linear_probe=accuracy),
    )
    (root / "manifest.json").write_text(text_of_manifest(manifest))
    seal(root)
    return root


def seal(root: Path) -> None:
    """SHA256SUMS of what is there."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(root)}\n" for p in files]
    (root / "SHA256SUMS").write_text("".join(lines))


def colour_graph(weights: np.ndarray) -> onnx.ModelProto:
    """Mean colour, L2-normalised, against the axes that `weights` (3, 2) names."""
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("LpNormalization", ["mean"], ["embedding"], axis=1, p=2),
        helper.make_node("MatMul", ["embedding", "weights"], ["logits"]),
    ]
    initializers = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("weights", TensorProto.FLOAT, [3, 2], weights.flatten()),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", SIZE_PX, SIZE_PX, 3])
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 2]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", 3]),
    ]
    graph = helper.make_graph(nodes, "colours", [images], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
