"""Structural similarity of two depth maps: TIE-KD's, and one that knows about unknown pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SIGMA = 1.5
"""Of the Gaussian window [pixels]."""

_C1, _C2 = 0.01**2, 0.03**2
"""TIE-KD's constants [m^2]: those of data whose range is 1, although depth is in metres. With a
range of 10 m they would be a hundred times larger, more than the variance of nearly any window of
a room: any two would be nearly alike, and a student would learn little from them."""


def ssim(first: Tensor, second: Tensor, *, window: int = 11) -> Tensor:
    """TIE-KD's SSIM index of each image, as its code computes it.

    The window is Gaussian, sigma 1.5; beyond the border there are zeros; the constants are those of
    data of range 1 although depth is in metres; variances and **covariance lose their sign**, so a
    relief the wrong way round counts as a right one. Libraries do none of this.

    Args:
        first: depth (B, H, W) [m].
        second: depth (B, H, W) [m].
        window: side of the window [pixels], odd.

    Returns:
        (B,), the mean over all pixels, borders included; 1 where the maps are equal.

    Reference:
        Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity",
        2004, equation 13; the departures are those of the published TIE-KD code.
    """
    x, y = first.float(), second.float()
    mean_x, xx, xy = _blur(torch.stack([x, x * x, x * y], dim=1), window).unbind(dim=1)
    mean_y, yy = _blur(torch.stack([y, y * y], dim=1), window).unbind(dim=1)
    variance_x = (xx - mean_x.square()).abs()
    variance_y = (yy - mean_y.square()).abs()
    covariance = (xy - mean_x * mean_y).abs()
    index = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    index = index / ((mean_x.square() + mean_y.square() + _C1) * (variance_x + variance_y + _C2))
    return index.mean(dim=(1, 2))


def known_ssim(first: Tensor, second: Tensor, known: Tensor, *, window: int = 11) -> Tensor:
    """SSIM over known pixels only, of all images together.

    Windows are renormalised to the known pixels they hold, so neither the border nor a hole leaks
    in, and covariance keeps its sign; the constants are those of `ssim`.

    Args:
        first: depth (B, H, W) [m].
        second: depth (B, H, W) [m].
        known: pixels that count (B, H, W), bool.
        window: side of the window [pixels], odd.

    Returns:
        A scalar, the mean over known pixels; 1 where there is none.

    Reference:
        Wang et al., 2004, equation 13, on normalised windows.
    """
    weight = known.float()
    x, y = first.float() * weight, second.float() * weight
    sums = _blur(torch.stack([x, x * x, x * y], dim=1), window)
    share, sum_y, sum_yy = _blur(torch.stack([weight, y, y * y], dim=1), window).unbind(dim=1)
    share = share.clamp(min=1e-6)  # a known pixel's own weight in its window is far above that
    mean_x, xx, xy = (sums / share[:, None]).unbind(dim=1)
    mean_y, yy = sum_y / share, sum_yy / share
    variances = (xx - mean_x.square()).clamp(min=0) + (yy - mean_y.square()).clamp(min=0)
    covariance = xy - mean_x * mean_y
    index = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    index = index / ((mean_x.square() + mean_y.square() + _C1) * (variances + _C2))
    lost = torch.where(known, 1 - index, torch.zeros_like(index))
    return 1 - lost.sum() / weight.sum().clamp(min=1)


def _blur(maps: Tensor, window: int) -> Tensor:
    """Gaussian means of (B, C, H, W), with zeros beyond the border."""
    blurred: Tensor = _Blur.apply(maps, window)  # type: ignore[no-untyped-call]
    return blurred


class _Blur(torch.autograd.Function):
    """A symmetric filter with zeros beyond the border is its own adjoint: gradients are blurred."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, window: int) -> Tensor:
        ctx.window = window
        offset = torch.arange(window, dtype=torch.float64) - window // 2
        weights = torch.exp(-offset.square() / (2 * _SIGMA**2))
        taps = (weights / weights.sum()).tolist()
        return _filtered(_filtered(maps, taps, -1), taps, -2)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return _Blur.forward(ctx, upstream[0], ctx.window), None


def _filtered(maps: Tensor, taps: list[float], dim: int) -> Tensor:
    """Sums of shifted copies: convolutions of one channel take five times as long on a CPU."""
    reach, length = len(taps) // 2, maps.shape[dim]
    border = (reach, reach) if dim == -1 else (0, 0, reach, reach)
    wide = F.pad(maps, border)
    total = wide.narrow(dim, reach, length) * taps[reach]
    for place in range(reach):
        total.add_(wide.narrow(dim, place, length), alpha=taps[place])
        total.add_(wide.narrow(dim, 2 * reach - place, length), alpha=taps[place])
    return total
