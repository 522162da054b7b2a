"""Hu et al.'s loss: errors of depth, of its gradients, and of the surface's normals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_OFFSET = 0.5
"""Added to an error before the logarithm: 0 gives ln 0.5, so the loss of a perfect map is 3 of it
below 0."""


def hu(pred: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean logarithmic errors of depth and of its gradients, and 1 - cosine of the normals.

        mean ln(|p - t| + 0.5) + mean ln(|dx p - dx t| + 0.5) + mean ln(|dy p - dy t| + 0.5)
        + mean |1 - cos(n(p), n(t))|,   n(z) = (-dx z, -dy z, 1)

    The gradients are Sobel's, not divided by 8, with zeros beyond the border: metres over eight
    pixels, so a map of another size is another problem.

    The published loss counts every pixel, its truth being filled in. Here the first mean is over
    valid pixels, and the others are over those whose neighbours are all valid too: a hole has no
    edge. With everything valid this is the published loss; with a laser's sparse truth hardly more
    than its first term is left.

    Args:
        pred: predicted depth (B, H, W) [m], of any sign.
        truth: measured depth, or a teacher's (B, H, W) [m].
        valid: pixels that count (B, H, W), bool, or their weights.

    Returns:
        A scalar >= 3 ln 0.5 = -2.079. No valid pixel gives 0, with zero gradient.

    Reference:
        Hu, Ozay, Zhang, Okatani, "Revisiting Single Image Depth Estimation", WACV 2019, section
        3.2, https://arxiv.org/abs/1803.08673, as its code runs; Hu et al., "Boosting LightWeight
        Depth Estimation Via Knowledge Distillation", https://arxiv.org/abs/2105.06143.
    """
    # `where`, not a product: what is beyond `valid` may be no number, and 0 times that is none.
    weights, valid = valid, valid > 0
    error = torch.where(valid, pred.float() - truth.float(), 0)
    truth = torch.where(valid, truth.float(), 0)
    whole = _all_near(valid)
    error_x, error_y = _sobel(error)
    truth_x, truth_y = _sobel(truth)
    pred_x, pred_y = truth_x + error_x, truth_y + error_y
    lengths = (pred_x.square() + pred_y.square() + 1) * (truth_x.square() + truth_y.square() + 1)
    cosine = (pred_x * truth_x + pred_y * truth_y + 1) / lengths.sqrt()
    return (
        _mean(_log(error), valid, weights)
        + _mean(_log(error_x) + _log(error_y), whole, weights)
        + _mean((1 - cosine).abs(), whole, weights)
    )


def _log(error: Tensor) -> Tensor:
    return torch.log(error.abs() + _OFFSET)


def _mean(values: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    shares = torch.where(chosen, weights.float(), 0)
    return (values * shares).sum() / shares.sum().clamp(min=1e-6)


def _sobel(depth: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (B, H, W) along x and y [m], both towards the upper left, as published."""
    z = F.pad(depth, (1, 1, 1, 1))
    rows = z[:, :-2] + 2 * z[:, 1:-1] + z[:, 2:]
    columns = z[:, :, :-2] + 2 * z[:, :, 1:-1] + z[:, :, 2:]
    return rows[:, :, :-2] - rows[:, :, 2:], columns[:, :-2] - columns[:, 2:]


def _all_near(valid: Tensor) -> Tensor:
    """Pixels that are valid with all their neighbours; beyond the border all are."""
    near = F.pad(valid, (1, 1, 1, 1), value=True)
    near = near[:, :-2] & near[:, 1:-1] & near[:, 2:]
    return near[:, :, :-2] & near[:, :, 1:-1] & near[:, :, 2:]
