"""Evaluation protocols: which pixels count, what is clipped when. Names as in the tables.

The same prediction gets another published digit under another protocol, so a protocol is a value
with a name, and each summary says which one it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kdpipe.errors import DataError, UnknownNameError
from kdpipe.metrics.depth import METRICS, depth_errors_of_valid

if TYPE_CHECKING:
    from kdpipe.types import Depth, Valid

Window = tuple[int, int, int, int]
"""(top, bottom, left, right) [pixels], half-open."""

_Index: TypeAlias = NDArray[np.int64]
_Share: TypeAlias = NDArray[np.float64]

_BENCHMARK = (352, 1216)
_HU_SCALED, _HU_CROP = (240, 320), (228, 304)
_NEAR, _KITTI_FAR = 1e-3, 80.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How one prediction is brought to its truth and judged."""

    name: str
    says: str
    """One line for people."""

    window: Callable[[int, int], Window]
    """The pixels that count, of a truth (H, W)."""

    min_depth: float | None = None
    """[m], itself excluded; None: the data card's."""

    max_depth: float | None = None
    order: Literal["clip-resize", "resize-clip"] = "clip-resize"
    """Whether a smaller prediction is clipped before or after it is enlarged."""

    frame: Literal["truth", "benchmark", "benchmark-in-image", "hu"] = "truth"
    """What the prediction covers: the whole truth; KITTI's 352x1216 crop, to which the truth is
    cut; the same crop pasted into the whole image; Hu et al.'s 228x304 centre."""

    strict: bool = True
    clips: bool = True
    """False: neither prediction nor truth has a largest depth."""

    names: tuple[str, ...] = METRICS

    @property
    def low(self) -> float:
        """Depths that count are larger [m]."""
        return 1e-3 if self.min_depth is None else self.min_depth

    @property
    def high(self) -> float:
        """Depths that count are smaller [m]."""
        return 10.0 if self.max_depth is None else self.max_depth

    def within(self, min_depth: float, max_depth: float) -> Protocol:
        """The same, with a data card's range where the protocol itself names none."""
        return replace(
            self,
            min_depth=min_depth if self.min_depth is None else self.min_depth,
            max_depth=max_depth if self.max_depth is None else self.max_depth,
        )


def _everything(height: int, width: int) -> Window:
    return 0, height, 0, width


def _nyu_eigen(height: int, width: int) -> Window:
    if height < 471 or width < 601:
        raise DataError(
            f"protocol nyu-eigen counts rows 45:471 and columns 41:601, the truth is only "
            f"{height}x{width}: evaluate 480x640 frames, or use protocol none"
        )
    return 45, 471, 41, 601


def _garg(height: int, width: int) -> Window:
    top, bottom = int(0.40810811 * height), int(0.99189189 * height)
    return top, bottom, int(0.03594771 * width), int(0.96405229 * width)


def _kitti_eigen(height: int, width: int) -> Window:
    top, bottom = int(0.3324324 * height), int(0.91351351 * height)
    return top, bottom, int(0.0359477 * width), int(0.96405229 * width)


def _of_any() -> list[Protocol]:
    return [
        Protocol(name="none", says="every pixel in the data card's range", window=_everything),
        Protocol(
            name="none-zoe",
            says="every pixel in the data card's range, resized before it is clipped",
            window=_everything,
            order="resize-clip",
        ),
    ]


def _of_nyu() -> list[Protocol]:
    return [
        Protocol(
            name="nyu-eigen",
            says="AdaBins on NYU: rows 45:471, columns 41:601, below 10 m",
            window=_nyu_eigen,
            min_depth=_NEAR,
            max_depth=10.0,
        ),
        Protocol(
            name="nyu-eigen-zoe",
            says="ZoeDepth on NYU: as nyu-eigen, resized before it is clipped",
            window=_nyu_eigen,
            min_depth=_NEAR,
            max_depth=10.0,
            order="resize-clip",
        ),
        Protocol(
            name="nyu-hu",
            says="Hu et al. on NYU: the centre 228x304 of 240x320, no range, deltas with <=",
            window=_everything,
            frame="hu",
            strict=False,
            clips=False,
            names=(*METRICS, "mae"),
        ),
    ]


def _of_kitti() -> list[Protocol]:
    windows = {
        "garg": (_garg, "Garg's window"),
        "eigen": (_kitti_eigen, "Eigen's window"),
        "none": (_everything, "every pixel"),
    }
    found = []
    for short, (window, words) in windows.items():
        name = f"kitti-{short}"
        crop = f"{words} of the 352x1216 crop, below 80 m"
        found += [
            Protocol(
                name=name,
                says=f"AdaBins on KITTI: {crop}",
                window=window,
                min_depth=_NEAR,
                max_depth=_KITTI_FAR,
                frame="benchmark",
            ),
            Protocol(
                name=f"{name}-zoe",
                says=f"ZoeDepth on KITTI: {crop}, resized before it is clipped",
                window=window,
                frame="benchmark",
                order="resize-clip",
                min_depth=_NEAR,
                max_depth=_KITTI_FAR,
            ),
            Protocol(
                name=f"{name}-full",
                says=f"BTS on KITTI: {words} of the whole image, below 80 m",
                window=window,
                frame="benchmark-in-image",
                min_depth=_NEAR,
                max_depth=_KITTI_FAR,
            ),
        ]
    return found


PROTOCOLS = {one.name: one for one in (*_of_any(), *_of_nyu(), *_of_kitti())}


