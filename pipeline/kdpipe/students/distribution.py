"""Logits over bins to probabilities and their mean, with the gradients of both made in one pass."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdpipe.losses.fused import chunk_on


def distribution(logits: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over bins, and the mean of their centers.

    Args:
        logits: (B, H, W, N): with the bins last, neither needs a copy.
        centers: (N,) [m].

    Returns:
        Probabilities (B, N, H, W), bins last in memory, and depth (B, H, W) [m], in fp32.
    """
    kind = logits.device.type  # there is no autocast where costs are counted without computing
    off = torch.autocast(kind, enabled=False) if kind != "meta" else contextlib.nullcontext()
    with off:
        found: tuple[Tensor, Tensor] = _Distribution.apply(logits.float(), centers)  # type: ignore[no-untyped-call]
    return found


class _Distribution(torch.autograd.Function):
    """Softmax and mean in one, whose gradients are added chunk by chunk: no tensor of the
    probabilities' size is made on the way, and what is at hand stays in the processor's cache."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.softmax(logits, dim=-1)
        depth = F.linear(p, centers[None])[..., 0]
        ctx.save_for_backward(p, depth, centers)
        ctx.set_materialize_grads(False)
        return p.permute(0, 3, 1, 2), depth

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, None]:
        of_p, of_depth = upstream
        if of_p is None and of_depth is None:
            return None, None
        p, depth, centers = ctx.saved_tensors
        gradient = torch.empty_like(p)
        _, height, width, n = p.shape
        rows = max(1, chunk_on(p.device) // (width * n))
        for part in itertools.product(
            range(len(p)), (slice(top, top + rows) for top in range(0, height, rows))
        ):
            slope, here = gradient[part], p[part]
            if of_depth is None:
                slope.zero_()
            else:
                torch.sub(centers, depth[part][..., None], out=slope)
                slope.mul_(of_depth[part][..., None])
            if of_p is not None:
                given = of_p.permute(0, 2, 3, 1)[part]
                slope.add_(given).sub_((given * here).sum(dim=-1, keepdim=True))
            slope.mul_(here)
        return gradient, None
