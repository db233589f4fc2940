"""The page with WebGPU, on Chromium's software adapter: it runs as asked, and gives Python's labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_web_site import upload

from tests.helpers.browser import cannot, chromium, opened, served
from tests.helpers.pictures import pictures
from tests.helpers.quickstart import RUNTIME
from vl2v_deploy.client import Student

SWIFTSHADER = ("--enable-gpu", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
HAS_ADAPTER = "async () => Boolean(navigator.gpu && await navigator.gpu.requestAdapter())"


@pytest.mark.slow
def test_webgpu_gives_the_labels_that_python_gives(
    quickstart: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not (RUNTIME / "ort.webgpu.bundle.min.mjs").is_file():
        cannot("onnxruntime-web is not installed: npm ci --prefix tests/web")
    bundle, site = quickstart / "bundles/quickstart", quickstart / "site"
    images: dict[str, Path] = pictures(tmp_path_factory.mktemp("pictures") / "all")
    student = Student.load(bundle, precision="fp32")
    # A node that WebGPU could not run would be computed elsewhere with a warning: `opened` fails on those.
    with served(site) as address, chromium(*SWIFTSHADER) as browser, opened(browser, address) as page:
        if not page.evaluate(HAS_ADAPTER):
            cannot("this Chromium has no software adapter for WebGPU")
        page.wait_for_selector("#loading", state="hidden")
        page.click("input[value=webgpu]")
        page.wait_for_selector("#facts:has-text('WebGPU')", timeout=300_000)
        page.set_default_timeout(120_000)
        assert page.is_disabled("input[value=int8]")
        for count, name in enumerate(("png", "webp alpha", "jpeg", "jpeg photo turned"), 1):
            upload(page, images[name], count)
            assert page.get_attribute("#verdict", "data-label") == student.predict(images[name]).label, name
        assert page.is_hidden("#notice")
