"""The page that `export --web` writes, in a real Chromium: Python's answers, and nothing leaves the machine.

How far browsers' decoders are from Pillow's stands in DECODED, by format, on preprocessed pixels (of 255) and
on logits; the resize itself is exact (test_web_preprocess.py).
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.browser import DESKTOP, PHONE, cannot, chromium, opened, served
from tests.helpers.pictures import pictures
from tests.helpers.quickstart import RUNTIME
from vl2v_deploy.client import Student
from vl2v_deploy.client.preprocess import pixels_from_source

pytestmark = pytest.mark.slow

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
# format -> largest difference of a preprocessed pixel (of 255), and of a logit (of this student, up to 13).
# Chromium decodes with the libraries that Pillow has, to the same pixels. Its canvas multiplies by alpha and
# back, which may cost one level. Python decodes large JPEGs at a fraction of their size, and browsers do not:
# 2 levels and 0.23 were measured.
ALIKE, LAID_ON_WHITE, REDUCED = (0, 1e-3), (1, 0.5), (4, 0.5)
DECODED = {
    "png alpha": LAID_ON_WHITE,
    "png grey alpha": LAID_ON_WHITE,
    "webp alpha": LAID_ON_WHITE,
    "jpeg photo": REDUCED,
    "jpeg photo turned": REDUCED,
}


@pytest.fixture(scope="module")
def made(quickstart: Path) -> tuple[Path, Path]:
    """Bundle and page."""
    if not (RUNTIME / "ort.webgpu.bundle.min.mjs").is_file():
        cannot("onnxruntime-web is not installed: npm ci --prefix tests/web")
    return quickstart / "bundles/quickstart", quickstart / "site"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return pictures(tmp_path_factory.mktemp("pictures") / "all")


@pytest.fixture(scope="module")
def student(made: tuple[Path, Path]) -> Student:
    return Student.load(made[0], precision="fp32")


@pytest.fixture(scope="module")
def address(made: tuple[Path, Path]) -> Iterator[str]:
    with served(made[1]) as at:
        yield at


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(*CAMERA) as started:
        yield started


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    with opened(browser, address) as loaded:
        loaded.wait_for_selector("#loading", state="hidden")
        yield loaded


def upload(page: Any, path: Path, count: int) -> None:
    """Through the page's own file input; returns when its `count`-th answer is there."""
    page.set_input_files("#file", path)
    wait_for_answer(page, count)


def wait_for_answer(page: Any, count: int) -> None:
    page.wait_for_function(
        "(count) => document.getElementById('median-name').textContent === `p50 of ${count}`", arg=count
    )


def test_an_image_that_comes_before_the_student_is_answered(page: Any, images: dict[str, Path]) -> None:
    held: list[Any] = []
    page.route("**/student.json", lambda route: held.append(route))
    page.reload()
    page.set_input_files("#file", images["png"])
    page.wait_for_function("document.getElementById('file').files.length === 0")  # the page has taken it
    held[0].continue_()
    page.wait_for_function("document.getElementById('median-name').textContent === 'p50 of 1'")
    assert page.inner_text("#legend").startswith("Below the mark")


MEASURE = """async ([encoded, sizePx]) => {
  const { decode, readerOf } = await import("./decode.js");
  const { preprocessFrom } = await import("./preprocess.js");
  const { openStudent } = await import("./student.js");
  const blob = new Blob([Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0))]);
  const bitmap = await decode(blob);
  const pixels = preprocessFrom(bitmap.width, bitmap.height, readerOf(bitmap), sizePx);
  const record = await (await fetch("student.json")).json();
  window.student ??= await openStudent(record, record.models[0], "wasm");
  const { logits } = await window.student.classify(blob);
  return { pixels: Array.from(pixels), logits: Array.from(logits) };
}"""


def test_decoded_as_pillow_does_within_the_bounds_of_each_format(
    page: Any, images: dict[str, Path], student: Student
) -> None:
    size_px = student.bundle.image_size_px
    for name, path in images.items():
        encoded = base64.b64encode(path.read_bytes()).decode("ascii")
        answer = page.evaluate(MEASURE, [encoded, size_px])
        here = np.array(answer["pixels"]).reshape(size_px, size_px, 3)
        pixels = student.pixels(path)
        pixel_bound, logit_bound = DECODED.get(name, ALIKE)
        assert np.abs(here - pixels.astype(int)).max() <= pixel_bound, name
        assert np.abs(np.array(answer["logits"]) - student.run(pixels[None])[0][0]).max() <= logit_bound, name
        if name.startswith("jpeg"):  # there is no other difference
            assert (here == pixels_from_source(path, size_px, draft=False)).all(), name


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_uploaded_images_get_the_labels_that_python_gives(
    precision: str, page: Any, images: dict[str, Path], made: tuple[Path, Path]
) -> None:
    with Student.load(made[0], precision=precision) as student:
        if precision == "int8":
            page.check("input[value=int8]")
            page.wait_for_selector("#facts:has-text('int8')")
            assert page.is_disabled("input[value=webgpu]")
            assert "WebGPU runs fp32" in page.inner_text("#hint")
        for count, (name, path) in enumerate(images.items(), 1):
            upload(page, path, count)
            expected = student.predict(path)
            assert page.get_attribute("#verdict", "data-label") == expected.label, name
            assert page.get_attribute("#verdict", "data-state") == (
                "unsure" if expected.abstained else "sure"
            )
            shown = page.locator("#top li").evaluate_all("(items) => items.map((item) => item.dataset.label)")
            if DECODED.get(name) is None and precision == "fp32":
                assert shown == [label for label, _ in expected.top], name
                assert f"{100 * expected.probability:.1f}%" in page.inner_text("#sentence")
    assert float(page.inner_text("#inference").split()[0]) > 0


