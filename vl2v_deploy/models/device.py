"""The device that was asked for, or an error; never another one."""

from __future__ import annotations

import torch

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
