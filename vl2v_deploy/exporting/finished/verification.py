"""`vl2v-deploy verify`: whether a bundle gives the right answers on this machine, file by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.client.checksums import CHECKSUMS
from vl2v_deploy.client.golden import golden_of
from vl2v_deploy.client.student import Student
from vl2v_deploy.errors import ParityError, VL2VError

Outcome: TypeAlias = Literal["ok", "wrong", "not run"]
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


def verify_bundle(bundle: Bundle) -> list[Check]:
    """Every check of the bundle that this machine can make; its hashes were checked when it was opened."""
    checks = [Check(CHECKSUMS, "ok", f"{len(bundle.manifest.files)} files are as they were exported")]
    checks += [_check_onnx(bundle, precision) for precision in bundle.precisions]
    checks += [_check_plan(bundle, name) for name in bundle.manifest.engines]
    return checks


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """One line per check."""
    table = Table(box=None, pad_edge=False)
    table.add_column("checked", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("")
    for check in checks:
        table.add_row(Text(check.what), Text(check.outcome, _STYLES[check.outcome]), Text(check.details))
    console.print(table)


def checks_tree(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks for `json.dumps`, and whether none of them is wrong."""
    passed = all(check.outcome != "wrong" for check in checks)
    return {"passed": passed, "checks": [asdict(check) for check in checks]}


def require_passed(path: Path, checks: Sequence[Check]) -> None:
    """ParityError that names what is wrong, if anything is."""
    if wrong := [check.what for check in checks if check.outcome == "wrong"]:
        raise ParityError(f"{path}: gives other answers here than at export: {', '.join(wrong)}")


def _check_onnx(bundle: Bundle, precision: str) -> Check:
    with Student.load(bundle, precision=precision) as student:  # an open Bundle: hashes are checked once
        result = student.verify()
    details = "; ".join(result.problems) or (
        f"{result.samples} golden samples: logits off by {result.max_logit_error:.1e} from export, "
        f"{result.max_torch_error:.1e} from torch"
    )
    if result.passed and bundle.may_saturate(precision):
        details += "; its weights may saturate sums on a processor without VNNI: export the run again"
    return Check(bundle.file(precision).file, "ok" if result.passed else "wrong", details)


def _check_plan(bundle: Bundle, name: str) -> Check:
    from vl2v_deploy.exporting.precision.parity import Reference
    from vl2v_deploy.exporting.tensorrt.engines import check_answers, not_runnable_here

    plan = bundle.path / name
    try:
        if reason := not_runnable_here(plan):
            return Check(name, "not run", reason.removeprefix(f"{name}: "))
        golden = golden_of(bundle)
        answers = golden.images, golden.arrays["logits"], golden.embedding
        scale = bundle.file("fp32").parity.logit_scale
        reference = Reference(*answers, scale)
        parity = check_answers(plan, reference)
    except VL2VError as error:  # also one that the library refuses to load
        return Check(name, "wrong", str(error))
    sizes = ", ".join(map(str, parity.batch_sizes))
    return Check(name, "ok", f"logits within {parity.max_logit_error:.1e} of torch's at batch {sizes}")
