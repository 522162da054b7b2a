"""From a teacher's native map to the frame: the rule a store names, for a window or the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdpipe.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.types import Depth

BILINEAR = "bilinear-align-corners"
RULES = (BILINEAR,)


class Window(NamedTuple):
    """A part of the frame [pixels]."""

    top: int
    left: int
    height: int
    width: int


class _Axis(NamedTuple):
    """Native lines that one axis of a window needs, and how they are mixed."""

    first: int
    last: int
    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: NDArray[np.float32]
    """Of `high`, in [0, 1)."""


def to_frame(native: Depth, frame: tuple[int, int], window: Window | None = None) -> Depth:
    """Brings a native depth map to the frame, bilinear with aligned corners.

    The frame's first and last pixels are the native map's first and last; between them the native
    position of frame pixel x is x * (w - 1) / (W - 1). Only the native lines that the window needs
    are read, and the result equals the same part of the whole map.

    Args:
        native: depth (h, w) [m], 0 unknown.
        frame: its size (H, W) [pixels].
        window: part of the frame; None: the whole.

    Returns:
        Depth (H, W) [m] of the window; 0 where the interpolation touches an unknown native pixel.

    Raises:
        StoreError: the window leaves the frame.
    """
    part = window or Window(0, 0, *frame)
    inside = part.top + part.height <= frame[0] and part.left + part.width <= frame[1]
    if min(part) < 0 or not inside:
        raise StoreError(f"window {tuple(part)} leaves the frame {frame}: give one inside it")
    y = _axis(native.shape[0], frame[0], part.top, part.height)
    x = _axis(native.shape[1], frame[1], part.left, part.width)
    needed = native[y.first : y.last, x.first : x.last]
    needed = np.where(needed > 0, needed, np.float32(np.nan))  # unknown spreads by itself
    rows = _mix(needed, y, 0)
    depth = _mix(rows, x, 1)
    return np.nan_to_num(depth, copy=False, nan=0.0)


def _axis(native: int, frame: int, start: int, length: int) -> _Axis:
    scale = (native - 1) / (frame - 1) if frame > 1 else 0.0
    position = np.arange(start, start + length, dtype=np.float64) * scale
    low = np.minimum(np.floor(position), native - 1).astype(np.intp)
    weight = (position - low).astype(np.float32)
    weight[weight < 1e-6] = 0.0  # on a native line: its neighbour is not touched
    weight[weight > 1 - 1e-6] = 1.0
    low += weight == 1.0
    weight[weight == 1.0] = 0.0
    high = low + (weight > 0)
    first, last = (int(low[0]), int(high[-1]) + 1) if length else (0, 0)
    return _Axis(first, last, low - first, high - first, weight)


def _mix(values: Depth, axis: _Axis, along: int) -> Depth:
    weight = axis.weight[:, None] if along == 0 else axis.weight[None, :]
    low, high = np.take(values, axis.low, axis=along), np.take(values, axis.high, axis=along)
    high -= low
    high *= weight
    high += low
    return high
