"""The exported files in onnxruntime-web, unchanged, under a real Chromium: same answers, any batch."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.helpers.browser import cannot, chromium, opened, served
from tests.helpers.interop import CASES, Kind, check_runtime, exported
from vl2v_deploy.client.bundle import Precision, file_of
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.exporting.precision.parity import Floats

WEB = Path(__file__).parents[1] / "web"
RUNTIME = WEB / "node_modules/onnxruntime-web/dist"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[str]:
    """Address of a server that has the page, the runtime and, under /files, this session's exported files."""
    if not (RUNTIME / "ort.wasm.bundle.min.mjs").is_file():
        cannot("onnxruntime-web is not installed: npm ci --prefix tests/web")
    root = tmp_path_factory.mktemp("site")
    (root / "index.html").symlink_to(WEB / "runtime.html")
    (root / "runtime").symlink_to(RUNTIME)
    (root / "files").symlink_to(folder)
    with served(root) as address:
        yield address


@pytest.fixture(scope="module")
def page(site: str) -> Iterator[Any]:
    """The page, loaded."""
    with chromium() as browser, opened(browser, site) as loaded:
        loaded.wait_for_function("() => 'runtimeVersion' in window")
        yield loaded


def answers(page: Any, address: str, images: Pixels) -> tuple[Floats, Floats]:
    """Logits and embedding that the page gives; images uint8 (B, S, S, 3)."""
    pixels = base64.b64encode(images.tobytes()).decode("ascii")
    results = page.evaluate("(given) => window.answers(...given)", [address, pixels, list(images.shape)])
    assert {result["type"] for result in results.values()} == {"float32"}
    logits, embedding = (
        np.array(results[name]["data"], np.float32).reshape(results[name]["dims"])
        for name in ("logits", "embedding")
    )
    return logits, embedding


@pytest.mark.slow
def test_the_runtime_is_the_one_that_was_asked_for(page: Any) -> None:
    wanted = json.loads((WEB / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    assert page.evaluate("window.runtimeVersion") == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "precision"), CASES)
def test_the_file_runs_unchanged(kind: Kind, precision: Precision, page: Any, folder: Path) -> None:
    files = exported(kind, folder)
    path = files.folder / file_of(precision)
    address = f"/files/{path.relative_to(folder).as_posix()}"
    check_runtime(files, precision, "onnxruntime-web", lambda images: answers(page, address, images))


@pytest.mark.slow
def test_an_operator_that_the_runtime_lacks_fails_in_its_own_words(
    page: Any, folder: Path, tmp_path: Path
) -> None:
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 4, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])
    node = helper.make_node("Fancy", ["images"], ["logits"], domain="nowhere")
    graph = helper.make_graph([node], "graph", [images], [logits])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("nowhere", 1)]
    path = tmp_path / "fancy.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    address = f"/files/{path.relative_to(folder).as_posix()}"
    playwright = pytest.importorskip("playwright.sync_api")
    with pytest.raises(playwright.Error, match="Fancy"):
        answers(page, address, np.zeros((1, 4, 4, 3), np.uint8))
