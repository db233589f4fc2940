"""What all ledgers of this machine say: paid, possibly paid, in flight; by teacher, day or run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from vl2v_deploy.models.ledger.booking import run_of
from vl2v_deploy.models.ledger.ledger import Budget, Entry, Ledger
from vl2v_deploy.terminal import new_console

By = Literal["teacher", "day", "run"]


@dataclass
class Spending:
    """Queries (images and texts) and USD of each state, which a budget counts alike.

    possibly_paid: sent, and no answer came
    in_flight:     sent by a process that is waiting for the answer
    """

    paid_queries: int = 0
    paid_usd: float = 0.0
    possibly_paid_queries: int = 0
    possibly_paid_usd: float = 0.0
    in_flight_queries: int = 0
    in_flight_usd: float = 0.0

    def add(self, entry: Entry) -> None:
        """Counts an entry of a ledger."""
        queries = entry.images + entry.texts
        match entry.state:
            case "settled":
                self.paid_queries += queries
                self.paid_usd += entry.usd
            case "unknown":
                self.possibly_paid_queries += queries
                self.possibly_paid_usd += entry.usd
            case "reserved":
                self.in_flight_queries += queries
                self.in_flight_usd += entry.usd


def spendings(folder: Path, by: By) -> dict[str, Spending]:
    """The sums of all ledgers in a folder, by the name of teacher, day or run; sorted.

    Raises ModelError for a ledger that cannot be read.
    """
    found: dict[str, Spending] = {}
    for file in sorted(folder.glob("*.sqlite")):
        for entry in Ledger(file, Budget(None, None)).entries():
            name = run_of(entry.run) if by == "run" else getattr(entry, by)
            found.setdefault(name, Spending()).add(entry)
    return dict(sorted(found.items()))


def print_spendings(found: dict[str, Spending], by: By) -> None:
    """Prints a table of what was paid to vendors."""
    table = Table(title=f"Queries of vendors by {by}")
    table.add_column(by, overflow="fold")
    for state in ("paid", "possibly paid", "in flight"):  # queries, then USD
        table.add_column(f"{state}, USD", justify="right")
    for name, of in found.items():
        sums = (
            (of.paid_queries, of.paid_usd),
            (of.possibly_paid_queries, of.possibly_paid_usd),
            (of.in_flight_queries, of.in_flight_usd),
        )
        table.add_row(name or "not said", *(f"{queries:,}  {usd:,.2f}" for queries, usd in sums))
    new_console().print(table)
