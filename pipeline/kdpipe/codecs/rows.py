"""Rows of a map as differences: what pcodec, which looks along rows only, cannot see by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def apart(codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Each row as the difference to the row above, modulo 2**16; maps (..., h, w)."""
    return np.diff(codes, axis=-2, prepend=np.uint16(0))


def together(differences: NDArray[Any]) -> NDArray[np.uint16]:
    """What `apart` was given."""
    return _summed(np.array(differences, np.uint16))


def columns_apart(codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Each pixel as the difference to the one above, at the top to the last of the column before.

    That is a map (h, w) after Zarr's `transpose`, `numcodecs.delta` and `transpose` back.
    """
    differences = apart(codes)
    differences[0, 1:] -= codes[-1, :-1]
    return differences


def columns_together(differences: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """What `columns_apart` was given; overwrites the differences."""
    codes = _summed(differences)
    ends = codes[-1]
    codes += np.cumsum(ends, dtype=np.uint16) - ends
    return codes


def _summed(sums: NDArray[np.uint16]) -> NDArray[np.uint16]:
    room, step = np.empty_like(sums), 1
    while step < sums.shape[-2]:  # sums of 1, 2, 4 … rows: four times as fast as a cumsum of them
        room[..., :step, :] = sums[..., :step, :]
        np.add(sums[..., step:, :], sums[..., :-step, :], out=room[..., step:, :])
        sums, room = room, sums
        step *= 2
    return sums
