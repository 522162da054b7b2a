"""One-dimensional interpolation: which pixels an output takes, how much of each, and their sum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray


def between(
    pixel: NDArray[np.float64], frame: int, native: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Native cell before, and distance behind it, of frame pixels counted from their centres."""
    step = (native - 1) / (frame - 1) if frame > 1 else 0.0
    # The outermost half pixel of the frame has no neighbour on its far side: the edge goes on.
    at = np.clip(pixel * step, 0, native - 1)
    before = np.minimum(np.floor(at).astype(np.intp), max(native - 2, 0))
    behind = at - before
    # A window's offset added and taken away must not wake a neighbour of weight 1e-15.
    near = np.round(behind)
    return before, np.where(np.abs(behind - near) < 1e-9, near, behind)


def taps(
    centres: NDArray[np.float64], length: int, step: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pixels each output takes, and how much: a triangle as wide as the step.

    Where a triangle meets the border, or the step is no whole number, its weights are tilted so
    that their mean position is the centre: a ramp goes through without a shift.

    Returns:
        Pixel numbers and weights, each (taps, outputs).
    """
    width = max(1.0, step)
    middle = np.clip(centres, 0.5, length - 0.5)[None, :]
    first = np.floor(middle - width + 0.5).astype(np.intp)
    pixel = first + np.arange(math.ceil(2 * width))[:, None]
    offset = pixel + 0.5 - middle
    triangle = np.maximum(0, 1 - np.abs(offset) / width) * ((pixel >= 0) & (pixel < length))
    triangle /= triangle.sum(axis=0)
    mean = (triangle * offset).sum(axis=0)
    spread = (triangle * offset**2).sum(axis=0) - mean**2
    safe = np.where(spread > 1e-6, spread, 1)
    tilt = np.where(spread > 1e-6, mean / safe, 0)
    weights = (triangle * (1 - tilt * (offset - mean))).astype(np.float32)
    used = weights.any(axis=1)  # one tap in all where pixels are taken as they are
    pixel, weights = np.clip(pixel[used], 0, length - 1), weights[used]
    return torch.from_numpy(pixel), torch.from_numpy(weights)


def extended(values: torch.Tensor, dim: int) -> torch.Tensor:
    """One more line at both ends of `dim`, where the values' slope leads."""
    if values.shape[dim] == 1:
        return values.repeat_interleave(3, dim)
    first, second = values.narrow(dim, 0, 1), values.narrow(dim, 1, 1)
    last, before = values.narrow(dim, -1, 1), values.narrow(dim, -2, 1)
    return torch.cat([2 * first - second, values, 2 * last - before], dim)


def gather(values: torch.Tensor, taps: tuple[torch.Tensor, torch.Tensor], dim: int) -> torch.Tensor:
    """The weighted sum of each output's taps along `dim`; integers become float32."""
    pixels, weights = taps
    if len(pixels) == 1 and bool((weights == 1).all()):
        return values.index_select(dim, pixels[0]).float()
    count = pixels.shape[1]
    lines = values.movedim(dim, 0)
    places = torch.stack([torch.arange(count).repeat(len(pixels)), pixels.flatten()])
    # A product with a sparse matrix: half the time of a sum tap by tap.
    matrix = torch.sparse_coo_tensor(
        places, weights.flatten(), (count, len(lines)), check_invariants=False
    )
    total = matrix @ lines.reshape(len(lines), -1).float()
    return total.view(count, *lines.shape[1:]).movedim(0, dim)
