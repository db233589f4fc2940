"""What the store holds of each teacher, what that cost, and what it saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.table import Table

from vl2v_deploy.models.ledger.spending import Spending, print_spendings, spendings
from vl2v_deploy.models.store.asked import read_asked
from vl2v_deploy.models.store.damage import Damage, parts_set_aside
from vl2v_deploy.models.store.keys import folder_name
from vl2v_deploy.models.store.shards import embedding_shape
from vl2v_deploy.terminal import new_console, say_once


@dataclass(frozen=True)
class TeacherStats:
    """The store of one teacher.

    teacher:    name of its folder, which is made from its identity
    embeddings: number held, of images and views
    dim:        D; 0 where none is held
    bytes:      of its shards
    hits:       embeddings that were asked for and already held, so not paid again
    misses:     images sent to the teacher: the paid queries
    spending:   of a vendor, as the ledgers have it: with texts, canaries and what was asked twice
    damaged:    parts that are set aside (see models.store.damage)
    """

    teacher: str
    embeddings: int
    dim: int
    bytes: int
    hits: int
    misses: int
    spending: Spending = field(default_factory=Spending)
    damaged: int = 0

    def cost_usd(self, usd_per_1k_queries: float) -> float:
        """Paid for the misses."""
        return self.misses * usd_per_1k_queries / 1000

    def saved_usd(self, usd_per_1k_queries: float) -> float:
        """What the hits would have cost, had each been a query."""
        return self.hits * usd_per_1k_queries / 1000


def store_stats(root: Path, ledgers: Path | None = None) -> list[TeacherStats]:
    """The stats of every teacher that has a folder under `root` or is in a ledger, sorted by name.

    ledgers: the folder of the ledgers; None = none is read

    A damaged shard is set aside, said, and left out. Raises ModelError for a damaged log or ledger.
    """
    found = {folder.name: _teacher_stats(folder) for folder in root.glob("*/")}
    for teacher, spending in (spendings(ledgers, "teacher") if ledgers else {}).items():
        name = folder_name(teacher)
        known = found.get(name, TeacherStats(name, 0, 0, 0, 0, 0))
        found[name] = replace(known, spending=spending)
    return sorted(found.values(), key=lambda of: of.teacher)


def print_stats(found: Sequence[TeacherStats], usd_per_1k_queries: float | None) -> None:
    """Prints a table of the teachers, with what they cost and saved where a price is given."""
    if not found:
        new_console().print("No embedding is held, and no vendor was asked yet.")
        return
    table = Table(title="Teacher embeddings")
    table.add_column("teacher", overflow="fold")
    for name in ("embeddings", "MB", "hits", "misses"):
        table.add_column(name, justify="right")
    if usd_per_1k_queries is not None:
        table.add_column("cost, USD", justify="right")
        table.add_column("saved, USD", justify="right")
    for of in found:
        cells = [str(of.embeddings), f"{of.bytes / 1e6:.1f}", str(of.hits), str(of.misses)]
        if usd_per_1k_queries is not None:
            cells += [
                f"{usd:,.2f}" for usd in (of.cost_usd(usd_per_1k_queries), of.saved_usd(usd_per_1k_queries))
            ]
        table.add_row(of.teacher, *cells)
    new_console().print(table)
    for of in found:
        if of.damaged:
            new_console().print(
                f"{of.teacher}: {of.damaged} damaged part(s) are set aside; see vl2v-deploy teacher repair",
                soft_wrap=True,
            )
    if paid := {of.teacher: of.spending for of in found if of.spending != Spending()}:
        print_spendings(paid, "teacher")


def _teacher_stats(folder: Path) -> TeacherStats:
    shards: list[tuple[Path, tuple[int, int]]] = []
    for shard in sorted(folder.glob("*.safetensors")):
        try:
            shards.append((shard, embedding_shape(shard)))
        except Damage as damage:
            say_once(str(damage))
    hits, misses = read_asked(folder)
    return TeacherStats(
        teacher=folder.name,
        embeddings=sum(rows for _, (rows, _) in shards),
        dim=max((dim for _, (_, dim) in shards), default=0),
        bytes=sum(shard.stat().st_size for shard, _ in shards),
        hits=hits,
        misses=misses,
        damaged=len(parts_set_aside(folder)),
    )
