"""A free distribution over bins as 8-bit codes: the root of each probability in a few levels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.errors import CardError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.types import BinCodes

_TINY = float(np.finfo(np.float32).tiny)
_BINS_AT_ONCE = 8
"""Keeps the working memory of `encode` far below the volume itself."""


@dataclass(frozen=True)
class Companded:
    """Quantises the root of each probability evenly: small ones keep more of their digits.

        code = rint(sqrt(p) * (levels - 1)),  p ~ max((code / (levels - 1))**2, floor) / sum

    64 levels take about 12 bytes per pixel of a 256-bin softmax after zstd, a fortieth of float16;
    the depth that goes with it is kept apart, so nobody needs the expectation from these codes.

    The bound: before they are divided by their sum, the roots differ by at most `max_root_error`
    each. Hence |sqrt(q) - sqrt(p)|, the root of the summed squares over K bins, is at most
    sqrt(K) * max_root_error before and twice that after the division, and so is half the summed
    |q - p| (total variation).

    Args:
        levels: number of codes, 2..256.
        floor: smallest probability that decodes [1], so that its logarithm exists; its root must
            not exceed `max_root_error`.
    """

    levels: int = 64
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 256 or not 0 <= self.floor <= self.max_root_error**2:
            raise CardError(
                "companded needs 2..256 levels and a floor of at most their error squared, got "
                f"levels {self.levels}, floor {self.floor}"
            )

    @property
    def max_root_error(self) -> float:
        """Half a level: bound of |sqrt(q) - sqrt(p)| of one bin before the division."""
        return 0.5 / (self.levels - 1)

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """Probability of every code before the division by the sum (levels,)."""
        roots = np.arange(self.levels, dtype=np.float64) / (self.levels - 1)
        # Never 0: where all codes of a pixel are, as of many bins in few levels, it says nothing,
        # which is an even distribution and not 0 / 0.
        return np.maximum(roots**2, max(self.floor, _TINY)).astype(np.float32)

    def encode(self, probabilities: NDArray[np.float32]) -> BinCodes:
        """Turns probabilities (K, h, w), which sum to 1 over K, into codes (K, h, w).

        What is no number becomes 0; what lies outside [0, 1] is clamped.
        """
        codes = np.empty(probabilities.shape, np.uint8)
        for first in range(0, len(probabilities), _BINS_AT_ONCE):
            inside = np.clip(probabilities[first : first + _BINS_AT_ONCE], 0.0, 1.0)  # a copy
            part = inside.astype(np.float32, copy=False)
            np.nan_to_num(part, copy=False, nan=0.0)
            np.sqrt(part, out=part)
            np.multiply(part, np.float32(self.levels - 1), out=part)
            np.rint(part, out=part)
            codes[first : first + _BINS_AT_ONCE] = part
        return codes

    def decode(self, codes: BinCodes) -> NDArray[np.float32]:
        """Turns codes (K, h, w) into probabilities (K, h, w) that sum to 1 over K.

        Raises:
            ValueError: a code is larger than `encode` ever gives: other parameters wrote it.
        """
        if codes.size and int(codes.max()) >= self.levels:
            raise ValueError(f"companded code {int(codes.max())} found, {self.levels} levels exist")
        probabilities = self.table[codes]
        probabilities /= probabilities.sum(axis=0, keepdims=True)
        return probabilities

    def to_json(self) -> dict[str, object]:
        """Name and parameters, for a store's attributes."""
        return {"codec": "companded", **asdict(self)}
