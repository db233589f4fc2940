"""What the functions of the Python API return: a folder and what it holds; a notebook draws it as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from vl2v_deploy.client.target_words import TargetWords
from vl2v_deploy.escapes import html_text

if TYPE_CHECKING:  # a result imports what it needs, as the functions do
    from vl2v_deploy.benchmarking.schema import Report
    from vl2v_deploy.client import Bundle
    from vl2v_deploy.models.record import RunRecord


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    path:   its directory
    record: what its run.json holds
    """

    path: Path
    record: RunRecord

    @property
    def ood_accuracy(self) -> float | None:
        """Of the student (or baseline) on the target domain, in [0, 1]; None where no domain was kept unseen.

        It is of an unseen domain only where `record.target_words.is_unseen`.
        """
        accuracy = self.record.accuracy
        return accuracy.student.get(accuracy.target)

    @property
    def id_accuracy(self) -> float:
        """Mean over the source domains, in [0, 1]."""
        accuracy = self.record.accuracy
        return mean(share for domain, share in accuracy.student.items() if domain != accuracy.target)

    @property
    def plot(self) -> Path:
        """Losses and accuracy by domain, as a PNG file."""
        return self.path / "training.png"

    def __repr__(self) -> str:
        record, words = self.record, self.record.target_words
        on_target = f"{_percent(self.ood_accuracy)} % on {record.target}{words.marks}"
        return (
            f"RunResult({str(self.path)!r}, {record.method}: {words.short} {record.ood_unknown or on_target}"
            f", ID {_percent(self.id_accuracy)} %)"
        )

    def _repr_html_(self) -> str:
        accuracy = self.record.accuracy
        columns: dict[str, Mapping[str, float | None]] = {
            self.record.method: accuracy.student,
            "zero-shot teacher": accuracy.teacher,
            "linear probe": accuracy.linear_probe,
        }
        rows = [
            (
                f"{domain} ({self.record.target_role})" if domain == accuracy.target else domain,
                *(_percent(of_domain[domain]) for of_domain in columns.values()),
            )
            for domain in accuracy.student
        ]
        return _html_table(f"{self.path}: accuracy on held-out images, %", ("domain", *columns), rows)


@dataclass(frozen=True)
class BundleResult:
    """An exported bundle.

    path:   its directory
    bundle: what its manifest holds
    """

    path: Path
    bundle: Bundle

    def __repr__(self) -> str:
        return f"BundleResult({str(self.path)!r}, {', '.join(self.bundle.precisions)})"

    def _repr_html_(self) -> str:
        rows, run = [], self.bundle.manifest.run
        for precision in self.bundle.precisions:
            file = self.bundle.file(precision)
            accuracy = file.accuracy
            shares = ("-", "-")
            if accuracy is not None:
                ood = accuracy.ood_text if accuracy.ood is None else _percent(accuracy.ood)
                shares = (_percent(accuracy.id), ood)
            rows.append((file.file, f"{file.bytes / 1e6:.1f}", *shares))
        words = run.target_words if run else TargetWords()
        of_target = "OOD %" if words.is_unseen else f"{words.role}, %"
        return _html_table(str(self.path), ("file", "MB", "ID %", of_target), rows)


@dataclass(frozen=True)
class BenchmarkResult:
    """A benchmark's report.

    path:   directory of report.html, report.md and report.json
    report: what report.json holds
    """

    path: Path
    report: Report

    @property
    def cascade(self) -> Path | None:
        """cascade.json, the policy for `vl2v_deploy.client.cascade`; None where the report has no cascade."""
        from vl2v_deploy.benchmarking.report.files import CASCADE_JSON

        return self.path / CASCADE_JSON if self.report.results.cascade else None

    def __repr__(self) -> str:
        return f"BenchmarkResult({str(self.path)!r}, {', '.join(self.report.results.engines)})"

    def _repr_html_(self) -> str:
        from vl2v_deploy.benchmarking.report.tables import summary_grid

        grid = summary_grid(self.report)
        return _html_table(str(self.path / "report.html"), grid.columns, grid.rows)


@dataclass(frozen=True)
class LookResult:
    """A page of pictures.

    path:     the HTML file
    summary:  what it shows, as JSON values
    words:    what it shows, in a few lines
    pictures: HTML of its first pictures, which a notebook draws
    """

    path: Path
    summary: Mapping[str, Any]
    words: tuple[str, ...]
    pictures: str

    def __repr__(self) -> str:
        return f"LookResult({str(self.path)!r}, {self.words[0]!r})"

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{html_text(line)}</p>" for line in self.words)
        return f"{said}{self.pictures}<p>{html_text(str(self.path))}</p>"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _html_table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def row(tag: str, cells: Iterable[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html_text(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return f"<table><caption>{html_text(caption)}</caption>{row('th', columns)}{body}</table>"
