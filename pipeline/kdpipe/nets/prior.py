"""What a softmax over bins needs as its bias to give a known distribution."""

from __future__ import annotations

import torch
from torch import Tensor

_RAREST = 1e-4
"""Of the start, for bins that no depth falls into: they stay within reach."""


def log_frequency(depths: Tensor, count: int, near: float, far: float) -> Tensor:
    """Logarithms of how often depths fall into equally wide bins, as (count,), mean 0.

    Args:
        depths: (n,) [m].
        count: number of bins.
        near: where the first bin begins [m].
        far: where the last bin ends [m]; what lies beyond counts for the outer bins.
    """
    counts = torch.histc(depths.float().clamp(near, far), count, near, far)
    logits = (counts / counts.sum().clamp_min(1) + _RAREST).log()
    return logits - logits.mean()
