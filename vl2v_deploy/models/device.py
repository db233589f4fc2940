"""The device that was asked for, or an error; never another one."""

from __future__ import annotations

import os

import torch

from vl2v_deploy.client.threads import default_threads, physical_cores, usable_cpus
from vl2v_deploy.errors import ProviderError


def require_device(name: str) -> torch.device:
    """The torch device called `name`: cpu, cuda or cuda:N.

    Raises ProviderError when this machine or this torch does not have it.
    """
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (device.index or 0) >= count:
            raise ProviderError(f"device {name}: torch {torch.__version__} sees {count} CUDA device(s) here")
    return device


def limit_torch_threads() -> None:
    """Have torch compute with no more threads than affinity, CPU quota and physical cores allow.

    torch's own default knows no quota, and depending on its libraries counts hyper-threads too. A number that
    a user has chosen, by OMP_NUM_THREADS, MKL_NUM_THREADS (torchrun sets the first) or in torch, is kept.
    """
    if os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS"):
        return
    allowed, now = default_threads().count, torch.get_num_threads()
    of_torch = {physical_cores(), len(usable_cpus()), os.cpu_count()}
    if now in of_torch and now > allowed:
        torch.set_num_threads(allowed)
