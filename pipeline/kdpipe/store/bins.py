"""One image's distribution over depth as a store keeps it: codes, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.codecs import Companded, LogBinomial
    from kdpipe.types import BinCodes, PairCodes, PointCodes


@dataclass(frozen=True)
class StoredBins:
    """A free distribution (AdaBins), at native size; codes are never interpolated."""

    codes: BinCodes
    """(K, h, w)."""

    edges: NDArray[np.float32]
    """(K + 1,) [m], rising."""

    codec: Companded

    def probabilities(self, step: int = 1) -> NDArray[np.float32]:
        """(K, h, w), summing to 1 over K, within the codec's bound of the teacher's own.

        Args:
            step: only every so manieth row and column.
        """
        return self.codec.decode(np.ascontiguousarray(self.codes[:, ::step, ::step]))

    def centers(self) -> NDArray[np.float32]:
        """Middle of each bin (K,) [m]."""
        middle: NDArray[np.float32] = np.float32(0.5) * (self.edges[:-1] + self.edges[1:])
        return middle


@dataclass(frozen=True)
class StoredLogBinomial:
    """A two-parameter distribution over centres a pixel (ZoeDepth), at native size.

    For the GPU: `codec.decode(codes)` gives p and T, `codec.decode_points(points, size)` seeds and
    attractors, of which nets/log_binomial.py makes the same.
    """

    codes: PairCodes
    """(2, h, w), of logit p and ln T."""

    points: PointCodes
    """(M,), of the seeds and of each map's attractors."""

    codec: LogBinomial

    @property
    def size(self) -> tuple[int, int]:
        """Native size (h, w) [pixels]."""
        return self.codes.shape[1], self.codes.shape[2]

    def probabilities(self, step: int = 1) -> NDArray[np.float32]:
        """(K, h, w), summing to 1 over K, within the codec's bounds of the teacher's own.

        Args:
            step: only every so manieth row and column.
        """
        return self.codec.probabilities(self.codes, step)

    def centers(self, step: int = 1) -> NDArray[np.float32]:
        """(K, h, w) [m], within the codec's bound of the teacher's own.

        Args:
            step: only every so manieth row and column.
        """
        return self.codec.centers(self.points, self.size, step)
