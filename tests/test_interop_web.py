"""The exported files in onnxruntime-web, unchanged, under a real Chromium: same answers, any batch."""

from __future__ import annotations

import base64
import json
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
from interop import CASES, Kind, check_runtime, exported
from onnx import TensorProto, helper

from vl2v_deploy.client.bundle import Precision, file_of
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.export.parity import Floats

WEB = Path(__file__).parent / "web"
RUNTIME = WEB / "node_modules/onnxruntime-web/dist"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("gpu", "quic", "background-networking", "component-update", "sync")


class Handler(SimpleHTTPRequestHandler):
    """Python's own file server, silent, with the types that a browser insists on."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_: object) -> None:
        pass


def cannot(reason: str) -> NoReturn:
    if os.environ.get("VL2V_DEPLOY_TEST_BROWSER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


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
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def page(site: str) -> Iterator[Any]:
    """The page, loaded; nothing that it asks for may leave this machine, and no error may go unseen."""
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    if not found:
        cannot("no Chromium here: install the package chromium (Debian: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    flags = [f"--disable-{what}" for what in QUIET] + ["--no-first-run"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium will not be run by root with one
    errors: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found[0], args=flags)
        opened = browser.new_page()
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(site)
        opened.wait_for_function("() => 'runtimeVersion' in window")
        yield opened
        browser.close()
    assert errors == []
    assert [url for url in asked if not url.startswith((site, "data:", "blob:"))] == []


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
