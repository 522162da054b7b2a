"""The simplest guess: the same depth map for every image. Who does not beat it has not learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kdpipe.datasets import read_truth
from kdpipe.errors import DataError
from kdpipe.training.geometry import Transform

if TYPE_CHECKING:
    from kdpipe.rows import Rows
    from kdpipe.types import Depth


def fit_median(rows: Rows, size: tuple[int, int], *, split: str = "train") -> Depth:
    """The median of the measured depths of a split, pixel by pixel.

    Args:
        rows: of a data set with truth.
        size: (h, w) of the map [pixels]; truth is brought to it by its nearest pixel.
        split: whose truth.

    Returns:
        (h, w) [m]; a pixel that is measured nowhere has the median of all others.

    Raises:
        DataError: no row of the split has measured depth.
    """
    maps = []
    for number in rows.of_split(split):
        row = rows[number]
        if row.truth is None:
            continue
        depth = read_truth(rows, number)
        counts = (depth > rows.card.min_depth) & (depth <= rows.card.max_depth)
        frame = Transform.identity(row.height, row.width).resize(*size)
        maps.append(frame.truth(np.where(counts, depth, np.float32(0))))
    known = np.stack(maps) if maps else np.zeros((1, *size), np.float32)
    if not (known > 0).any():
        raise DataError(f"{rows.name}: no row of split {split!r} has measured depth, expected some")
    nowhere = ~(known > 0).any(axis=0)
    known[:, nowhere] = np.median(known[known > 0])
    return np.nanmedian(np.where(known > 0, known, np.nan), axis=0).astype(np.float32)
