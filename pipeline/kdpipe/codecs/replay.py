"""What the codes of a log-binomial distribution mean, in numpy: 64 probabilities from two numbers,
centres from where they started and what drew them. nets/log_binomial.py is the same in torch.

Reference:
    Bhat, Birkl, Wofk, Wonka, Müller, "ZoeDepth: Zero-shot Transfer by Combining Relative and Metric
    Depth", 2023, section 3.2. https://arxiv.org/abs/2302.12288
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALPHA = 300.0
"""How narrowly an attractor draws: by away / (1 + ALPHA * away**2)."""

REACH = 0.5 / math.sqrt(ALPHA)
"""The farthest that a map's attractors can move a centre [m, or part of the span]."""

_VALUES_AT_ONCE = 1 << 20
"""Keeps the working memory far below the volume itself."""


def log_binomial(
    logits: NDArray[np.float64], temperature: NDArray[np.float64], count: int
) -> NDArray[np.float32]:
    """softmax over k of [ln C(n, k) + k * logit p] / T, with n = count - 1.

    ln C is Stirling's leading term n ln n - k ln k - (n - k) ln(n - k), as ZoeDepth's weights were
    trained with; the true coefficient gives another distribution.

    Args:
        logits: ln(p / (1 - p)) (h, w).
        temperature: T (h, w), > 0.
        count: K, of bins.

    Returns:
        (K, h, w), sum 1 over K.
    """
    k = np.arange(count, dtype=np.float64)
    n = count - 1.0
    choose = n * np.log(n) - _times_log(k) - _times_log(n - k)
    flat_logits, inverse = logits.ravel(), 1 / temperature.ravel()
    probabilities = np.empty((count, logits.size), np.float32)
    size = max(1, _VALUES_AT_ONCE // count)
    for first in range(0, logits.size, size):
        part = slice(first, first + size)
        # In float32 an exponent is known to 1e-3 only where T is coldest.
        scores = (k - n / 2)[:, None] * flat_logits[part]
        scores += choose[:, None]
        scores *= inverse[part]
        scores -= scores.max(axis=0)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=0)
        probabilities[:, part] = scores
    return probabilities.reshape(count, *logits.shape)


def replay(
    seeds: NDArray[np.float32],
    attractors: Sequence[NDArray[np.float32]],
    span: tuple[float, float] | None,
) -> NDArray[np.float32]:
    """Centres (K, rows, columns) [m] on the last attractors' map, from where they started.

    On each map the centres, resized from the coarser one, move by the mean over its points a of
    (a - c) / (1 + ALPHA * (a - c)**2).

    Args:
        seeds: (K, rows, columns) [m].
        attractors: points (n, rows, columns), coarse to fine, in metres or parts of the span.
        span: depths that centres lie between, at last sorted and clipped [m]; None: they are free.
    """
    near, far = span or (0.0, 1.0)
    width = np.float32(far - near)
    centers = seeds if span is None else (seeds - np.float32(near)) / width
    for points in attractors:
        centers = resize(centers, (points.shape[1], points.shape[2]))
        for own in centers:  # of one bin: what is worked on stays in the cache
            shift = np.zeros_like(own)
            for point in points:
                away = point - own
                shift += away / (1 + np.float32(ALPHA) * away * away)
            own += shift / np.float32(len(points))
    if span is None:
        return centers
    centers = np.sort(width * centers + np.float32(near), axis=0)
    return np.clip(centers, np.float32(near), np.float32(far))


def growth_of_error(levels: int) -> tuple[float, float]:
    """How far errors of seeds and attractors can move a centre on the last of so many maps.

    If a point x is known to within e * (x + offset), a centre c is known to within
    e * (slope * (c + offset) + rest), in the unit of the points, for any offset and small e.

    On each map c moves by the mean of f(a - c), f(x) = x / (1 + ALPHA * x**2). Where f' > 0 the
    new error lies between those of c and a; elsewhere f' >= -1/8. So a bound of this form before is
    one after. Resizing and sorting keep it.

    Returns:
        slope, rest.
    """
    slope, rest = 1.0, 0.0
    for _ in range(levels):
        slope += (slope + 1) / 8
        # |x * f'(x)| <= REACH / 2, and c was at most REACH farther before.
        rest += rest / 8 + REACH / 2 + REACH * slope
    return slope, rest


def resize(maps: NDArray[np.float32], size: tuple[int, int], step: int = 1) -> NDArray[np.float32]:
    """Maps (C, h, w) -> (C, H, W), bilinear with aligned corners; every `step`-th line of both."""
    for axis, length in ((1, size[0]), (2, size[1])):
        maps = _resize_axis(maps, length, step, axis)
    return maps


def _resize_axis(
    maps: NDArray[np.float32], length: int, step: int, axis: int
) -> NDArray[np.float32]:
    native = maps.shape[axis]
    scale = (native - 1) / (length - 1) if length > 1 else 0.0
    position = np.arange(0, length, step, dtype=np.float64) * scale
    low = np.minimum(np.floor(position), native - 1).astype(np.intp)
    weight = (position - low).astype(np.float32).reshape((-1, 1) if axis == 1 else (-1,))
    first = np.take(maps, low, axis=axis)
    mixed: NDArray[np.float32] = np.take(maps, np.minimum(low + 1, native - 1), axis=axis)
    mixed -= first
    mixed *= weight
    mixed += first
    return mixed


def _times_log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """x ln x, 0 at 0."""
    product: NDArray[np.float64] = values * np.log(np.where(values > 0, values, 1.0))
    return product