def find_protocol(name: str) -> Protocol:
    """The protocol of this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("metrics/protocols", name, PROTOCOLS)
    return PROTOCOLS[name]


def depth_errors(
    pred: Depth,
    truth: Depth,
    protocol: str = "none",
    *,
    min_depth: float = 1e-3,
    max_depth: float = 10.0,
) -> dict[str, float]:
    """Errors of one image by a published protocol.

    Args:
        pred: student or teacher depth (h, w) [m], at the truth's size or any other: it is resized
            (bilinear, corners aligned). For the `kitti` protocols it covers the 352x1216 crop,
            unless it has the whole image's size.
        truth: measured depth (H, W) [m], 0 unknown.
        protocol: a name of PROTOCOLS.
        min_depth: of the data card [m]; used where the protocol names none.
        max_depth: likewise.

    Returns:
        Error by name.

    Raises:
        UnknownNameError: no such protocol.
        DataError: the truth is smaller than the protocol's window, or none of its pixels counts.
    """
    rules = find_protocol(protocol).within(min_depth, max_depth)
    errors = errors_of_image(pred, truth, rules)
    if errors is None:
        raise DataError(
            f"no pixel of the truth counts: expected some in ({rules.low:g}, {rules.high:g}) m "
            f"in the window of protocol {protocol}; skip this image"
        )
    return errors


def errors_of_image(pred: Depth, truth: Depth, rules: Protocol) -> dict[str, float] | None:
    """As `depth_errors`, with the protocol itself; None where no pixel of the truth counts."""
    framed_truth, framed = _bring(pred, truth, rules)
    valid = _valid(framed_truth, rules)
    if not valid.any():
        return None
    return depth_errors_of_valid(
        framed[valid], framed_truth[valid], strict=rules.strict, names=rules.names
    )


def resize_bilinear(depth: Depth, height: int, width: int) -> Depth:
    """Resizes (h, w) to (height, width), bilinear with corners aligned."""
    if depth.shape == (height, width):
        return depth
    above, below, down = _taps(depth.shape[0], height)
    left, right, across = _taps(depth.shape[1], width)
    wide = depth[:, left] * (1 - across) + depth[:, right] * across
    return np.asarray(
        wide[above] * (1 - down)[:, None] + wide[below] * down[:, None], dtype=np.float32
    )


def resize_nearest(depth: Depth, height: int, width: int) -> Depth:
    """Takes one pixel of (h, w) for each of (height, width): nothing is mixed with unknown."""
    rows = np.arange(height) * depth.shape[0] // height
    columns = np.arange(width) * depth.shape[1] // width
    return np.asarray(depth[rows[:, None], columns], dtype=np.float32)


def _taps(size: int, wanted: int) -> tuple[_Index, _Index, _Share]:
    at = np.linspace(0, size - 1, wanted)
    first = np.minimum(at.astype(np.int64), max(size - 2, 0))
    return first, np.minimum(first + 1, size - 1), at - first


def _bring(pred: Depth, truth: Depth, rules: Protocol) -> tuple[Depth, Depth]:
    """Truth and prediction at one size, the prediction finite and clipped."""
    whole = pred.shape == truth.shape
    if rules.frame == "hu":
        return _hu_frame(pred, truth)
    if rules.frame == "truth":
        return truth, _fit(pred, truth.shape, rules)
    height, width = truth.shape
    top, left = height - _BENCHMARK[0], int((width - _BENCHMARK[1]) / 2)
    inside = slice(top, top + _BENCHMARK[0]), slice(left, left + _BENCHMARK[1])
    if top < 0 or left < 0:
        raise DataError(
            f"protocol {rules.name} needs KITTI's 352x1216 crop, the truth is only {height}x{width}"
        )
    if rules.frame == "benchmark":
        return truth[inside], _fit(pred[inside] if whole else pred, _BENCHMARK, rules)
    if whole:
        return truth, _fit(pred, truth.shape, rules)
    canvas = np.full(truth.shape, rules.low, np.float32)  # BTS pastes into zeros, then clips
    canvas[inside] = _fit(pred, _BENCHMARK, rules)
    return truth, canvas


def _fit(pred: Depth, shape: tuple[int, ...], rules: Protocol) -> Depth:
    if rules.order == "clip-resize":
        return resize_bilinear(_clip(pred, rules.low, rules.high), shape[0], shape[1])
    return _clip(resize_bilinear(pred, shape[0], shape[1]), rules.low, rules.high)


def _clip(depth: Depth, low: float, high: float) -> Depth:
    finite = np.nan_to_num(depth, nan=low, posinf=high, neginf=low)
    return np.clip(finite, low, high).astype(np.float32)


def _hu_frame(pred: Depth, truth: Depth) -> tuple[Depth, Depth]:
    """Truth and prediction of the 228x304 centre of 240x320; what has that size already is kept.

    Hu et al. clip nothing. A prediction that has no logarithm counts as 1 mm.
    """
    top, left = ((a - b) // 2 for a, b in zip(_HU_SCALED, _HU_CROP, strict=True))
    centre = slice(top, top + _HU_CROP[0]), slice(left, left + _HU_CROP[1])
    if truth.shape != _HU_CROP:
        if pred.shape != _HU_CROP:  # it covers the frame
            pred = resize_bilinear(pred, *_HU_SCALED)[centre]
        truth = resize_nearest(truth, *_HU_SCALED)[centre]
    framed = np.nan_to_num(resize_bilinear(pred, *_HU_CROP), nan=1e-3, posinf=1e4, neginf=1e-3)
    return truth, np.maximum(framed, np.float32(1e-3))


def _valid(truth: Depth, rules: Protocol) -> Valid:
    if not rules.clips:
        return np.isfinite(truth) & (truth > 0)
    valid = (truth > rules.low) & (truth < rules.high)  # strict, as published; NaN is neither
    top, bottom, left, right = rules.window(*truth.shape)
    inside = np.zeros_like(valid)
    inside[top:bottom, left:right] = True
    return valid & inside
