"""Whether a manifest whose types are right makes sense: what the rest of the client computes with."""

from __future__ import annotations

import math
from collections.abc import Iterator

from vl2v_deploy.client.manifest import Manifest
from vl2v_deploy.client.onnx_file import OnnxFile
from vl2v_deploy.errors import BundleError

MOST_SIZE_PX = 8192
MOST_EMBEDDING = 1_000_000
_KINDS = ("fp32", "fp16", "int8")  # that shares of multiply-accumulates are told of


def require_sense(manifest: Manifest, where: str) -> None:
    """BundleError for the first value that cannot be, such as an image size of 0 or a temperature of NaN.

    where: what the error starts with, such as the file's path
    """
    for field, expected, is_so in _conditions(manifest):
        if not is_so:
            raise BundleError(f"{where}: {field}: expected {expected}")


def _conditions(manifest: Manifest) -> Iterator[tuple[str, str, bool]]:
    """(field, what is expected of it, whether it is so)"""
    yield "classes", "at least one name", len(manifest.classes) > 0
    yield "classes", "names that are not empty", all(manifest.classes)
    yield "image_size_px", f"1 to {MOST_SIZE_PX}", 0 < manifest.image_size_px <= MOST_SIZE_PX
    yield "embedding_dim", f"1 to {MOST_EMBEDDING:,}", 0 < manifest.embedding_dim <= MOST_EMBEDDING
    yield "logit_scale", "a finite number above 0", 0 < manifest.logit_scale < math.inf
    confidence = manifest.confidence
    yield "confidence.temperature", "a finite number above 0", 0 < confidence.temperature < math.inf
    yield "confidence.abstain_below", "a finite number or null", math.isfinite(confidence.abstain_below or 0)
    measured = {name: file.accuracy for name, file in manifest.precisions.items() if file.accuracy}
    first = next(iter(measured.values()), None)
    for name, file in manifest.precisions.items():
        yield from _of_file(f"precisions.{name[:40]!r}", file)
    for name, accuracy in measured.items():
        same = first is not None and accuracy.domains.keys() == first.domains.keys()
        yield f"precisions.{name[:40]!r}.accuracy.domains", "the domains of the other files", same


def _of_file(field: str, file: OnnxFile) -> Iterator[tuple[str, str, bool]]:
    share = file.macs.share
    known = all(kind in share and math.isfinite(share[kind]) for kind in _KINDS)
    yield f"{field}.macs.share", f"a finite number for each of {', '.join(_KINDS)}", known
    yield f"{field}.bytes", "0 or more", file.bytes >= 0
    tolerances = [("tolerance", file.parity.tolerance), ("elsewhere", file.parity.elsewhere)]
    for name, tolerance in tolerances:
        finite = tolerance is None or math.isfinite(tolerance.logit_share + tolerance.agreement)
        yield f"{field}.parity.{name}", "finite numbers", finite
    yield f"{field}.parity.logit_scale", "a finite number", math.isfinite(file.parity.logit_scale)
