"""A loss over bins whose gradient is made beside it, so that one tensor of their size is enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Work: TypeAlias = Callable[[Tensor, bool], tuple[Tensor, Tensor | None]]
"""Probabilities (B, N, H, W), whether a gradient is wanted -> a scalar, and its gradient, new."""

_CHUNK = 2**18
"""A chunk and its temporaries stay in the processor's cache."""

_CHUNK_ON_A_GPU = 2**24
"""There a chunk must be worth its launches: 64 MiB for it, and for each of its temporaries."""


def chunk_on(device: torch.device) -> int:
    """How many probabilities to handle at once."""
    return _CHUNK if device.type == "cpu" else _CHUNK_ON_A_GPU


def with_gradient(probabilities: Tensor, work: Work) -> Tensor:
    """The scalar that `work` gives of probabilities (B, N, H, W), as autograd knows it.

    From the forward pass on there is one tensor of the size of the probabilities, their gradient,
    which the backward pass scales in place and hands on. `work` runs again only where there is a
    second backward pass through the same graph.
    """
    loss: Tensor = _WithGradient.apply(probabilities, work)  # type: ignore[no-untyped-call]
    return loss


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, work: Work) -> Tensor:
        ctx.work = work
        ctx.save_for_backward(probabilities)
        total, ctx.gradient = _done(work, probabilities, ctx.needs_input_grad[0])
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None]:
        (probabilities,) = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            _, gradient = _done(ctx.work, probabilities, True)
        assert gradient is not None
        return gradient.mul_(upstream[0]), None


def _done(work: Work, probabilities: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    with torch.autocast(probabilities.device.type, enabled=False):  # sums in bf16 would not do
        return work(probabilities, wanted)
