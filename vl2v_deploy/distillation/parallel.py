"""Several processes on one run (`torchrun -m vl2v_deploy distill RECIPE`): how work and results are shared.

Every process runs the same code and holds the same weights; each computes its share of the images, and only
the first writes files. Without torchrun there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from vl2v_deploy.errors import LostProcessError, RecipeError, one_line
from vl2v_deploy.models.device import require_device
from vl2v_deploy.signals import Interrupted, received
from vl2v_deploy.terminal import leave_to_first_process
from vl2v_deploy.torchrun import is_first_process, process_count

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # the first process may buy embeddings while the others wait


@dataclass(frozen=True)
class World:
    """The processes of this run.

    rank: the number of this process, from 0; size: how many there are
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def mine(self, count: int) -> range:
        """Which of `count` rows this process computes."""
        return range(self.rank, count, self.size)

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """All `count` rows in order, from each process's part `mine`; (count, ...) on the CPU."""
        if self.size == 1:
            return rows
        longest = -(-count // self.size)
        padded = torch.zeros((longest, *rows.shape[1:]), dtype=rows.dtype)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        # Row i was computed by process i % size as its (i // size)-th.
        return torch.stack(parts, dim=1).flatten(0, 1)[:count]

    def each(self, count: int) -> list[int]:
        """Every process's count, by rank."""
        counts: list[int] = self.gather(torch.tensor([count]), self.size).tolist()
        return counts

    def greatest(self, number: int) -> int:
        """The greatest of the processes' numbers, in every process."""
        if self.size == 1:
            return number
        box = torch.tensor(number)
        dist.all_reduce(box, dist.ReduceOp.MAX)
        return int(box)

    def from_first(self, value: T) -> T:
        """The first process's `value`, in every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def share_weights(self, parameters: dict[str, Tensor]) -> None:
        """Copy the first process's weights into those of every other, in place."""
        if self.size > 1:
            for tensor in parameters.values():
                dist.broadcast(tensor.detach(), src=0)


@contextmanager
def open_world() -> Iterator[World]:
    """The processes that torchrun started, connected; one process without torchrun.

    All but the first print nothing but errors from then on.

    Raises LostProcessError when one of them is gone.
    """
    size = process_count()
    if size == 1:
        yield World()
        return
    if not is_first_process():
        leave_to_first_process()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
        try:
            yield World(dist.get_rank(), size)
        finally:
            dist.destroy_process_group()
    except RuntimeError as error:
        if not _is_of_connection(error):
            raise
        if number := received():  # the others were told to end, too, and were faster
            raise Interrupted(number) from error
        raise LostProcessError(
            f"another of the {size} processes of this run has ended, or its node cannot be reached "
            f"({_words_of(error)}); the last checkpoint is kept: start torchrun on all nodes with --resume"
        ) from error


def _words_of(error: RuntimeError) -> str:
    """The first sentence of an error of torch's libraries, without the place in their source."""
    return re.sub(r"^RuntimeError: (\[[^] ]+\] )?", "", one_line(error)).partition(". ")[0]


def _is_of_connection(error: RuntimeError) -> bool:
    """Whether an error says that the processes no longer reach one another; gloo has no type of its own."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def local_device(name: str, world: World) -> torch.device:
    """The device of this process: with several on one machine, each takes the GPU of its local rank.

    Raises RecipeError for cuda:N with several processes, ProviderError for a device that is not there.
    """
    if world.size > 1 and name.startswith("cuda:"):
        raise RecipeError(
            f"device: {name} with {world.size} processes: write cuda, each takes a GPU of its own"
        )
    if world.size > 1 and name == "cuda":
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    device = require_device(name)
    if device.type != "cuda":
        return device
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def first_does(world: World, action: Callable[[], T]) -> T:
    """The result of `action()` in the first process, in every process; an error there ends all of them.

    The others exit silently, as the first reports the error.
    """
    error: BaseException | None = None
    result: T | None = None
    if world.is_first:
        try:
            result = action()
        except BaseException as raised:
            error = raised
    failed = world.from_first(error is not None)
    if error is not None:
        raise error
    if failed:
        raise SystemExit(1)
    return cast(T, world.from_first(result))
