"""A two-parameter distribution over attracted centres (ZoeDepth) as 16-bit codes.

Nothing is kept per bin and pixel: a pair (p, T) a pixel gives all probabilities, the seeds and
attractor points of an image all centres; see replay.py.

Reference:
    Bhat, Birkl, Wofk, Wonka, Müller, "ZoeDepth: Zero-shot Transfer by Combining Relative and Metric
    Depth", 2023, section 3.2. https://arxiv.org/abs/2302.12288
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.codecs.replay import growth_of_error, log_binomial, replay, resize
from kdpipe.codecs.rows import apart, together
from kdpipe.errors import CardError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.types import PairCodes, PointCodes

_MOST_CODES = 65535
_FARTHEST_LOGIT = math.log(1e4)
"""ZoeDepth clips p and 1 - p to 1e-4 before their logarithms, so nothing beyond is ever read."""

_FARTHEST_POINT = 1e6
"""Metres, or parts of a span: an attractor as far away draws by a few nanometres."""


@dataclass(frozen=True)
class LogBinomial:
    """Quantises logit p, ln T and ln(1 + point / offset) evenly, each within its own bound.

        logit p = logit_step * (code - 1) - ln 1e4
        ln T = temperature_step * (code - 1) + ln coldest
        point = offset * (exp(point_step * (code - 1)) - 1)

    Code 0 is no number, and decodes to p = 1/2 at the hottest T, or to 0. What lies outside the
    ranges is clamped. On disk each row of a map is the difference to the row above, modulo 2**16:
    that alone saves a fifth. The points of an image lie one after the other in one array: the
    seeds, then the attractors from coarse to fine, each (n, rows, columns).

    The bounds hold for the values that are kept. With the default ones and 64 bins a distribution
    is at most 1e-4 nats (Kullback-Leibler) from the teacher's where T >= 0.08, 4e-4 where T is
    coldest. An error of an attractor moves no centre by more than itself; `max_center_error` adds
    up what follows for the centres [m].

    Args:
        bins: number K of them, at least 2.
        attractors: points on each map, coarse to fine. The last map is half as large as the
            teacher's native map, each coarser one half of that, and the seeds' the coarsest.
        span: depths that normalised centres lie between, sorted and clipped [m]; points are parts
            of it. None: points are metres, and centres free.
        max_logit_error: promised bound of the decoded logit p.
        max_temperature_error: promised bound of the decoded ln T.
        max_point_error: promised bound of |decoded - point| / (point + offset).
        offset: a point much below it has its absolute error bounded, not its relative one [m].
        coldest: smallest T kept.
        hottest: largest T kept.

    Raises:
        CardError: a number is out of range, or does not fit 65535 codes at its bound.
    """

    bins: int
    attractors: tuple[int, ...]
    span: tuple[float, float] | None = None
    max_logit_error: float = 1e-3
    max_temperature_error: float = 2e-3
    max_point_error: float = 1e-3
    offset: float = 0.1
    coldest: float = 0.0212
    hottest: float = 50.0

    def __post_init__(self) -> None:
        near, far = self.span or (0.0, 1.0)
        errors = (self.max_logit_error, self.max_temperature_error, self.max_point_error)
        numbers = (*errors, self.offset, self.coldest, self.hottest, near, far)
        positive = all(map(math.isfinite, numbers)) and min(*errors, self.offset, self.coldest) > 0
        counts = self.bins > 1 and len(self.attractors) > 0 and min(self.attractors) > 0
        ranges = max(errors) < 0.1 and 0 <= near < far and self.coldest < self.hottest
        if not (positive and counts and ranges):
            raise CardError(
                "log-binomial needs 2 bins, an attractor on each map, near < far, coldest < "
                f"hottest, an offset and errors in (0, 0.1), got {self}"
            )
        if max(self.largest_codes) > _MOST_CODES:
            raise CardError(
                f"log-binomial needs {max(self.largest_codes)} codes at errors of {errors}, 16 "
                f"bits have {_MOST_CODES}: raise the bounds"
            )

    @property
    def largest_codes(self) -> tuple[int, int, int]:
        """The codes of the largest logit p, T and point."""
        warmth = math.log(self.hottest / self.coldest)
        distance = math.log1p(_FARTHEST_POINT / self.point_offset)
        return (
            1 + 2 * math.ceil(_FARTHEST_LOGIT / (2 * self.max_logit_error)),  # p = 1/2 is a code
            1 + math.ceil(warmth / (2 * self.max_temperature_error)),
            1 + math.ceil(distance / self._point_step),
        )

    @property
    def steps(self) -> tuple[float, float, float]:
        """Distances of two codes of logit p, of ln T and of ln(1 + point / offset).

        At most twice the bounds; the ends of the first two ranges are codes, and so is p = 1/2.
        """
        logits, temperatures, _ = self.largest_codes
        warmth = math.log(self.hottest / self.coldest)
        return 2 * _FARTHEST_LOGIT / (logits - 1), warmth / (temperatures - 1), self._point_step

    @property
    def _point_step(self) -> float:
        return 2 * math.log1p(self.max_point_error)  # the bound, measured the worse way round

    @property
    def point_offset(self) -> float:
        """`offset` in the unit of the points: metres, or parts of the span."""
        return self.offset if self.span is None else self.offset / (self.span[1] - self.span[0])

    @cached_property
    def tables(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
        """Logit p, T and point of every code."""
        logits, temperatures, points = (
            step * np.arange(largest, dtype=np.float64)
            for step, largest in zip(self.steps, self.largest_codes, strict=True)
        )
        warmth = np.minimum(self.coldest * np.exp(temperatures), self.hottest)
        places = self.point_offset * np.expm1(points)
        return (
            np.concatenate(([0.0], logits - _FARTHEST_LOGIT)),
            np.concatenate(([self.hottest], warmth)),
            np.concatenate(([0.0], places)).astype(np.float32),
        )

    def encode(self, p: NDArray[np.float32], temperature: NDArray[np.float32]) -> PairCodes:
        """Turns p and T, both (h, w), into codes (2, h, w)."""
        low = np.log(np.clip(p, 1e-4, 1, dtype=np.float64))
        high = np.log(np.clip(1 - p, 1e-4, 1, dtype=np.float64))
        warmth = np.log(np.clip(temperature, self.coldest, self.hottest, dtype=np.float64))
        logit_step, temperature_step, _ = self.steps
        above = warmth - math.log(self.coldest)
        steps = np.stack([(low - high + _FARTHEST_LOGIT) / logit_step, above / temperature_step])
        return apart(_codes(steps))

    def decode(self, codes: PairCodes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Turns codes (2, h, w) into p and T, both (h, w).

        Raises:
            ValueError: a code is larger than `encode` ever gives: other parameters wrote it.
        """
        logits, temperature = self._pair(codes)
        p = 1 / (1 + np.exp(-logits))
        return p.astype(np.float32), temperature.astype(np.float32)

    def probabilities(self, codes: PairCodes, step: int = 1) -> NDArray[np.float32]:
        """Turns codes (2, h, w) into probabilities (K, h, w) that sum to 1 over K.

        Args:
            codes: as `encode` gives them.
            step: take every so manieth row and column.

        Raises:
            ValueError: a code is larger than `encode` ever gives: other parameters wrote it.
        """
        logits, temperature = self._pair(codes)
        return log_binomial(logits[::step, ::step], temperature[::step, ::step], self.bins)

    def encode_points(
        self, seeds: NDArray[np.float32], attractors: Sequence[NDArray[np.float32]]
    ) -> PointCodes:
        """Turns seeds [m] and attractors into codes, one after the other.

        Args:
            seeds: (K, rows, columns) [m].
            attractors: points (n, rows, columns), coarse to fine, in metres or parts of the span.

        Raises:
            ValueError: a map has another shape than those of `shapes`.
        """
        found = [seeds.shape, *(points.shape for points in attractors)]
        rows, columns = (2 * side for side in found[-1][1:])
        if found != (expected := self.shapes((rows, columns))):
            raise ValueError(f"log-binomial points of {found} found, {expected} expected")
        if self.span is not None:
            seeds = (seeds - self.span[0]) / (self.span[1] - self.span[0])
        step, codes = self.steps[2], []
        for points in (seeds, *attractors):
            places = np.clip(points, 0, _FARTHEST_POINT, dtype=np.float64)
            codes.append(apart(_codes(np.log1p(places / self.point_offset) / step)).ravel())
        return np.concatenate(codes)

    def decode_points(
        self, codes: PointCodes, size: tuple[int, int]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Turns codes back into seeds [m] and attractors.

        Args:
            codes: (M,), M = `points(size)`.
            size: native size (h, w).

        Raises:
            ValueError: a code is larger than `encode_points` ever gives, or M differs.
        """
        if codes.shape != (self.points(size),):
            raise ValueError(f"log-binomial codes {codes.shape} found, {self.points(size)} needed")
        maps, start = [], 0
        for shape in self.shapes(size):
            part = codes[start : start + math.prod(shape)].reshape(shape)
            maps.append(self.tables[2][self._together(part, 2)])
            start += part.size
        seeds, *attractors = maps
        if self.span is not None:
            seeds = self.span[0] + np.float32(self.span[1] - self.span[0]) * seeds
        return seeds, attractors

    def centers(
        self, codes: PointCodes, size: tuple[int, int], step: int = 1
    ) -> NDArray[np.float32]:
        """Turns codes (M,) into centres (K, h, w) [m].

        Args:
            codes: as `encode_points` gives them.
            size: native size (h, w).
            step: take every so manieth row and column.

        Raises:
            ValueError: a code is larger than `encode_points` ever gives, or M differs.
        """
        return resize(replay(*self.decode_points(codes, size), self.span), size, step)

    @property
    def max_center_error(self) -> tuple[float, float]:
        """Promised bound of a decoded centre's error: (part of the centre, metres beside it).

        Apart from float32's own rounding.
        """
        slope, rest = growth_of_error(len(self.attractors))
        near, far = self.span or (0.0, 1.0)
        error = self.max_point_error * (1 + (slope + 2) * self.max_point_error)  # second order
        beside = (slope * self.point_offset + rest) * (far - near) - slope * near
        return error * slope, error * beside

    def shapes(self, size: tuple[int, int]) -> list[tuple[int, ...]]:
        """Shapes (n, rows, columns) of the seeds and of each map's attractors.

        Args:
            size: native size (h, w).

        Raises:
            ValueError: a side is no multiple of the seeds' cells.
        """
        cell = 2 ** (len(self.attractors) + 1)
        if size[0] % cell or size[1] % cell:
            raise ValueError(f"log-binomial map of {size} found, multiples of {cell} expected")
        counts = (self.bins, *self.attractors)
        cells = (cell >> level for level in range(len(counts)))
        return [(n, size[0] // c, size[1] // c) for n, c in zip(counts, cells, strict=True)]

    def points(self, size: tuple[int, int]) -> int:
        """M, the number of an image's seeds and attractor points.

        Args:
            size: native size (h, w).

        Raises:
            ValueError: a side is no multiple of the seeds' cells.
        """
        return sum(math.prod(shape) for shape in self.shapes(size))

    def to_json(self) -> dict[str, object]:
        """Name and parameters, for a store's attributes."""
        return {"codec": "log-binomial", **asdict(self)}

    def _pair(self, codes: PairCodes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logit p and T."""
        logits, temperatures, _ = self.tables
        return logits[self._together(codes[0], 0)], temperatures[self._together(codes[1], 1)]

    def _together(self, differences: PointCodes, kind: int) -> PointCodes:
        """Codes from their differences, checked."""
        codes = together(differences)
        if codes.size and int(codes.max()) > (largest := self.largest_codes[kind]):
            raise ValueError(f"log-binomial code {int(codes.max())} found, {largest} is largest")
        return codes


def _codes(steps: NDArray[np.float64]) -> PointCodes:
    known = np.isfinite(steps)
    return np.where(known, 1 + np.rint(np.where(known, steps, 0)), 0).astype(np.uint16)
