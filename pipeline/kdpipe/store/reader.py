"""A store by row number: depth in the frame or as the teacher gave it, bins, what wrote it.

A reader can be pickled, shared by threads and inherited by a forked process; see chunks.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from kdpipe.codecs import LogBinomial
from kdpipe.errors import StoreError
from kdpipe.store import layout
from kdpipe.store.bins import StoredBins, StoredLogBinomial
from kdpipe.store.chunks import Chunks, decoding
from kdpipe.store.consolidated import read_ids, read_lines
from kdpipe.store.frame import RULES, Window, part_of, resampling
from kdpipe.store.identity import compare, teacher_identity
from kdpipe.store.inspection import file_stamps, is_whole
from kdpipe.store.ledger import Record, check_record, read_record
from kdpipe.store.metadata import StoreInfo, read_info
from kdpipe.store.s3 import location

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from kdpipe.cards import TeacherCard
    from kdpipe.codecs import Codec, Companded, Log16
    from kdpipe.store.shards import Array
    from kdpipe.types import Codes, Depth


class Store:
    """One teacher's output over one data set, by row number."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: StoreInfo = read_info(path)
        """What wrote it, and its shape."""
        if self.info.rule not in RULES:
            raise StoreError(
                f"{path} needs the rule {self.info.rule!r}, this version of kdpipe has "
                f"{', '.join(RULES)}: open it with the version that wrote it"
            )
        self._depth = cast("Log16", self.info.codec("depth"))
        self._records: dict[int, Record] = {}
        self._chunks = Chunks(path, self.info, lambda name, n: self._record(n).arrays[name].bytes)
        self._extents: dict[int, NDArray[np.float64]] = {}

    def __len__(self) -> int:
        """Rows, finished or not."""
        return self.info.rows

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}): {self.info.teacher} over {len(self)} rows"

    def __getstate__(self) -> Mapping[str, object]:
        return {"path": self.path}

    def __setstate__(self, state: Mapping[str, Path]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def check(self, card: TeacherCard) -> None:
        """Refuses a store that another teacher wrote, or another version of its card.

        Raises:
            StaleStoreError: names the field that differs.
        """
        found = cast("Mapping[str, object]", self.info.identity["teacher"])
        compare(self.path, {"teacher": found}, {"teacher": teacher_identity(card)})

    @cached_property
    def finished(self) -> NDArray[np.bool_]:
        """Whether each row's shard is done (N,), when this reader first looked."""
        done = np.zeros(len(self), np.bool_)
        stamps = file_stamps(self.path, self.info)
        for line in read_lines(self.path):
            if line.shard < self.info.shards:
                if not is_whole(line, self.info, stamps):
                    self._record(line.shard)  # says what is wrong
                done[line.start : line.stop] = True
        return done

    @cached_property
    def ids(self) -> list[str | None]:
        """Row ids in order; None for a row whose shard is not finished."""
        listed: list[str | None] = [None] * len(self)
        for start, ids in read_ids(self.path):
            if start < len(self):
                listed[start : start + len(ids)] = ids
        return listed[: len(self)]  # a store that grows may be ahead of this reader

    def known(self, row: int) -> bool:
        """Whether a finished row has depth: its image could be read."""
        return bool(self._extent_of(row)[0] > 0)

    def extent(self, row: int) -> tuple[int, int]:
        """Native size (h, w) of a row's map [pixels].

        Raises:
            StoreError: the row is not finished.
        """
        height, width = self._extent_of(row)[:2]
        return int(height), int(width)

    def frame(self, row: int) -> tuple[int, int]:
        """Size (H, W) of a row's frame [pixels].

        Raises:
            StoreError: the row is not finished.
        """
        height, width = self._extent_of(row)[2:4]
        return int(height), int(width)

    def native_depth(self, row: int) -> Depth:
        """Depth (h, w) [m] at the teacher's own size, within the codec's bound; 0 unknown.

        A row without depth gives zeros (0, 0).

        Raises:
            IndexError: `row` lies outside [0, len).
            StoreError: the row is not finished, or its bytes changed on disk.
        """
        height, width = self.extent(row)
        codes = self._chunks.read(layout.DEPTH, row)
        if codes is None:
            return np.zeros((height, width), np.float32)
        return self._metres(codes[:height, :width], row)

    def depth(self, row: int, window: tuple[int, int, int, int] | None = None) -> Depth:
        """Depth in the frame, by the rule the store names.

        Args:
            row: its number.
            window: (top, left, height, width) in the frame [pixels]; None: the whole frame.

        Returns:
            Depth (H, W) [m]; 0 where the teacher gave none, or where an unknown native pixel takes
            part in the interpolation.

        Raises:
            IndexError: `row` lies outside [0, len).
            StoreError: the row is not finished, its bytes changed on disk, or the window leaves
                the frame.
        """
        frame = self.frame(row)
        part = part_of(frame, None if window is None else Window(*window))
        native = self.extent(row)
        codes = self._chunks.read(layout.DEPTH, row) if native[0] else None
        if codes is None:
            return np.zeros((part.height, part.width), np.float32)
        near = self._depth.near if self.info.is_metric else None  # as the teacher's own output
        how = resampling(native, frame, part, self.info.rule, near=near)
        return how.mix(self._metres(codes[how.rows, how.columns], row))

    def bins(self, row: int) -> StoredBins | StoredLogBinomial:
        """Probabilities over bins, at native size.

        Returns:
            What the teacher's kind of distribution is kept as: `StoredLogBinomial` of ZoeDepth.

        Raises:
            IndexError: `row` lies outside [0, len).
            StoreError: the store has no bins, the row is not finished or has no depth, or its
                bytes changed on disk.
        """
        codec = self._codec_of_bins
        if isinstance(codec, LogBinomial):
            pair, points = self._both(row, layout.BIN_PAIR, layout.BIN_POINTS)
            height, width = self.extent(row)
            with decoding(self.path):
                count = codec.points((height, width))
            return StoredLogBinomial(pair[:, :height, :width], points[:count], codec)
        codes, edges = self._both(row, layout.BIN_CODES, layout.BIN_EDGES)
        height, width = self.extent(row)
        return StoredBins(codes[:, :height, :width], edges, cast("Companded", codec))

    @cached_property
    def _codec_of_bins(self) -> Codec | None:
        return self.info.codec("bins") if self.info.has_bins else None

    def _metres(self, codes: Codes, row: int) -> Depth:
        with decoding(self._chunks.file(layout.DEPTH, row)):
            return self._depth.decode(codes)

    def _both(self, row: int, *names: str) -> list[Array]:
        """One row of each of some arrays of bins."""
        self._extent_of(row)  # says what is wrong with the row's number
        read = (self._chunks.read(name, row) for name in names)
        chunks = [chunk for chunk in read if chunk is not None]
        if len(chunks) < len(names):
            raise StoreError(f"row {row} of {self.path} has no bins: its image could not be read")
        return chunks

    def _record(self, shard: int) -> Record:
        if shard not in self._records:
            record = read_record(self.path, shard)
            if record is None:
                raise StoreError(
                    f"{self.path}: shard {shard} is not finished: run `kdpipe teach --teacher "
                    f"{self.info.teacher} --data {self.info.data}` to go on"
                )
            check_record(self.path, record, self.info)
            self._records[shard] = record
        return self._records[shard]

    def _extent_of(self, row: int) -> NDArray[np.float64]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {self.path}, which has {len(self)}")
        shard, at = divmod(row, self.info.shard_rows)
        if shard not in self._extents:
            record = self._record(shard)
            fields = (self.info.shard_rows, len(layout.EXTENT_FIELDS))
            extents = np.zeros(fields, np.float64)
            chunks = self._chunks.read_shard(layout.EXTENT, shard)
            for place, chunk in enumerate(chunks[: record.stop - record.start]):
                extents[place] = 0 if chunk is None else chunk
            self._extents[shard] = extents
        if row >= self._record(shard).stop:
            raise StoreError(
                f"{self.path}: row {row} is not finished: run `kdpipe teach --teacher "
                f"{self.info.teacher} --data {self.info.data}` to go on"
            )
        return cast("NDArray[np.float64]", self._extents[shard][at])


def open_store(path: str | os.PathLike[str], *, card: TeacherCard | None = None) -> Store:
    """Opens a store for reading, finished or still growing.

    Args:
        path: artifacts/stores/<data>/<teacher>.zarr, or s3://bucket/prefix/<data>/<teacher>.zarr.
        card: of the teacher that should have written it; None: whichever did.

    Raises:
        StoreError: there is no store, or not one of a format this version reads.
        StaleStoreError: another teacher wrote it, or another version of its card.
    """
    store = Store(location(path))
    if card is not None:
        store.check(card)
    return store
