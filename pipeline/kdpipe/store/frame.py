"""From a teacher's native map to the frame: the rule a store names, for a window or the whole."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdpipe.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.types import Depth

BILINEAR = "bilinear-align-corners"
BICUBIC_PADDED = "bicubic-padded"
BICUBIC = "bicubic"
BILINEAR_EDGES = "bilinear"
BILINEAR_INVERSE = "bilinear-inverse"
RULES = (BILINEAR, BICUBIC_PADDED, BICUBIC, BILINEAR_EDGES, BILINEAR_INVERSE)

_INVERSE_RANGE = np.float32(1e-4), np.float32(1e4)
"""Inverse depth [1/m] that `bilinear-inverse` ends at."""


class Window(NamedTuple):
    """A part of the frame [pixels]."""

    top: int
    left: int
    height: int
    width: int


class _Axis(NamedTuple):
    """For each line of the frame, or of a window, the native lines around it."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: NDArray[np.float32]
    """Of `high`, in [0, 1)."""


class _Cubic(NamedTuple):
    """For each line of the frame, or of a window, the four native lines around it."""

    lines: NDArray[np.intp]
    """(4, n)."""

    weights: NDArray[np.float32]
    """(4, n), sum 1 over the four."""


class Resampling(NamedTuple):
    """What brings the part of a native map that a window needs to that window."""

    rows: slice
    columns: slice
    """Of the native map: the lines that the window needs."""

    mix: Callable[[Depth], Depth]
    """Those lines' depth [m] -> the window's, as `to_frame` says."""


def to_frame(
    native: Depth,
    frame: tuple[int, int],
    window: Window | None = None,
    rule: str = BILINEAR,
    *,
    near: float | None = None,
) -> Depth:
    """Brings a native depth map to the frame.

    `bilinear-align-corners`: the frame's first and last pixels are the native map's first and last;
    between them the native position of frame pixel x is x * (w - 1) / (W - 1).

    `bicubic`: the outer edges of frame and map fall together, the position of x is
    (x + 1 / 2) * w / W - 1 / 2; mixed by cubic convolution with -3 / 4, lines beyond the map's edge
    being its edge. It may overshoot.

    `bicubic-padded`: likewise, but the native map is of the frame with int(3 * sqrt(W / 2)) = p
    more columns on both sides, rows likewise; the position is (x + p + 1 / 2) * w / (W + 2 p)
    - 1 / 2.

    `bilinear`: positions as of `bicubic`, bilinear.

    `bilinear-inverse`: as `bilinear`, but of 1 / depth, which then ends at 1e-4 and 1e4 per metre.

    Only the native lines that the window needs are read, and the result equals the same part of the
    whole map.

    Args:
        native: depth (h, w) [m], 0 unknown.
        frame: its size (H, W) [pixels].
        window: part of the frame; None: the whole.
        rule: one of RULES.
        near: depth [m] below which no known pixel falls, however a cubic overshoots; None: as it
            falls, also below zero.

    Returns:
        Depth (H, W) [m] of the window; 0 where the interpolation touches an unknown native pixel.

    Raises:
        StoreError: the window leaves the frame.

    Reference:
        Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981; Bhat et al.,
        "ZoeDepth", https://arxiv.org/abs/2302.12288, whose published inference pads so; Bochkovskii
        et al., "Depth Pro", https://arxiv.org/abs/2410.02073, whose inference resizes and clips
        inverse depth. `bicubic` is what transformers does with the maps of DPT, Depth Anything and
        GLPN.
    """
    how = resampling((native.shape[0], native.shape[1]), frame, window, rule, near=near)
    return how.mix(native[how.rows, how.columns])


def part_of(frame: tuple[int, int], window: Window | None) -> Window:
    """The part of a frame (H, W) that is asked for; None: the whole.

    Raises:
        StoreError: the window leaves the frame.
    """
    part = window or Window(0, 0, *frame)
    inside = part.top + part.height <= frame[0] and part.left + part.width <= frame[1]
    if min(part) < 0 or not inside:
        raise StoreError(f"window {tuple(part)} leaves the frame {frame}: give one inside it")
    return part


