"""What the store holds of each teacher, what that cost, and what it saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vl2v_deploy.models.store.asked import read_asked
from vl2v_deploy.models.store.shards import embedding_shape


@dataclass(frozen=True)
class TeacherStats:
    """The store of one teacher.

    teacher:    name of its folder, which is made from its identity
    embeddings: number held, of images and views
    dim:        D; 0 where none is held
    bytes:      of its shards
    hits:       embeddings that were asked for and already held, so not paid again
    misses:     images sent to the teacher: the paid queries
    """

    teacher: str
    embeddings: int
    dim: int
    bytes: int
    hits: int
    misses: int

    def cost_usd(self, usd_per_1k_queries: float) -> float:
        """Paid for the misses."""
        return self.misses * usd_per_1k_queries / 1000

    def saved_usd(self, usd_per_1k_queries: float) -> float:
        """What the hits would have cost, had each been a query."""
        return self.hits * usd_per_1k_queries / 1000


def store_stats(root: Path) -> list[TeacherStats]:
    """The stats of every teacher that has a folder under `root`, sorted by name.

    Raises ModelError for a damaged shard or log.
    """
    return [_teacher_stats(folder) for folder in sorted(root.glob("*/"))]


def print_stats(found: Sequence[TeacherStats], usd_per_1k_queries: float | None) -> None:
    """Prints a table of the teachers, with what they cost and saved where a price is given."""
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
    Console().print(table)


def _teacher_stats(folder: Path) -> TeacherStats:
    shards = list(folder.glob("*.safetensors"))
    shapes = [embedding_shape(shard) for shard in shards]
    hits, misses = read_asked(folder)
    return TeacherStats(
        teacher=folder.name,
        embeddings=sum(rows for rows, _ in shapes),
        dim=max((dim for _, dim in shapes), default=0),
        bytes=sum(shard.stat().st_size for shard in shards),
        hits=hits,
        misses=misses,
    )
