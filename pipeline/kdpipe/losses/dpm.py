"""TIE-KD's depth probability map: what one depth says about all bins, and how far a student is."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

DpmMode: TypeAlias = Literal["published", "normalized"]

_CHUNK = 2**18
"""Probabilities handled at once: a chunk and its temporaries stay in the processor's cache."""


def dpm_target(
    depth: Tensor, centers: Tensor, *, sigma: float, mode: DpmMode = "published"
) -> Tensor:
    """Spreads a teacher's depth over bins.

    `published`, literally: the Gaussian *density* g at each center, densities below 1e-16 replaced
    by -1000, then a softmax of these numbers. As g is at most 0.4 / sigma, that softmax is nearly
    flat within 8.6 sigma and exactly 0 beyond; at the ends of the range its mean is off by more
    than a metre. `normalized`: g divided by its sum, which the paper describes.

    Args:
        depth: teacher's depth (B, H, W) [m].
        centers: mid-points of the bins (N,) [m].
        sigma: of the Gaussian [m].
        mode: see above.

    Returns:
        Probabilities (B, N, H, W), sum 1 over N.

    Reference:
        TIE-KD, https://arxiv.org/abs/2402.14340, section 3.2, and its published code.
    """
    return _target(depth.float()[:, None], centers.float().view(1, -1, 1, 1), sigma, mode)


def dpm_loss(
    probabilities: Tensor,
    depth: Tensor,
    centers: Tensor,
    known: Tensor | None = None,
    *,
    sigma: float,
    mode: DpmMode = "published",
) -> Tensor:
    """TIE-KD's L_DPM: how far a student's bins are from what the teacher's depth says of them.

        mean over pixels of  sum_i [s_i != 0] * q_i * ln(q_i / (s_i + 1e-7) + 1e-7)

    with q of `dpm_target`: Kullback-Leibler divergence, teacher against student. The target is
    made and used chunk by chunk, and the gradient made in the same pass: beside `probabilities`
    only one tensor of their size exists.

    Args:
        probabilities: the student's s (B, N, H, W).
        depth: the teacher's depth (B, H, W) [m].
        centers: mid-points of the bins (N,) [m].
        known: pixels that count (B, H, W), bool; None: all, as published.
        sigma: of the Gaussian [m].
        mode: of `dpm_target`.

    Returns:
        A scalar; 0 where no pixel counts.

    Reference:
        TIE-KD, section 3.2, and its published code, whose mask and epsilons these are.
    """
    weight = torch.ones_like(depth) if known is None else known
    with torch.autocast(probabilities.device.type, enabled=False):  # sums in bf16 would not do
        loss: Tensor = _DpmLoss.apply(
            probabilities.float(), depth.float(), centers.float(), weight.float(), sigma, mode
        )  # type: ignore[no-untyped-call]
    return loss


def _target(depth: Tensor, centers: Tensor, sigma: float, mode: DpmMode) -> Tensor:
    exponent = (centers - depth).square_().mul_(-0.5 / sigma**2)
    if mode == "normalized":
        return torch.softmax(exponent, dim=1)  # the density's factor cancels
    density = exponent.exp_().mul_(1 / (sigma * math.sqrt(2 * math.pi)))
    return torch.softmax(density.masked_fill_(density < 1e-16, -1000.0), dim=1)


class _DpmLoss(torch.autograd.Function):
    """The sum over chunks, and its gradient with respect to the probabilities."""

    @staticmethod
    def forward(
        ctx: Any,
        probabilities: Tensor,
        depth: Tensor,
        centers: Tensor,
        weight: Tensor,
        sigma: float,
        mode: DpmMode,
    ) -> Tensor:
        b, n, h, w = probabilities.shape
        rows = max(1, _CHUNK // (n * w))
        column = centers.view(1, -1, 1, 1)
        per_pixel = 1 / weight.sum().clamp(min=1)
        gradient = torch.empty_like(probabilities) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float64, device=probabilities.device)
        for image in range(b):
            for top in range(0, h, rows):
                window = (slice(image, image + 1), slice(None), slice(top, top + rows))
                student = probabilities[window]
                scale = (weight[image : image + 1, top : top + rows] * per_pixel)[:, None]
                q = _target(depth[image : image + 1, None, top : top + rows], column, sigma, mode)
                q.mul_(student.sign())  # a probability of exactly 0 does not count
                shifted = student + 1e-7
                ratio = q / shifted
                inside = ratio + 1e-7
                if gradient is not None:
                    slope = torch.div(ratio, inside, out=gradient[window]).mul_(ratio)
                    slope.mul_(-scale)
                total += torch.einsum("bnhw,bnhw,bihw->", q, inside.log_(), scale)
        ctx.save_for_backward(gradient)
        return total.to(probabilities.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None, None, None, None, None
