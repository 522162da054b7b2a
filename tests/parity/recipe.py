"""Weights and images that every parity value was recorded with: from names, bit for bit.

A name seeds a PCG64 generator, whose raw stream numpy guarantees; all else is plain arithmetic in
float64, cast to float32 (weights) or rounded to uint8 (images) at the end.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Overrides = Sequence[tuple[str, float]]
"""[expression, factor]: the first whose expression is found in an entry's name scales its noise."""

_SQRT_12 = 3.4641016151377544
_GRID = (5, 7)


def unit_noise(name: str, count: int) -> NDArray[np.float64]:
    """`count` numbers, uniform with mean 0 and variance 1."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    top_bits = np.random.PCG64(seed).random_raw(count) >> np.uint64(11)
    uniform = top_bits.astype(np.float64) * 2.0**-53
    return (uniform - 0.5) * _SQRT_12


def weight(name: str, shape: Sequence[int], overrides: Overrides = ()) -> NDArray[np.float32]:
    """The values of a floating-point entry, by its name (without `module.`) and shape."""
    noise = unit_noise(name, math.prod(shape)).reshape(tuple(shape))
    factor = next((f for expression, f in overrides if re.search(expression, name)), 1.0)
    match name.rsplit(".", 1)[-1], len(shape) <= 1:
        case "running_mean", _:
            values = 0.1 * factor * noise
        case "running_var", _:
            values = 1.0 + 0.1 * factor * np.abs(noise)
        case "gamma_1" | "gamma_2", _:
            values = 0.5 + 0.05 * factor * noise
        case "weight", True:
            values = 1.0 + 0.1 * factor * noise
        case _, True:
            values = 0.05 * factor * noise
        case _:
            values = noise * (factor / np.sqrt(float(math.prod(shape[1:]))))
    return values.astype(np.float32)


def state_arrays(
    entries: Iterable[tuple[str, Sequence[int], str]], overrides: Overrides = ()
) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """Values of all entries (name, shape, dtype); the counters `num_batches_tracked` are 0."""
    return {
        name: weight(name, shape, overrides)
        if dtype.startswith("float")
        else np.zeros(tuple(shape), np.int64)
        for name, shape, dtype in entries
    }


def image(name: str, height: int, width: int) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3): a coarse random grid, interpolated corner to corner, and noise."""
    rows, columns = _GRID
    grid = unit_noise(f"{name}/grid", rows * columns * 3).reshape(rows, columns, 3) / _SQRT_12 + 0.5
    top, down = _cells(height, rows)
    left, across = _cells(width, columns)
    down, across = down[:, None, None], across[None, :, None]
    upper, lower = grid[top], grid[top + 1]
    upper = upper[:, left] * (1 - across) + upper[:, left + 1] * across
    lower = lower[:, left] * (1 - across) + lower[:, left + 1] * across
    smooth = 20.0 + 215.0 * (upper * (1 - down) + lower * down)
    noise = unit_noise(f"{name}/noise", height * width * 3).reshape(height, width, 3)
    noisy = smooth + (15.0 / 1.7320508075688772) * noise
    return np.clip(np.floor(noisy + 0.5), 0, 255).astype(np.uint8)


def _cells(size: int, grid: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each pixel: the grid line before it, and how far it is on the way to the next."""
    position = np.arange(size, dtype=np.float64) * ((grid - 1) / (size - 1))
    line = np.minimum(position.astype(np.int64), grid - 2)
    return line, position - line