def test_facts_are_those_of_the_manifest(page: Any, made: tuple[Path, Path], student: Student) -> None:
    accuracy = student.bundle.file("fp32").accuracy
    assert accuracy is not None
    facts = page.inner_text("#facts")
    for fact in (f"{100 * accuracy.id:.1f}%", f"{100 * accuracy.ood:.1f}%", "fluent-high-contrast"):
        assert fact in facts
    assert "fp32, 14.8 MB" in facts
    assert "onnxruntime-web 1.30.0" in facts
    assert all(name.replace("_", " ") in facts for name in student.classes)


@pytest.mark.parametrize(
    ("threshold", "state", "heading", "legend"),
    [
        (0.999999, "unsure", "Not sure", "Below the mark, 100.0%"),
        (0.000001, "sure", "mammal", "Below the mark, 0.0%"),
        (None, "sure", "mammal", "it never abstains"),
    ],
)
def test_under_the_threshold_it_says_that_it_is_not_sure(
    threshold: float | None,
    state: str,
    heading: str,
    legend: str,
    browser: Any,
    made: tuple[Path, Path],
    images: dict[str, Path],
    tmp_path: Path,
) -> None:
    site = tmp_path / "site"
    shutil.copytree(made[1], site)
    record = json.loads((site / "student.json").read_text())
    (site / "student.json").write_text(json.dumps(record | {"abstain_below": threshold}))
    with served(site) as address, opened(browser, address) as page:
        upload(page, images["png"], 1)
        assert page.get_attribute("#verdict", "data-state") == state
        assert page.inner_text("#label") == heading
        assert legend in page.inner_text("#legend")
        assert heading in page.text_content("#spoken")  # what a screen reader says
        assert ("Closest: mammal" in page.inner_text("#sentence")) == (state == "unsure")


def test_a_file_that_is_no_image_is_refused_in_words(
    page: Any, images: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(images["png"].read_bytes()[:200])
    page.set_input_files("#file", broken)
    page.wait_for_selector("#notice:not([hidden])")
    assert page.inner_text("#notice").startswith("broken.png cannot be used: it is damaged, or not an image")
    assert page.get_attribute("#verdict", "data-state") == "waiting"
    upload(page, images["png"], 1)
    assert page.is_hidden("#notice")


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_images_are_pasted_and_dropped(event: str, page: Any, images: dict[str, Path]) -> None:
    encoded = base64.b64encode(images["png"].read_bytes()).decode("ascii")
    page.evaluate(
        """([event, encoded]) => {
          const transfer = new DataTransfer();
          const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
          transfer.items.add(new File([bytes], "mammal.png", { type: "image/png" }));
          document.dispatchEvent(event === "paste"
            ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
            : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [event, encoded],
    )
    page.wait_for_selector("#verdict[data-label=mammal]")


def test_the_camera_is_answered_live_and_stops(page: Any) -> None:
    page.click("#camera")
    page.wait_for_function("() => Number(document.getElementById('median-name').textContent.slice(7)) >= 5")
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    assert page.get_attribute("#verdict", "data-state") in ("sure", "unsure")
    track = page.evaluate_handle("document.getElementById('video').srcObject.getTracks()[0]")
    page.click("#camera")
    assert track.evaluate("(track) => track.readyState") == "ended"
    assert page.evaluate("document.getElementById('video').srcObject") is None
    page.wait_for_timeout(500)
    assert page.get_attribute("#verdict", "data-state") == "waiting"
    assert page.inner_text("#median-name") == "p50 of both"


def test_no_camera_is_said(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        page.evaluate("""() => {
          const refuse = async () => { throw new DOMException("", "NotAllowedError"); };
          navigator.mediaDevices.getUserMedia = refuse;
        }""")
        page.wait_for_selector("#loading", state="hidden")
        page.click("#camera")
        page.wait_for_selector("#notice:not([hidden])")
        assert "No camera: this page may not use it" in page.inner_text("#notice")
        assert page.is_enabled("#camera")


def test_webgpu_that_is_not_there_is_said_and_the_cpu_goes_on(page: Any, images: dict[str, Path]) -> None:
    upload(page, images["png"], 1)
    page.click("input[value=webgpu]")
    page.wait_for_selector("#notice:not([hidden])")
    assert "WebGPU is not available" in page.inner_text("#notice")
    assert "Still on the CPU, fp32" in page.inner_text("#notice")
    assert page.is_checked("input[value=wasm]")
    wait_for_answer(page, 2)  # the image is answered again; a new one that came first would replace it
    upload(page, images["jpeg"], 3)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_fits(
    size: tuple[int, int], dark: bool, browser: Any, address: str, images: dict[str, Path], tmp_path: Path
) -> None:
    """Screenshots are left in the test's folder for a person to look at."""
    with opened(browser, address, size, dark=dark) as page:
        upload(page, images["png"], 1)
        page.wait_for_timeout(400)  # the bar grows
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        beyond = page.evaluate("""() => [...document.querySelectorAll("main *")].filter((each) =>
          each.getBoundingClientRect().right > innerWidth && getComputedStyle(each).position !== "absolute"
        ).map((each) => each.id || each.className)""")
        assert beyond == []
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == dark
        names = page.evaluate(
            "[...document.querySelectorAll('input,button')].map((each) => each.labels?.[0]?.innerText "
            "?? each.innerText)"
        )
        assert all(name.strip() for name in names)


def test_python_s_own_server_will_do(browser: Any, made: tuple[Path, Path], images: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", "-d", str(made[1]), "-b", "127.0.0.1", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address)
        with opened(browser, address) as page:
            upload(page, images["png"], 1)
            assert page.get_attribute("#verdict", "data-label") == "mammal"
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(address):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"{address}: no server after a minute")
