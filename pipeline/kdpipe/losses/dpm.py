"""TIE-KD's depth probability map: what one depth says about all bins, and how far a student is."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from kdpipe.losses.fused import chunk_on, with_gradient

DpmMode: TypeAlias = Literal["published", "normalized"]

_EPSILON = 1e-7

_REACH = 7.0
"""Of a normalized Gaussian [sigma]: 2e-11 of its peak, nothing beside float32's own 6e-8."""


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
    kind = torch.promote_types(depth.dtype, torch.float32)
    q = _target(depth.to(kind)[..., None], centers.to(kind), sigma, mode)
    return q.permute(0, 3, 1, 2)


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
    only one tensor of their size exists. Of a normalized target only the bins within 7 sigma
    are looked at, where bins are equally wide; the others have less than 1e-10 of its mass.

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
    kind = torch.promote_types(probabilities.dtype, torch.float32)
    work = partial(
        _summed,
        depth=depth.to(kind),
        centers=centers.to(kind),
        weight=weight.to(kind),
        sigma=sigma,
        mode=mode,
    )
    return with_gradient(probabilities.to(kind), work)


def _target(depth: Tensor, centers: Tensor, sigma: float, mode: DpmMode) -> Tensor:
    """q (..., N) of depth (..., 1) at centers (N,) or (..., N)."""
    exponent = (centers - depth).square_().mul_(-0.5 / sigma**2)
    if mode == "normalized":
        return torch.softmax(exponent, dim=-1)  # the density's factor cancels
    exponent.clamp_(min=-60)  # below 1e-16 either way; e**-90 is no normal float32, and slow
    density = exponent.exp_().mul_(1 / (sigma * math.sqrt(2 * math.pi)))
    return torch.softmax(density.masked_fill_(density < 1e-16, -1000.0), dim=-1)


def _summed(
    probabilities: Tensor,
    wanted: bool,
    *,
    depth: Tensor,
    centers: Tensor,
    weight: Tensor,
    sigma: float,
    mode: DpmMode,
) -> tuple[Tensor, Tensor | None]:
    """The sum over chunks, and its gradient with respect to the probabilities."""
    b, n, h, w = probabilities.shape
    step = _even_step(centers) if mode == "normalized" else None
    count = n if step is None else min(n, 2 * math.ceil(_REACH * sigma / step + 0.5) + 1)
    windows = centers.unfold(0, count, 1)
    chunk = chunk_on(probabilities.device)
    rows = max(1, chunk // (count * w))
    scale = weight / weight.sum().clamp(min=1)
    gradient = torch.zeros_like(probabilities) if wanted else None
    total = torch.zeros((), dtype=torch.float64, device=probabilities.device)
    for image in range(b):
        for top in range(0, h, rows):
            part = (image, slice(top, top + rows))
            here, share = depth[part][..., None], scale[part][..., None]
            student, near, bins = probabilities[image].movedim(0, -1)[part[1]], centers, None
            if step is not None and count < n:
                first = ((here - centers[0]) / step).round_().long() - count // 2
                first.clamp_(0, n - count)
                near = windows.index_select(0, first.flatten()).view(*first.shape[:2], count)
                bins = first + torch.arange(count, device=first.device)
                student = student.gather(-1, bins)
            value, slope = _divergence(student, _target(here, near, sigma, mode), share)
            total += value
            if gradient is not None:
                slopes = gradient[image].movedim(0, -1)[part[1]]
                slopes.copy_(slope) if bins is None else slopes.scatter_(-1, bins, slope)
    return total.to(probabilities.dtype), gradient


def _divergence(student: Tensor, q: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Of a chunk (h, w, N): its part of the sum, and the gradient."""
    q = q.mul_(student.sign())  # a probability of exactly 0 does not count
    ratio = q / (student + _EPSILON)
    inside = ratio + _EPSILON
    slope = ratio.square_().div_(inside).mul_(-share)
    return q.mul_(inside.log_()).mul_(share).sum(), slope


def _even_step(centers: Tensor) -> float | None:
    """Distance of the bins [m], where all have the same."""
    first, *_, last = values = centers.tolist()
    step = float(last - first) / (len(values) - 1)
    even = all(abs(c - first - step * place) < 1e-3 * step for place, c in enumerate(values))
    return step if even else None
