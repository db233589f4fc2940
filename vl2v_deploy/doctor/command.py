"""`vl2v-deploy doctor`, with or without click."""

from __future__ import annotations

import json

from vl2v_deploy.doctor.findings import tree_of
from vl2v_deploy.doctor.render import print_report
from vl2v_deploy.doctor.run import examine


def diagnose(*, as_json: bool) -> int:
    """Look at everything and print what was found; the exit code, 1 where something is broken."""
    report = examine()
    if as_json:
        print(json.dumps(tree_of(report), indent=1))
    else:
        print_report(report)
    return int(report.broken)
