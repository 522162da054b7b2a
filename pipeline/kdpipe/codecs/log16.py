"""Depth as 16-bit codes, evenly in log-space."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.errors import CardError

if TYPE_CHECKING:
    from kdpipe.types import Codes, Depth

_MOST_CODES = 65535
_TINY, _HUGE = (float(one) for one in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
"""Below, float32 has no 1e-6 of precision; beyond, no number."""

_TOGETHER = 64
"""Rows that are looked up at once: those of a whole large map leave the processor's cache."""


@dataclass(frozen=True)
class Log16:
    """Quantises depth evenly in log-space, so the relative error is the same near and far.

        metres = near * exp(step * (code - 1)),  code 0 = unknown

    Coarser codes compress better: at 0.1 % (two orders of magnitude below any teacher's own AbsRel)
    a depth map takes less than half a byte per pixel.

    Args:
        near: smallest depth kept [m], a normal float32 > 0; nearer is clamped to it.
        far: largest depth kept [m], > near, finite in float32; farther is clamped to it.
        max_relative_error: promised bound of |decode(encode(d)) - d| / d inside [near, far], apart
            from the rounding of float32 (1e-6).

    Raises:
        CardError: the range is empty, or does not fit 65535 codes at this bound.
    """

    near: float
    far: float
    max_relative_error: float = 1e-3

    def __post_init__(self) -> None:
        if not _TINY <= self.near < self.far <= _HUGE or not 0 < self.max_relative_error < 1:
            raise CardError(
                "log16 needs 0 < near < far within float32 and an error in (0, 1), got "
                f"near {self.near}, far {self.far}, max_relative_error {self.max_relative_error}"
            )
        if self.largest_code > _MOST_CODES:
            raise CardError(
                f"log16 from {self.near} to {self.far} m at {self.max_relative_error} needs "
                f"{self.largest_code} codes, 16 bits have {_MOST_CODES}: raise max_relative_error"
            )

    @property
    def largest_code(self) -> int:
        """The code of `far`."""
        widest = 2 * math.log1p(self.max_relative_error)  # the bound, measured the worse way round
        return 1 + max(1, math.ceil(math.log(self.far / self.near) / widest))

    @property
    def step(self) -> float:
        """Distance of two codes in ln(depth): at most twice the bound, and `far` is a code."""
        return math.log(self.far / self.near) / (self.largest_code - 1)

    @cached_property
    def table(self) -> Depth:
        """Metres of every code that `encode` gives (largest_code + 1,); 0 for code 0."""
        codes = np.arange(self.largest_code, dtype=np.float64)
        metres = np.clip(self.near * np.exp(self.step * codes), self.near, self.far)
        return np.concatenate(([0.0], metres)).astype(np.float32)

    def encode(self, depth: Depth) -> Codes:
        """Turns depth (H, W) [m] into codes (H, W) from 1; zero, negative and non-finite become 0.

        Infinity is unknown, not far: a network that says it has said nothing.
        """
        known = np.isfinite(depth) & (depth > 0)
        # As float64: in float32 `near` itself may lie a rounding below `near`, and below code 1.
        clamped = np.clip(np.where(known, depth, self.near).astype(np.float64), self.near, self.far)
        codes = 1 + np.rint(np.log(clamped / self.near) / self.step)
        return np.where(known, codes, 0).astype(np.uint16)

    def decode(self, codes: Codes) -> Depth:
        """Turns codes (H, W) into depth [m]; 0 stays unknown.

        Raises:
            ValueError: a code is larger than `encode` ever gives: other parameters wrote it.
        """
        if codes.size and int(codes.max()) > self.largest_code:
            raise ValueError(f"log16 code {int(codes.max())} found, {self.largest_code} is largest")
        metres = np.empty(codes.shape, np.float32)
        for first in range(0, len(codes), _TOGETHER):  # numpy turns codes into int64 on the way
            rows = slice(first, first + _TOGETHER)
            self.table.take(codes[rows], out=metres[rows], mode="clip")  # checked above: not again
        return metres

    def to_json(self) -> dict[str, object]:
        """Name and parameters, for a store's attributes."""
        return {"codec": "log16", **asdict(self)}
