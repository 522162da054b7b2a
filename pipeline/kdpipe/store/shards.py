"""The bytes of a chunk and of a shard, as Zarr v3's `sharding_indexed` codec lays them out.

A shard is its encoded chunks, one an image, then an index of (offset, bytes) as little-endian
uint64 pairs, then the crc32c of that index. Each chunk ends with its own crc32c. Written and read
here without zarr, so that a writer never holds more than encoded bytes; the tests read the same
files with plain zarr.

Reference: Zarr v3 specification, sharding codec 1.0.
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import google_crc32c
import numpy as np
from numcodecs.pcodec import PCodec
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from kdpipe.codecs.rows import columns_apart, columns_together
from kdpipe.errors import StoreError

_MISSING = np.uint64(2**64 - 1)
_PCODECS: dict[str, dict[str, Any]] = {
    "pcodec": {"level": 8},
    "delta-pcodec": {
        "level": 8,
        "mode_spec": "classic",
        "delta_spec": "try_consecutive",
        "delta_encoding_order": 1,
    },
}
"""Its own search for the best order takes longer, and misses it for depth in small maps; level 12
takes a hundredth less room, and a seventh longer to read."""

_ZSTDS = {"zstd": 1, "zstd-pixels": 7}
"""Levels. A quarter smaller than level 3; level 12 takes twice the time for a tenth less."""

_CRC_BYTES = 4

_PLACE_BYTES = 16

Packing = Literal["pcodec", "delta-pcodec", "zstd", "zstd-pixels", "none"]
Array = NDArray[Any]


@dataclass(frozen=True)
class ArrayFormat:
    """One array of a store, but for its number of rows."""

    name: str
    """Path inside the store."""

    dtype: str
    """Of Zarr: uint8, uint16, float32, float64."""

    shape: tuple[int, ...]
    """Of one row, which is one chunk."""

    dimensions: tuple[str, ...]
    """A name for each of them, without the row's own."""

    packing: Packing
    """pcodec for codes that are smooth, and delta before it for maps (h, w) of them (`pcodec` alone
    is what the first stores have of depth); zstd for those of a free distribution (K, h, w), the
    bins of a pixel side by side, as its neighbours are much alike (`zstd` alone, bin by bin, is
    what the first stores have); nothing for what does not shrink."""

    @property
    def raw_bytes(self) -> int:
        """Of one row before it is packed."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @cached_property
    def codecs(self) -> list[dict[str, object]]:
        """The chain of one chunk, as zarr.json names it."""
        little: dict[str, object] = {"name": "bytes", "configuration": {"endian": "little"}}
        crc: dict[str, object] = {"name": "crc32c"}
        if self.packing in _PCODECS:
            configuration = dict(_PCODECS[self.packing])
            pcodec: dict[str, object] = {"name": "numcodecs.pcodec", "configuration": configuration}
            return [pcodec, crc] if self.packing == "pcodec" else [*self._delta(pcodec), crc]
        if self.packing == "none":
            return [little, crc]
        configuration = {"level": _ZSTDS[self.packing], "checksum": False}
        zstd: dict[str, object] = {"name": "zstd", "configuration": configuration}
        chain = [little, zstd, crc]
        if self.packing == "zstd":
            return chain
        return [_transpose(0, *range(2, 1 + len(self.shape)), 1), *chain]

    def _delta(self, pcodec: dict[str, object]) -> list[dict[str, object]]:
        """Differences down the columns; pcodec then takes those along the rows.

        The map is a shard of one chunk in itself, which costs an index of 16 bytes: zarr unpacks
        that chunk into an array of its own. Without it delta is given a transposed view, adds up
        in the order of memory, which is along the rows, and the codes come out wrong; as they do
        where somebody set zarr's `array.order` to F. Zarr cannot write such a chunk, and says so.
        """
        transpose = _transpose(0, *range(len(self.shape), 0, -1))
        delta = {"dtype": np.dtype(self.dtype).newbyteorder("<").str}
        shard = {
            "chunk_shape": [1, *reversed(self.shape)],
            "codecs": [transpose, pcodec],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "index_location": "end",
        }
        return [
            transpose,
            {"name": "numcodecs.delta", "configuration": delta},
            {"name": "sharding_indexed", "configuration": shard},
        ]

    def encode(self, values: Array) -> bytes:
        """Turns one row's values into a chunk's bytes.

        Raises:
            StoreError: they have another shape than the array's chunks.
        """
        if values.shape != self.shape:
            raise StoreError(
                f"{self.name} has chunks of {self.shape}, got {values.shape}: this row's map is "
                "larger than those the store was made for; remove the store and teach again"
            )
        if self.packing == "zstd-pixels":
            values = np.moveaxis(values, 0, -1)
        elif self.packing == "delta-pcodec":
            values = columns_apart(values)
        plain = np.ascontiguousarray(values, dtype=np.dtype(self.dtype).newbyteorder("<"))
        if self.packing in _PCODECS:
            packed = bytes(PCodec(**_PCODECS[self.packing]).encode(plain))
        elif self.packing in _ZSTDS:
            packed = bytes(Zstd(level=_ZSTDS[self.packing]).encode(plain))
        else:
            packed = plain.tobytes()
        if self.packing == "delta-pcodec":
            packed += np.array([0, len(packed)], "<u8").tobytes()
        return packed + _crc(packed)

    def decode(self, chunk: bytes, where: str) -> Array:
        """Turns a chunk's bytes into one row's values.

        Raises:
            StoreError: a byte changed, or the chunk holds something else.
        """
        packed, crc = chunk[:-_CRC_BYTES], chunk[-_CRC_BYTES:]
        if _crc(packed) != crc:
            raise StoreError(
                f"{where}: the checksum of a chunk does not fit, its bytes changed on disk: "
                "remove the shard's ledger record and teach again"
            )
        if self.packing == "pcodec":
            plain = PCodec().decode(packed)
        elif self.packing == "delta-pcodec":
            plain = PCodec().decode(packed[:-_PLACE_BYTES])
        elif self.packing in _ZSTDS:
            plain = Zstd().decode(packed)
        else:
            plain = packed
        values = np.frombuffer(plain, dtype=np.dtype(self.dtype).newbyteorder("<"))
        if values.size != int(np.prod(self.shape)):
            raise StoreError(f"{where}: a chunk holds {values.size} values, not {self.shape}")
        if self.packing == "zstd-pixels":
            return np.moveaxis(values.reshape(*self.shape[1:], self.shape[0]), -1, 0)
        shaped = values.reshape(self.shape)
        return columns_together(shaped) if self.packing == "delta-pcodec" else shaped


class ShardIndex:
    """Where each chunk of a shard lies; grows while the chunks are written, in order."""

    def __init__(self, rows: int) -> None:
        self.entries = np.full((rows, 2), _MISSING, dtype="<u8")
        """(offset, bytes) of each row's chunk; all ones where there is none: the row is 0."""

    def put(self, at: int, offset: int, size: int) -> None:
        """Notes the chunk of the shard's row `at`."""
        self.entries[at] = offset, size

    def place(self, at: int) -> tuple[int, int] | None:
        """(offset, bytes) of the chunk of the shard's row `at`; None where there is none."""
        offset, size = self.entries[at]
        return None if offset == _MISSING else (int(offset), int(size))

    def encode(self) -> bytes:
        """The end of the shard's file."""
        plain = self.entries.tobytes()
        return plain + _crc(plain)

    @staticmethod
    def size(rows: int) -> int:
        """Bytes of `encode` for a shard of so many rows."""
        return rows * 16 + _CRC_BYTES

    @classmethod
    def decode(cls, end: bytes, rows: int, where: str) -> ShardIndex:
        """Reads the end of a shard's file.

        Raises:
            StoreError: it is truncated or a byte changed.
        """
        plain, crc = end[:-_CRC_BYTES], end[-_CRC_BYTES:]
        if len(end) != cls.size(rows) or _crc(plain) != crc:
            raise StoreError(
                f"{where}: the shard's index is torn: remove its ledger record and teach again"
            )
        index = cls(rows)
        index.entries = np.frombuffer(plain, dtype="<u8").reshape(rows, 2)
        return index


def _transpose(*order: int) -> dict[str, object]:
    return {"name": "transpose", "configuration": {"order": list(order)}}


def _crc(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(_CRC_BYTES, "little")
