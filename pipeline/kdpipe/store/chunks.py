"""Chunks of a store at their place: what zarr reads, without asking zarr.

Files are opened, read at a position and closed again, of an object on S3 the range is asked for,
and only the shards' indices are kept: so a reader can be shared by threads and inherited by a
forked process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.errors import StoreError
from kdpipe.store.s3 import S3Path, read
from kdpipe.store.shards import Array, ArrayFormat, ShardIndex

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo


@dataclass(frozen=True, slots=True)
class _Shard:
    """One array's file of a shard, and where its chunks lie."""

    file: str
    array: ArrayFormat
    index: ShardIndex


class Chunks:
    """One row of an array at a time."""

    def __init__(self, path: Path, info: StoreInfo, size_of: Callable[[str, int], int]) -> None:
        """Reads nothing yet.

        Args:
            path: of the store.
            info: its attributes.
            size_of: bytes of an array's file of a shard; raises where the shard is not finished.
        """
        self._path = path
        self._info = info
        self._size_of = size_of
        self._shards: dict[tuple[str, int], _Shard] = {}

    def read(self, name: str, row: int) -> Array | None:
        """One row of an array as it is on disk; None where it has no chunk: it is all 0.

        Raises:
            StoreError: the row is not finished, or its bytes changed on disk.
        """
        shard, at = divmod(row, self._info.shard_rows)
        found = self._shards.get((name, shard)) or self._open(name, shard)
        place = found.index.place(at)
        if place is None:
            return None
        chunk = self._bytes(found.file, place[1], place[0])
        with decoding(found.file):
            return found.array.decode(chunk, found.file)

    def file(self, name: str, row: int) -> str:
        """Of a row's chunk."""
        shard = row // self._info.shard_rows
        return (self._shards.get((name, shard)) or self._open(name, shard)).file

    def read_shard(self, name: str, shard: int) -> list[Array | None]:
        """All rows of a shard's array, in one read: for those of a few bytes.

        Raises:
            StoreError: as `read`.
        """
        found = self._open(name, shard)
        content = self._bytes(found.file, self._size_of(name, shard), 0)
        places = [found.index.place(at) for at in range(self._info.shard_rows)]
        with decoding(found.file):
            return [
                None
                if place is None
                else found.array.decode(content[place[0] : sum(place)], found.file)
                for place in places
            ]

    def _open(self, name: str, shard: int) -> _Shard:
        array, rows = self._info.array(name), self._info.shard_rows
        size, end = self._size_of(name, shard), ShardIndex.size(rows)
        file = str(self._info.file(self._path, name, shard))
        content = self._bytes(file, end, max(size - end, 0))
        found = _Shard(file, array, ShardIndex.decode(content, rows, file))
        self._shards[name, shard] = found
        return found

    def _bytes(self, file: str, size: int, start: int) -> bytes:
        with _missing(file):
            if isinstance(self._path, S3Path):
                return read(S3Path(file), start, size).content
            handle = os.open(file, os.O_RDONLY)
            try:
                return os.pread(handle, size, start)
            finally:
                os.close(handle)


@contextlib.contextmanager
def decoding(where: str | Path) -> Iterator[None]:
    """Says of what a codec refuses that the chunk is to blame.

    Raises:
        StoreError: instead of ValueError and RuntimeError.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise StoreError(f"{where}: a chunk cannot be decoded ({error}): teach again") from error


@contextlib.contextmanager
def _missing(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing: remove its record and teach again") from error
