"""A SLURM of one node on the loopback interface: its own munge, controller and daemon, all in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
CPUS = 2
_READY_S = 60.0

# A job that is queued again waits until its credentials have expired: 120 s by default.
_CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=20
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=node Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running SLURM.

    environment: with which the programs of SLURM reach it
    """

    folder: Path
    environment: dict[str, str]

    def __call__(self, *words: str) -> str:
        """What a program of SLURM printed."""
        ended = subprocess.run(
            words, env=os.environ | self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, f"{words}: {ended.stderr}\n{self.logs()}"
        return ended.stdout

    def queue(self) -> list[str]:
        """The jobs that have not ended, each as its id and state."""
        return self("squeue", "--noheader", "--array", "--format=%i %T").splitlines()

    def logs(self) -> str:
        """The ends of all logs of the daemons."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{file.name}:\n{file.read_text(errors='replace')[-2000:]}" for file in files)


def why_none() -> str | None:
    """Why no SLURM can be started here; None = it can."""
    if missing := [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]:
        return f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "the daemons of SLURM run as root"


@contextmanager
def one_node(folder: Path) -> Iterator[Slurm]:
    """A SLURM of one node of two processors with one partition, `main`, ended at exit."""
    controller_port, daemon_port = free_ports(2)
    host = socket.gethostname().partition(".")[0]
    ports = {"controller_port": controller_port, "daemon_port": daemon_port}
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(folder=folder, host=host, cpus=CPUS, **ports))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    slurm = Slurm(folder, {"SLURM_CONF": str(conf)})
    with ExitStack() as daemons:
        files = [f"--{of}-file={folder}/munge.{of}" for of in ("key", "pid", "log", "seed")]
        socket_ = folder / "munge.socket"
        daemons.enter_context(
            _daemon(slurm, "munged", "--foreground", "--force", f"--socket={socket_}", *files)
        )
        _wait(slurm, "munge's socket", socket_.exists)
        daemons.enter_context(_daemon(slurm, "slurmctld", "-D", "-f", str(conf)))
        daemons.enter_context(_daemon(slurm, "slurmd", "-D", "-N", "node", "-f", str(conf)))
        _wait(slurm, "an idle node", lambda: _state(slurm) == "idle")
        yield slurm


def _path() -> str:
    """Where programs are looked for; the daemons' folder is not on every user's PATH."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _state(slurm: Slurm) -> str:
    ended = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"],
        env=os.environ | slurm.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.stdout.strip()


def _wait(slurm: Slurm, what: str, there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_S
    while not there():
        assert time.monotonic() < deadline, f"no {what} after {_READY_S:.0f} s\n{slurm.logs()}"
        time.sleep(0.1)


@contextmanager
def _daemon(slurm: Slurm, program: str, *words: str) -> Iterator[None]:
    found = shutil.which(program, path=_path())
    assert found is not None, program
    with (slurm.folder / f"{program}.out.log").open("wb") as output:
        process = subprocess.Popen(
            [found, *words],
            env=os.environ | slurm.environment | {"PATH": _path()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on."""
    with ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in opened:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in opened]