def resampling(
    native: tuple[int, int],
    frame: tuple[int, int],
    window: Window | None = None,
    rule: str = BILINEAR,
    *,
    near: float | None = None,
) -> Resampling:
    """`to_frame` in two steps: which lines of a map (h, w) it needs, and what it makes of them.

    Raises:
        StoreError: the window leaves the frame.
    """
    part = part_of(frame, window)
    if rule in (BICUBIC, BICUBIC_PADDED):
        rows, above = _cubic_part(_cubic(native[0], frame[0], rule), part.top, part.height)
        columns, beside = _cubic_part(_cubic(native[1], frame[1], rule), part.left, part.width)
        return Resampling(rows, columns, partial(_mix_four, y=above, x=beside, near=near))
    rows, y = _axis_part(_axis(native[0], frame[0], rule), part.top, part.height)
    columns, x = _axis_part(_axis(native[1], frame[1], rule), part.left, part.width)
    mix = _mix_inverse if rule == BILINEAR_INVERSE else _mix_two
    return Resampling(rows, columns, partial(mix, y=y, x=x))


def native_line(native: int, frame: int, rule: str = BILINEAR) -> tuple[float, float]:
    """Where a frame's pixels lie on the native map, along one axis.

    Args:
        native: lines of the native map.
        frame: lines of the frame.
        rule: one of RULES.

    Returns:
        (scale, offset): line x of the frame is line scale * x + offset of the native map; both
        count from the first line's centre. What lies beyond the map's edge takes its edge.
    """
    if rule == BILINEAR:
        return (native - 1) / (frame - 1) if frame > 1 else 0.0, 0.0
    padding = _padding(frame, rule)
    scale = native / (frame + 2 * padding)
    return scale, scale * (padding + 0.5) - 0.5


@lru_cache(maxsize=64)
def _axis(native: int, frame: int, rule: str) -> _Axis:
    """Of the whole frame: a window takes its part, so that both are the same numbers."""
    if rule == BILINEAR:
        position = np.arange(frame, dtype=np.float64) * native_line(native, frame)[0]
    else:
        position = _positions(native, frame, 0).astype(np.float64).clip(0, native - 1)
    low = np.minimum(np.floor(position), native - 1).astype(np.intp)
    weight = (position - low).astype(np.float32)
    weight[weight < 1e-6] = 0.0  # on a native line: its neighbour is not touched
    weight[weight > 1 - 1e-6] = 1.0
    low += weight == 1.0
    weight[weight == 1.0] = 0.0
    return _Axis(low, low + (weight > 0), weight)


def _positions(native: int, frame: int, padding: int) -> NDArray[np.float32]:
    """Native positions of a frame's lines where outer edges fall together."""
    # Rounded to float32 where torch does: its positions in a map of 500 lines are 1e-5 off.
    scale = float(np.float32(native) / np.float32(frame + 2 * padding))
    place = np.arange(padding, padding + frame, dtype=np.float64)
    position: NDArray[np.float32] = (scale * (place + 0.5) - 0.5).astype(np.float32)
    return position


def _axis_part(axis: _Axis, start: int, length: int) -> tuple[slice, _Axis]:
    """Native lines that a window needs, and the axis that counts from their first."""
    part = slice(start, start + length)
    low, high, weight = axis.low[part], axis.high[part], axis.weight[part]
    lines = slice(int(low[0]), int(high[-1]) + 1) if length else slice(0, 0)
    return lines, _Axis(low - lines.start, high - lines.start, weight)


def _mix_two(needed: Depth, y: _Axis, x: _Axis) -> Depth:
    if needed.size and not needed.min() > 0:
        needed = np.where(needed > 0, needed, np.float32(np.nan))  # unknown spreads by itself
        return np.nan_to_num(_mix_known(needed, y, x), copy=False, nan=0.0)
    return _mix_known(needed, y, x)


def _mix_inverse(needed: Depth, y: _Axis, x: _Axis) -> Depth:
    known = needed > 0
    inverse = np.full(needed.shape, np.nan, np.float32)  # unknown spreads by itself
    np.divide(np.float32(1), needed, out=inverse, where=known)
    mixed = np.clip(_mix_known(inverse, y, x), *_INVERSE_RANGE)
    depth: Depth = np.nan_to_num(1 / mixed, copy=False, nan=0.0)
    return depth


