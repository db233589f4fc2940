"""`export --web DIR`: a static page on which a bundle's student answers in the visitor's browser.

    DIR/
      index.html, *.js, style.css    the page, without any build step; any static server will do
      student.json                   what the page has to know: classes, size, threshold, files, accuracy
      student.onnx, ...              the bundle's files, unchanged
      runtime/                       onnxruntime-web and its licence, unless the page is to fetch it elsewhere
      vl2v-deploy.json               the bundle it came from, and the SHA-256 of every file

The golden samples stay behind: a page is public, and they are images of the run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vl2v_deploy.client.bundle import Bundle, Precision, open_bundle
from vl2v_deploy.errors import ExportError
from vl2v_deploy.exporting.targets.web_runtime import require_runtime, write_runtime
from vl2v_deploy.exporting.targets.written_folder import require_free_folder, written_folder

PAGE = Path(__file__).parent / "page"
STUDENT = "student.json"
FORMAT = 1
WHAT = "web page"
# fp16 needs GPUs with 16-bit shaders, which many visitors lack; int8-symmetric is for TensorRT.
WEB_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


@dataclass(frozen=True)
class WebOptions:
    """What is put on the page.

    precisions: ONNX files that a visitor can choose from, the first is loaded first; None = fp32, and int8 if
                the bundle has it
    runtime:    onnxruntime-web: vendor = copied from npm; cdn = visitors fetch it; else copied from a folder
    """

    precisions: tuple[Precision, ...] | None = None
    runtime: str = "vendor"


def web_options(precision: str | None, runtime: str | None, exported: Sequence[str]) -> WebOptions:
    """Options from the command line; ExportError for a precision that is not exported or not for the web.

    precision: comma-separated; None = default
    exported:  precisions that the bundle will hold
    """
    if precision is None:
        return WebOptions(runtime=runtime or "vendor")
    asked = [name.strip() for name in precision.split(",")]
    for name in asked:
        if name not in WEB_PRECISIONS:
            raise ExportError(f"--web-precision {name}: expected one or both of {', '.join(WEB_PRECISIONS)}")
        if name != "fp32" and name not in exported:
            raise ExportError(f"--web-precision {name}: is not exported; add it to --precision")
    chosen = tuple(name for name in dict.fromkeys(asked) if name in WEB_PRECISIONS)
    return WebOptions(chosen, runtime or "vendor")


def require_web(bundle: Path, out: Path, options: WebOptions, *, overwrite: bool = False) -> None:
    """ExportError when the page cannot be written; to be asked before a long export."""
    require_free_folder(bundle, out, WHAT, overwrite=overwrite)
    require_runtime(options.runtime)


def write_web(
    bundle: Path, out: Path, options: WebOptions | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write the page of a bundle to `out`, whole or not at all; what student.json then holds.

    overwrite: also replace a page of ours in which something was changed or added since

    Raises BundleError for a damaged bundle or one without a precision, ExportError when `out` is in the way
    or the runtime cannot be had.
    """
    chosen = options or WebOptions()
    require_web(bundle, out, chosen, overwrite=overwrite)
    opened = open_bundle(bundle)
    precisions = chosen.precisions or tuple(name for name in WEB_PRECISIONS if name in opened.precisions)
    models = [_model(opened, precision) for precision in precisions]
    with written_folder(opened, out, WHAT) as partial:
        for asset in PAGE.iterdir():
            shutil.copyfile(asset, partial / asset.name)
        for model in models:
            shutil.copyfile(opened.path / model["file"], partial / model["file"])
        student = _student(opened, models, write_runtime(chosen.runtime, partial))
        (partial / STUDENT).write_text(json.dumps(student, indent=2) + "\n", encoding="utf-8")
    return student


def _student(bundle: Bundle, models: list[dict[str, Any]], runtime: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "bundle": bundle.name,
        "backbone": bundle.manifest.student.backbone,
        "classes": list(bundle.classes),
        "image_size_px": bundle.image_size_px,
        "abstain_below": bundle.manifest.confidence.abstain_below,
        "models": models,
        "runtime": runtime,
    }


def _model(bundle: Bundle, precision: Precision) -> dict[str, Any]:
    """Of one file: what it is, and what export measured through it (None after relabel)."""
    path = bundle.onnx_of(precision)
    shown = None
    if accuracy := bundle.file(precision).accuracy:
        targets = [name for name, facts in accuracy.domains.items() if facts.role == "target"]
        shown = {"id": accuracy.id, "ood": accuracy.ood, "targets": targets}
    return {"precision": precision, "file": path.name, "bytes": path.stat().st_size, "accuracy": shown}
