"""Images as a teacher takes them: several of one size, read while it looks at the ones before."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kdpipe.datasets import read_image
from kdpipe.errors import ChangedImageError, DataError, StoreError

if TYPE_CHECKING:
    from torch import Tensor

    from kdpipe.rows import Rows
    from kdpipe.types import Image

T = TypeVar("T")

_GONE = {
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENODEV),
    *(errno.EMFILE, errno.ENFILE),
}
"""What a disk or the system says that says nothing of the image."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one size."""

    numbers: list[int]
    """Of their rows, rising."""

    images: Tensor
    """uint8 (B, H, W, 3)."""

    def __len__(self) -> int:
        return len(self.numbers)

    def halves(self) -> tuple[Batch, Batch]:
        """The first and the last of its images."""
        half = len(self) // 2
        first = Batch(self.numbers[:half], self.images[:half])
        return first, Batch(self.numbers[half:], self.images[half:])


class BatchReader:
    """Reads the images of rows, several at once.

    Args:
        rows: of a data set.
        size: images in a batch; may be changed between two batches.
        pinned: put them where a GPU can fetch them while it computes.
    """

    def __init__(self, rows: Rows, size: int, *, pinned: bool = False) -> None:
        self.rows = rows
        self.size = size
        self.pinned = pinned

    def read(self, start: int, stop: int, bad: dict[int, str]) -> Iterator[Batch]:
        """Readable images of rows [start, stop) in order, neighbours of one size together.

        Of a batch's images all have a focal length, or none.

        Args:
            start: first row.
            stop: row after the last.
            bad: receives the reason why a row's image cannot be read.

        Raises:
            ChangedImageError: an image was replaced since `index`. It is not noted as bad: the
                shard would be finished, and refused once the image is indexed again.
            StoreError: the folder of the images, or its disk, is gone.
        """
        numbers: list[int] = []
        images: list[Image] = []
        for number, coming in self._decode(start, stop):
            try:
                image = coming.result()
            except ChangedImageError:
                raise
            except (DataError, OSError) as error:
                self._refuse_gone_disk(error)
                bad[number] = " ".join(str(error).split())
                continue
            other = images and (
                images[0].shape != image.shape
                or (self.rows[numbers[-1]].fx is None) != (self.rows[number].fx is None)
            )
            if other or len(images) >= self.size:
                yield self._batch(numbers, images)
                numbers, images = [], []
            numbers.append(number)
            images.append(image)
        if images:
            yield self._batch(numbers, images)

    def _refuse_gone_disk(self, error: Exception) -> None:
        """A disk that is gone is not an image that is bad: its rows would count as taught."""
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in _GONE:
            raise StoreError(
                f"{self.rows.root} cannot be read ({cause.strerror}): see to its disk, then run "
                "the same command again"
            ) from error
        if not self.rows.root.is_dir():
            raise StoreError(
                f"{self.rows.root}, where {self.rows.name}'s images were, is not there any more: "
                "mount it, then run the same command again"
            ) from error

    def _decode(self, start: int, stop: int) -> Iterator[tuple[int, Future[Image]]]:
        """In order; never more than two batches in advance."""
        waiting: deque[tuple[int, Future[Image]]] = deque()
        readers = ThreadPoolExecutor(os.cpu_count(), "read")
        try:
            for number in range(start, stop):
                waiting.append((number, readers.submit(read_image, self.rows, number)))
                if len(waiting) > 2 * self.size:
                    yield waiting.popleft()
            yield from waiting
        finally:
            readers.shutdown(cancel_futures=True)

    def _batch(self, numbers: list[int], images: list[Image]) -> Batch:
        import torch

        together = torch.from_numpy(np.stack(images))
        return Batch(numbers, together.pin_memory() if self.pinned else together)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same, each one made in a thread while the one before is in use."""
    with ThreadPoolExecutor(1, "ahead") as beside:
        coming = beside.submit(_next, items)
        while found := coming.result():
            coming = beside.submit(_next, items)
            yield found[0]


def _next(items: Iterator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None
