"""`export --web DIR`: a static page on which a bundle's student answers in the visitor's browser.

    DIR/
      index.html, *.js, style.css    the page, without a build step; any static server can serve it
      student.json                   facts for the page: classes, size, threshold, files, accuracy
      student.onnx, ...              the bundle's files, unchanged
      runtime/                       onnxruntime-web and its licence, unless the page is to fetch it elsewhere
      vl2v-deploy.json               the bundle it came from, and the SHA-256 of every file

The golden samples stay behind: a page is public, and they are images of the run.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from vl2v_deploy.client.bundle import Bundle, Precision, open_bundle
from vl2v_deploy.client.typed_json import to_json
from vl2v_deploy.errors import ExportError
from vl2v_deploy.exporting.targets.web_runtime import WebRuntime, require_runtime, write_runtime
from vl2v_deploy.exporting.targets.written_folder import require_free_folder, written_folder

PAGE = Path(__file__).parent / "page"
STUDENT = "student.json"
FORMAT = 1
WHAT = "web page"
# fp16 needs GPUs with 16-bit shaders, which many visitors lack; int8-symmetric is for TensorRT.
WEB_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


@dataclass(frozen=True)
class WebOptions:
    """What is put on the page; ExportError for a precision that is not for the web.

    precisions: ONNX files that a visitor can choose from, the first is loaded first; None = fp32, and int8 if
                the bundle has it
    runtime:    onnxruntime-web: vendor = copied from npm; cdn = visitors fetch it; else copied from a folder
    """

    precisions: tuple[Precision, ...] | None = None
    runtime: str = "vendor"

    def __post_init__(self) -> None:
        for name in self.precisions or ():
            if name not in WEB_PRECISIONS:
                raise ExportError(
                    f"--web-precision {name}: expected one or both of {', '.join(WEB_PRECISIONS)}"
                )


@dataclass(frozen=True)
class ShownAccuracy:
    """What export measured through a file. targets: domains that `ood` is of."""

    id: float
    ood: float | None
    targets: tuple[str, ...]


@dataclass(frozen=True)
class PageModel:
    """A file that the page can load. accuracy: None where it is not known, as after a relabelling."""

    precision: Precision
    file: str
    bytes: int
    accuracy: ShownAccuracy | None


@dataclass(frozen=True)
class PageFacts:
    """The whole of student.json, which the page's scripts read."""

    format: int
    bundle: str
    backbone: str
    classes: tuple[str, ...]
    image_size_px: int
    abstain_below: float | None
    models: tuple[PageModel, ...]
    runtime: WebRuntime


def require_web(bundle: Path, out: Path, options: WebOptions, *, overwrite: bool = False) -> None:
    """ExportError when the page cannot be written; to be asked before a long export."""
    require_free_folder(bundle, out, WHAT, overwrite=overwrite)
    require_runtime(options.runtime)


def write_web(
    bundle: Path, out: Path, options: WebOptions | None = None, *, overwrite: bool = False
) -> PageFacts:
    """Write the page of a bundle to `out`, whole or not at all; what student.json then holds.

    overwrite: also replace a page of ours in which something was changed or added since

    Raises BundleError for a damaged bundle or one without a precision, ExportError when `out` is in the way
    or the runtime cannot be had.
    """
    chosen = options or WebOptions()
    require_web(bundle, out, chosen, overwrite=overwrite)
    opened = open_bundle(bundle)
    precisions = chosen.precisions or tuple(name for name in WEB_PRECISIONS if name in opened.precisions)
    models = tuple(_model(opened, precision) for precision in precisions)
    with written_folder(opened, out, WHAT) as partial:
        for asset in PAGE.iterdir():
            shutil.copyfile(asset, partial / asset.name)
        for model in models:
            shutil.copyfile(opened.path / model.file, partial / model.file)
        facts = PageFacts(
            format=FORMAT,
            bundle=opened.name,
            backbone=opened.manifest.student.backbone,
            classes=opened.classes,
            image_size_px=opened.image_size_px,
            abstain_below=opened.manifest.confidence.abstain_below,
            models=models,
            runtime=write_runtime(chosen.runtime, partial),
        )
        (partial / STUDENT).write_text(json.dumps(to_json(facts), indent=2) + "\n", encoding="utf-8")
    return facts


def _model(bundle: Bundle, precision: Precision) -> PageModel:
    path, shown = bundle.onnx_of(precision), None
    if accuracy := bundle.file(precision).accuracy:
        targets = [name for name, facts in accuracy.domains.items() if facts.role == "target"]
        shown = ShownAccuracy(accuracy.id, accuracy.ood, tuple(targets))
    return PageModel(precision, path.name, path.stat().st_size, shown)
