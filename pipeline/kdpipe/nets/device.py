"""The device that a name stands for."""

from __future__ import annotations

import torch

from kdpipe.errors import DeviceError


def find_device(name: str) -> torch.device:
    """A torch device that is there; `auto`: CUDA where there is one, else the CPU.

    Raises:
        DeviceError: torch does not know it, or this machine has none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceError(
            f"device {name!r} is not there (torch {torch.__version__} finds "
            f"{torch.cuda.device_count()} CUDA devices): use cpu, or install torch for your GPU"
        ) from error
