"""What was decoded once and is kept, as far as there is room."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

REMEMBERED_BYTES = 1 << 30
"""Of decoded images and maps that one data set keeps in memory: decoding a JPEG of 480x640 costs
as much as a tenth of a small student's step."""


class Memory:
    """Decoded arrays by what they are and the row's number."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], NDArray[np.generic]] = {}
        self._bytes = 0

    def remember(
        self, what: str, number: int, read: Callable[[int], NDArray[Scalar]]
    ) -> NDArray[Scalar]:
        """What `read` gives of a row, read again only where there was no room for it."""
        kept = self._kept.get((what, number))
        if kept is not None:
            return cast("NDArray[Scalar]", kept)
        values = read(number)
        # In shuffled order what came first is as good as what came last: nothing is thrown out.
        if self._bytes + values.nbytes <= REMEMBERED_BYTES:
            self._kept[what, number] = values
            self._bytes += values.nbytes
        return values
