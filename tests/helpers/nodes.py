"""Two agents of torchrun on this machine, as on two nodes: each has one process of training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.many_runs import processes_of, wait_until
from tests.helpers.running import is_running
from tests.helpers.slurm import free_ports


@dataclass(frozen=True)
class Node:
    """An agent of torchrun, and the file that it and its process write to."""

    agent: subprocess.Popen[bytes]
    log: Path

    def worker(self) -> int:
        """Its process of training."""
        children = [pid for pid in processes_of("vl2v_deploy", "distill") if _parent(pid) == self.agent.pid]
        [worker] = children
        return worker

    def rank(self) -> int:
        variables = Path(f"/proc/{self.worker()}/environ").read_bytes().split(b"\0")
        [rank] = [variable for variable in variables if variable.startswith(b"RANK=")]
        return int(rank.partition(b"=")[2])

    def kill(self) -> None:
        """As when the node fails: nothing of it can do anything more."""
        worker = self.worker()
        for process in (self.agent.pid, worker):
            os.kill(process, signal.SIGKILL)
        self.agent.wait()
        wait_until(lambda: not is_running(worker), "the end of a killed process", 10)


@contextmanager
def two_nodes(recipe: Path, out: Path, *options: str, logs: Path) -> Iterator[list[Node]]:
    """`torchrun --nnodes 2 -m vl2v_deploy distill RECIPE`, twice; ended with the block."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_ports(1)[0]}"]
    command += ["--rdzv_id", "two", "--local_addr", "127.0.0.1"]
    command += ["-m", "vl2v_deploy", "distill", str(recipe), "--out", str(out), *options]
    environment = os.environ | {"VL2V_DEPLOY_CACHE": str(logs / "cache"), "OMP_NUM_THREADS": "1"}
    nodes: list[Node] = []
    try:
        for name in ("node0.log", "node1.log"):
            with (logs / name).open("w") as output:
                agent = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            nodes.append(Node(agent, logs / name))
        yield nodes
    finally:
        for node in nodes:
            node.agent.terminate()
        for node in nodes:
            node.agent.wait(timeout=60)


def _parent(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # ended meanwhile
        return 0
    return int(status.rpartition(")")[2].split()[1])
