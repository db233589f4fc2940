"""All checks at once, into one report: a check that fails itself is a finding, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from vl2v_deploy import __version__
from vl2v_deploy.doctor.accelerators import check_driver, check_onnxruntime, check_tensorrt, check_torch
from vl2v_deploy.doctor.environment import check_environment
from vl2v_deploy.doctor.findings import FORMAT, Finding, Report
from vl2v_deploy.doctor.network import check_hub
from vl2v_deploy.doctor.packages import check_conflicts, check_packages, check_python, check_runtimes
from vl2v_deploy.doctor.pillow import check_pillow
from vl2v_deploy.doctor.places import check_cache
from vl2v_deploy.doctor.processor import check_processor, check_threads
from vl2v_deploy.errors import one_line

Check = Callable[[], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    *(check_python, check_packages, check_conflicts, check_runtimes, check_pillow),
    *(check_driver, check_torch, check_onnxruntime, check_tensorrt),
    *(check_processor, check_threads, check_cache, check_hub, check_environment),
)


def examine(checks: tuple[Check, ...] = CHECKS) -> Report:
    """What the checks find, in their order; those that wait for a child process wait at the same time."""
    with ThreadPoolExecutor(len(checks)) as pool:
        found = [finding for findings in pool.map(_findings, checks) for finding in findings]
    return Report(FORMAT, __version__, tuple(found))


def _findings(check: Check) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # whatever is broken here, the other checks have their say
        name = check.__name__.removeprefix("check_")
        return [Finding(name, "unknown", f"could not be found out: {one_line(error)}")]
