"""What a check says: one finding for each thing that was looked at, and all of them as a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FORMAT = 1  # of the report as JSON; a key that changes its meaning, or goes, makes it 2
# note: worth knowing, nothing is wrong. broken: something that is installed or set cannot work.
# unknown: it could not be found out.
Level = Literal["ok", "note", "warning", "broken", "unknown"]


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    check: which check it is of, such as "packages"
    level: how bad it is
    what:  in one line
    fix:   what to do; "" where there is nothing to do
    facts: what was found, for a bug report; holds no secrets
    """

    check: str
    level: Level
    what: str
    fix: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All that was found.

    format:      of this report as JSON
    vl2v_deploy: its version
    findings:    in the order in which they are shown
    """

    format: int
    vl2v_deploy: str
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> bool:
        return any(finding.level == "broken" for finding in self.findings)

    def count(self, level: Level) -> int:
        """How many findings are of a level."""
        return sum(finding.level == level for finding in self.findings)


def tree_of(report: Report) -> dict[str, Any]:
    """The report for `json.dumps`, and whether anything is broken."""
    return asdict(report) | {"broken": report.broken}