def _mix_known(needed: Depth, y: _Axis, x: _Axis) -> Depth:
    height, width = len(y.low), len(x.low)
    if needed.shape == (height, width) and not (y.weight.any() or x.weight.any()):
        return needed  # line by line: the frame is the native map
    # Columns first: the native map has fewer rows.
    columns = _mix(needed, x, 1, _SCRATCH.room(0, (len(needed), width)))
    return _mix(columns, y, 0, np.empty((height, width), np.float32))


def _mix(values: Depth, axis: _Axis, along: int, out: Depth) -> Depth:
    weight = axis.weight[:, None] if along == 0 else axis.weight[None, :]
    low = values.take(axis.low, along, _SCRATCH.room(1, out.shape), "clip")
    values.take(axis.high, along, out, "clip")
    out -= low
    out *= weight
    out += low
    return out


class _Scratch(threading.local):
    """Room of a thread that stays: asking the system for it each time costs more than the sums."""

    def __init__(self) -> None:
        self._kept: dict[int, Depth] = {}

    def room(self, number: int, shape: tuple[int, ...]) -> Depth:
        size = math.prod(shape)
        if number not in self._kept or self._kept[number].size < size:
            self._kept[number] = np.empty(size, np.float32)
        return self._kept[number][:size].reshape(shape)


_SCRATCH = _Scratch()


@lru_cache(maxsize=64)
def _cubic(native: int, frame: int, rule: str) -> _Cubic:
    """Of the whole frame."""
    position = _positions(native, frame, _padding(frame, rule))
    low = np.floor(position)
    t = position - low
    weights = np.stack([_far(t + 1), _near(t), _near(1 - t), _far(2 - t)])
    weights[np.abs(weights) < 1e-6] = 0.0  # on a native line: its neighbours are not touched
    return _Cubic(np.clip(low.astype(np.intp) + np.arange(-1, 3)[:, None], 0, native - 1), weights)


def _cubic_part(axis: _Cubic, start: int, length: int) -> tuple[slice, _Cubic]:
    """Native lines that a window needs, and the axis that counts from their first."""
    part = slice(start, start + length)
    lines, weights = axis.lines[:, part], axis.weights[:, part]
    needed = slice(int(lines.min()), int(lines.max()) + 1) if length else slice(0, 0)
    return needed, _Cubic(lines - needed.start, weights)


def _mix_four(needed: Depth, y: _Cubic, x: _Cubic, near: float | None) -> Depth:
    if not needed.size or needed.min() > 0:
        return _lifted(_convolve(needed, y, x), near)
    unknown = ~(needed > 0)
    reach = [axis._replace(weights=(axis.weights != 0).astype(np.float32)) for axis in (y, x)]
    depth = _lifted(_convolve(np.where(unknown, np.float32(0), needed), y, x), near)
    depth[_convolve(unknown.astype(np.float32), *reach) > 0] = 0
    return depth


def _lifted(depth: Depth, near: float | None) -> Depth:
    """Depth without what a cubic makes of a steep edge: 0 would read as unknown."""
    return depth if near is None else np.maximum(depth, np.float32(near), out=depth)


def _padding(frame: int, rule: str) -> int:
    return int(3 * math.sqrt(frame / 2)) if rule == BICUBIC_PADDED else 0


def _near(t: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weight of a line at most one away."""
    weight: NDArray[np.float32] = (np.float32(1.25) * t - np.float32(2.25)) * t * t + np.float32(1)
    return weight


def _far(t: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weight of a line between one and two away."""
    inner = (np.float32(-0.75) * t + np.float32(3.75)) * t - np.float32(6)
    weight: NDArray[np.float32] = inner * t + np.float32(3)
    return weight


def _convolve(values: Depth, y: _Cubic, x: _Cubic) -> Depth:
    for along, axis in ((1, x), (0, y)):  # columns first: the native map has fewer rows
        shape = (1, -1) if along == 1 else (-1, 1)
        parts = [np.take(values, lines, axis=along) for lines in axis.lines]
        for part, weights in zip(parts, axis.weights, strict=True):
            part *= weights.reshape(shape)
        values, *others = parts
        for part in others:
            values += part
    return values
