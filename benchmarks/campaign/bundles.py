"""Mutated bundles: each loads and answers, or is refused by a BundleError.

Most are given checksums that fit again, as whoever changes a bundle on purpose would, so that the code behind
the checksums is reached.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console

from benchmarks.campaign.workers import ROOT, Counts, run_part
from tests.helpers.colour_bundle import RIGHT, make_colour_bundle, make_data, seal
from vl2v_deploy.client import Student
from vl2v_deploy.errors import BundleError
from vl2v_deploy.exporting.finished.inspection import print_bundle

DOCUMENTED = (BundleError,)
MOST_MUTATIONS = 3
DETAILED = ROOT / "benchmarks" / "results" / "precisions_manifest.json"
EXPECTED = "golden/expected.npz"
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "a\nb", "\ud800", "../x", "/etc/passwd", "<script>", "=1", "9" * 5000, "\0", "tensor", "fp32"),
    *([], [[]], {}, [None], ["a"], {"a": 1}, {"": {}}, ["green", "red"], [1, 2, 3], {"fp32": {}}),
)
ODD_SHAPES = ((), (0,), (1,), (2,), (3, 2), (10**6, 10**6), (1, 16, 16, 3), (2, 16, 16, 3), (1, 2), (0, 2))
ODD_TYPES = ("f4", "f8", "u1", "i8", "U3", "S3", "c16", "?", "V7", "M8[s]", "O")


@dataclass(frozen=True)
class Shared:
    """Bundles to mutate, an image that each can answer, and where the mutated one is put."""

    bundles: tuple[Path, ...]
    image: bytes
    mutated: Path


def run(seed: int, count: int) -> Counts:
    """`count` mutated bundles, each loaded, run on an image, verified and inspected."""
    return run_part(__name__, seed, count)


def prepared(folder: Path) -> Shared:
    """A bundle that tells colours apart in two precisions, and one with the manifest of a real one."""
    data = make_data(folder / "data")
    plain = make_colour_bundle(folder / "plain", data, fp16=RIGHT)
    detailed = make_colour_bundle(folder / "detailed", data)
    own = json.loads((detailed / "manifest.json").read_text())
    full = json.loads(DETAILED.read_text(encoding="utf-8"))
    for name in (
        "classes",
        "image_size_px",
        "embedding_dim",
        "logit_scale",
        "input",
        "outputs",
        "files",
        "engines",
    ):
        full[name] = own[name]
    full["precisions"] = {"fp32": full["precisions"]["fp32"] | {"file": "student.onnx"}}
    full["confidence"] |= {"temperature": 1.0}
    (detailed / "manifest.json").write_text(json.dumps(full))
    seal(detailed)
    image = next((data / "photo" / "red").iterdir()).read_bytes()
    return Shared((plain, detailed), image, folder / "mutated")


def attempt(shared: Shared, rng: random.Random) -> None:
    """Mutate a bundle, then do with it what a user would."""
    root = shared.mutated
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(rng.choice(shared.bundles), root)
    for _ in range(rng.randint(1, MOST_MUTATIONS)):
        rng.choice(MUTATIONS)(root, rng)
    if rng.random() < 0.9:
        seal(root)
    if rng.random() < 0.05 and (root / "SHA256SUMS").exists():
        _flip(root / "SHA256SUMS", rng)
    with Student.load(root, threads=1, precision=rng.choice(("auto", "fp32", "fp16"))) as student:
        student.predict(shared.image, logits=True)
        student.embed(shared.image)
        student.predict_batch([shared.image] * 3, workers=1)
        student.verify()
        print_bundle(student.bundle, Console(file=io.StringIO(), width=100, markup=False, emoji=False))


def _some_file(root: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))


def _flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8, 50))):
        if content:
            content[rng.randrange(len(content))] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
    path.write_bytes(content)


def _bytes_flipped(root: Path, rng: random.Random) -> None:
    _flip(_some_file(root, rng), rng)


def _cut_or_spliced(root: Path, rng: random.Random) -> None:
    path = _some_file(root, rng)
    content = path.read_bytes()
    first, last = sorted(rng.randint(0, len(content)) for _ in range(2))
    other = _some_file(root, rng).read_bytes()
    start = rng.randint(0, len(other))
    changed = rng.choice(
        (
            content[:first],
            content[:first] + content[last:],
            content[:last] + content[first:],
            content[:first] + other[start : start + 200] + content[last:],
            other,
            bytes(rng.choice((0, 1, 5000))),
        )
    )
    path.write_bytes(changed)


def _file_lost(root: Path, rng: random.Random) -> None:
    path = _some_file(root, rng)
    target = root / rng.choice(("golden/00.png", "student.onnx", "other.onnx", "weights.data", "a b.txt"))
    if rng.random() < 0.5:
        path.unlink()
    else:
        path.replace(target)


def _places(tree: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON tree."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = [above] if above else []
    for key, value in parts:
        found += _places(value, (*above, key))
    return found


def _manifest_changed(root: Path, rng: random.Random) -> None:
    path = root / "manifest.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = _places(tree)
        if not places:
            break
        *above, key = rng.choice(
            [place for place in places if len(place) == min(rng.randint(1, 5), len(place))]
        )
        holder = tree
        for step in above:
            holder = holder[step]
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(rng.choice(ODD_VALUES))] = holder.pop(key)
            case 2 if isinstance(holder, list):
                holder.insert(rng.randint(0, len(holder)), rng.choice(ODD_VALUES))
            case _:
                holder[key] = rng.choice(ODD_VALUES)
    text = json.dumps(tree)
    if rng.random() < 0.05:
        text = rng.choice(
            (
                "[" * 100_000,
                "{" + text,
                text + text,
                '{"format": 2, "classes": ' + "9" * 5000 + "}",
                "null",
                "2",
            )
        )
    path.write_text(text, encoding="utf-8")


def _graph_changed(root: Path, rng: random.Random) -> None:
    """A change after which the file is still a protobuf of ONNX."""
    path = root / rng.choice(("student.onnx", "student.fp16.onnx"))
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # an earlier mutation has made it none
        return
    graph = model.graph
    if not (graph.node and graph.initializer):
        return
    node, tensor = rng.choice(graph.node), rng.choice(graph.initializer)
    match rng.randrange(12):
        case 0:
            node.op_type = rng.choice(
                ("Relu", "Gather", "Reshape", "Loop", "EPContext", "NoSuch", "Softmax", "Identity")
            )
        case 1:
            node.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "x"))
        case 2:
            del tensor.dims[:]
            tensor.dims.extend(rng.choice(([], [0], [-1], [10**12], [2, 3], [1, 3, 2], [2**62, 4])))
        case 3:
            tensor.data_type = rng.randrange(25)
        case 4:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (
                (
                    "location",
                    rng.choice(
                        ("weights.data", "manifest.json", "../x", "/dev/zero", "", "*/_ORT_MEM_ADDR_/*")
                    ),
                ),
                ("offset", "0"),
                ("length", rng.choice(("24", "-1", "9999999999999"))),
            ):
                tensor.external_data.add(key=key, value=value)
        case 5:
            (root / "weights.data").write_bytes(bytes(64))
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights.data")
        case 6:
            value = rng.choice((*graph.input, *graph.output))
            value.name = rng.choice(("images", "logits", "embedding", "x", ""))
        case 7:
            value = rng.choice((*graph.input, *graph.output))
            value.type.tensor_type.elem_type = rng.randrange(20)
        case 8:
            value = rng.choice((*graph.input, *graph.output))
            for size in value.type.tensor_type.shape.dim[rng.randrange(2) :]:
                size.dim_value = rng.choice((0, 1, 2, 3, 16, 10**9, -5))
        case 9:
            graph.node.remove(node)
        case 10:
            for index in range(len(node.input)):
                node.input[index] = rng.choice(("images", "x", "mean", "weights", "", "nothing"))
        case 11:
            tensor.raw_data = bytes(rng.choice((0, 1, 24, 25)))
            tensor.ClearField("float_data")
    path.write_bytes(model.SerializeToString())


def _golden_changed(root: Path, rng: random.Random) -> None:
    path = root / EXPECTED
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
    except Exception:  # an earlier mutation has made it none
        return
    name = rng.choice((*arrays, "x"))
    match rng.randrange(4):
        case 0:
            arrays.pop(name, None)
        case 1:
            arrays[name] = np.array(
                rng.choice(
                    (
                        ["../../etc/passwd"],
                        ["manifest.json"],
                        ["no.png"],
                        ["/dev/zero"],
                        ["a\0b"],
                        [""],
                        "00.png",
                    )
                )
            )
        case 2:
            shape = rng.choice([shape for shape in ODD_SHAPES if int(np.prod(shape)) < 10**6])
            arrays[name] = np.zeros(shape, rng.choice(ODD_TYPES))
        case 3:
            changed = arrays.get(name)
            if changed is not None and changed.dtype.kind == "f":
                arrays[name] = changed + rng.choice((np.nan, np.inf, 1e38, 1.0))
    np.savez(path, **arrays)
    if rng.random() < 0.2:  # a header that claims more than there is
        content = path.read_bytes()
        claimed = str(rng.choice(((10**12,), (2**70,), (-1,), (10**6, 10**6)))).encode()
        path.write_bytes(content.replace(b"(1, 2)", claimed.ljust(6)[:6]))


MUTATIONS: tuple[Callable[[Path, random.Random], None], ...] = (
    *(_bytes_flipped, _cut_or_spliced, _file_lost, _manifest_changed, _manifest_changed, _manifest_changed),
    *(_manifest_changed, _graph_changed, _graph_changed, _graph_changed, _golden_changed, _golden_changed),
)
