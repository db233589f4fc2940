"""Does a bundle answer right on this machine? Hashes, golden samples through every file, engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from rich.console import Console
from rich.table import Table

from vl2v_deploy.client.bundle import GOLDEN, Bundle, numeric, open_bundle
from vl2v_deploy.client.student import Student, open_session
from vl2v_deploy.errors import ParityError, VL2VError

Outcome: TypeAlias = Literal["ok", "wrong", "not run"]
# What decoders of other Pillow and libjpeg versions may differ by, of 255.
PIXEL_TOLERANCE = 2
_STYLES = {"ok": "green", "wrong": "bold red", "not run": "yellow"}


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    what:    file, or files
    details: one line
    """

    what: str
    outcome: Outcome
    details: str


def verify_bundle(path: Path) -> list[Check]:
    """Every check of the bundle that this machine can make.

    Raises BundleError when the bundle itself is damaged: then nothing in it is run.
    """
    bundle = open_bundle(path)
    files = len(bundle.manifest["files"])
    checks = [Check("SHA256SUMS", "ok", f"{files} files are as they were exported")]
    checks += [_check_onnx(bundle, precision) for precision in bundle.precisions]
    checks += [_check_plan(bundle, name) for name in bundle.manifest["engines"]]
    return checks


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """A table with a line each."""
    table = Table(box=None, pad_edge=False)
    table.add_column("checked", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("")
    for check in checks:
        table.add_row(check.what, f"[{_STYLES[check.outcome]}]{check.outcome}[/]", check.details)
    console.print(table)


def require_passed(path: Path, checks: Sequence[Check]) -> None:
    """ParityError that names what is wrong, if anything is."""
    if wrong := [check.what for check in checks if check.outcome == "wrong"]:
        raise ParityError(f"{path}: gives other answers here than at export: {', '.join(wrong)}")


def _check_onnx(bundle: Bundle, precision: str) -> Check:
    from vl2v_deploy.export.parity import TOLERANCES  # imports torch

    record = bundle.manifest["precisions"][precision]
    parity = record["parity"]
    # Not Student.load, which would check every file's hash again for each precision.
    session = open_session(bundle.onnx_of(precision))
    result = Student(bundle, session, session.get_providers()[0], precision).verify()
    elsewhere = TOLERANCES["elsewhere", numeric(precision)]
    from_export = elsewhere.logit_share * parity["logit_scale"]
    from_torch = parity["tolerance"]["logit_share"] * parity["logit_scale"] + from_export
    problems = []
    # each written so that a NaN is a problem
    if result.max_pixel_error > PIXEL_TOLERANCE:
        problems.append(f"images decode to pixels {result.max_pixel_error} apart (allowed {PIXEL_TOLERANCE})")
    if not result.max_logit_error <= from_export:
        problems.append(f"logits off by {result.max_logit_error:.2e} from export (allowed {from_export:.2e})")
    if not result.max_torch_error <= from_torch:
        problems.append(f"logits off by {result.max_torch_error:.2e} from torch (allowed {from_torch:.2e})")
    if not result.argmax_agreement >= elsewhere.agreement and not elsewhere.ties:
        problems.append(f"same label as at export on {100 * result.argmax_agreement:.0f} %")
    details = "; ".join(problems) or (
        f"{result.samples} golden samples: logits off by {result.max_logit_error:.1e} from export, "
        f"{result.max_torch_error:.1e} from torch"
    )
    return Check(str(record["file"]), "wrong" if problems else "ok", details)


def _check_plan(bundle: Bundle, name: str) -> Check:
    from vl2v_deploy.export.engines import check_answers, not_runnable_here
    from vl2v_deploy.export.parity import Reference

    plan = bundle.path / name
    try:
        if reason := not_runnable_here(plan):
            return Check(name, "not run", reason.removeprefix(f"{name}: "))
        with np.load(bundle.path / GOLDEN, allow_pickle=False) as golden:
            answers = golden["images"], golden["logits"], golden["embedding"]
        scale = float(bundle.manifest["precisions"]["fp32"]["parity"]["logit_scale"])
        reference = Reference(*answers, scale)
        parity = check_answers(plan, reference)
    except VL2VError as error:  # also one that the library refuses to load
        return Check(name, "wrong", str(error))
    sizes = ", ".join(map(str, parity.batch_sizes))
    return Check(name, "ok", f"logits within {parity.max_logit_error:.1e} of torch's at batch {sizes}")
