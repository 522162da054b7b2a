"""Losses on where the bins lie: AdaBins' Chamfer distance."""

from __future__ import annotations

import torch
from torch import Tensor


def chamfer(centers: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Squared Chamfer distance between an image's bin centers and its measured depths, both ways.

        mean_c min_t (c - t)**2  +  mean_t min_c (t - c)**2,   the mean over images

    On a line the nearest neighbour is one of two in sorted order: exact, O(P log P), and no table
    of P x N distances.

    Args:
        centers: (B, N) [m].
        truth: measured depth (B, H, W) [m].
        valid: pixels that count (B, H, W), bool; an image without any adds 0.

    Returns:
        A scalar [m^2].

    Reference:
        Bhat et al., "AdaBins", https://arxiv.org/abs/2011.14141, equation 6; AdaBins counts
        pixels of at least 1e-3 m and weighs this loss with 0.1.
    """
    total = centers.float().sum() * 0
    for points, chosen, pixels in zip(centers.float(), valid, truth.float(), strict=True):
        depths = pixels[chosen]
        if depths.numel() == 0:
            continue
        ordered, _ = points.sort()
        with torch.no_grad():
            depths, _ = depths.sort()
            nearest_depth = _nearest(ordered, depths)
            nearest_center = _nearest(depths, ordered)
        total = total + (ordered - depths[nearest_depth]).square().mean()
        total = total + (depths - ordered[nearest_center]).square().mean()
    return total / len(centers)


def _nearest(of: Tensor, among: Tensor) -> Tensor:
    """Index of the element of `among`, sorted, that is nearest to each element of `of`."""
    above = torch.searchsorted(among, of.contiguous()).clamp(max=len(among) - 1)
    below = (above - 1).clamp(min=0)
    return torch.where((of - among[below]).abs() <= (among[above] - of).abs(), below, above)
