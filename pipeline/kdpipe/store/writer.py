"""One shard of every array: whole or not at all.

claim -> chunks, encoded as they come, into files of the work folder -> index -> flush -> link under
the final names -> flush the folders -> ledger record. The record, created exclusively, makes the
arrays visible together; without it their files are leftovers that the next owner removes.

A claim alone cannot hold back a process that slept just after it looked whether the claim is still
its own. The work folder does: all that becomes visible is linked from it, all that goes is moved
into it, and a successor takes the folder away, in one step, before it reads or changes anything.
Whoever wakes up then can neither finish the shard nor remove what its successor finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, cast

from kdpipe.errors import ClaimError
from kdpipe.store import layout
from kdpipe.store.disk import disk_errors, link_exclusively, sync_folder
from kdpipe.store.ledger import FileDigest, Record, read_record, write_record
from kdpipe.store.s3 import S3Path
from kdpipe.store.shards import Array, ArrayFormat, ShardIndex

if TYPE_CHECKING:
    from kdpipe.store.claims import Claim
    from kdpipe.store.metadata import StoreInfo
    from kdpipe.store.s3_claims import S3Claim


def open_writer(info: StoreInfo, claim: Claim) -> ShardWriter:
    """What writes a claimed shard, on a disk or on S3."""
    if isinstance(claim.store, S3Path):
        from kdpipe.store.s3_writer import S3ShardWriter  # which is a ShardWriter

        return S3ShardWriter(info, cast("S3Claim", claim))
    return ShardWriter(info, claim)


class ShardWriter:
    """Writes one claimed shard; leave its `with` block without `commit` and nothing happened."""

    def __init__(self, info: StoreInfo, claim: Claim) -> None:
        self.info = info
        self.claim = claim
        self._before: Record | None = None
        """What this shard replaces: a shorter tail, or one with bad rows."""
        self._folder = layout.work_dir(claim.store, claim.shard, claim.owner.token)
        self._files: dict[str, ShardFile] = {}

    def __enter__(self) -> ShardWriter:
        """Clears what a killed owner left, and opens the files.

        Raises:
            ClaimError: the claim was lost.
            StoreError: the disk refuses.
        """
        store, shard = self.claim.store, self.claim.shard
        with self._owning():
            self._folder.mkdir(parents=True)
            self.claim.hold()  # only now: whoever takes the claim after this look finds the folder
            for folder in layout.work_dirs(store, shard):
                if folder != self._folder:
                    self._take_away(folder)
            self._before = read_record(store, shard)
            if self._before is None:
                self._take_files_away()
            for one in self.info.arrays:
                path = self._folder / one.name.replace("/", ".")
                self._files[one.name] = ShardFile(one, path, self.info.shard_rows)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for one in self._files.values():
            one.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, row: int, values: Mapping[str, Array]) -> None:
        """Appends one row's chunk of the given arrays; rows come in order, what is absent stays 0.

        Args:
            row: its number in the store.
            values: one row of each array, by its name; of a bad row only its extent.

        Raises:
            StoreError: a map is larger than the store's chunks, or the disk refuses.
        """
        self.append(row, {name: self.info.array(name).encode(one) for name, one in values.items()})

    def append(self, row: int, chunks: Mapping[str, bytes]) -> None:
        """Appends one row's chunks as `ArrayFormat.encode` makes them; else see `put`."""
        at = row - self.claim.shard * self.info.shard_rows
        with self._owning():
            for name, one in chunks.items():
                self._files[name].append(at, one)

    def commit(self, record: Record) -> Record:
        """Makes the shard visible.

        Args:
            record: all but `arrays`, which this fills in.

        Returns:
            The record as written.

        Raises:
            ClaimError: the claim was lost: nothing of this shard became visible.
            StoreError: the disk refuses.
        """
        store, shard = self.claim.store, self.claim.shard
        with self._owning():
            digests = {name: one.finish() for name, one in self._files.items()}
            self.claim.hold()
            if self._before is not None:
                self._take_away(layout.record_path(store, shard))
                sync_folder(layout.record_path(store, shard).parent)
                self._take_files_away()
            for name, one in self._files.items():
                target = self.info.file(store, name, shard)
                if not link_exclusively(one.path, target):
                    raise ClaimError(f"{target} is being written by another process")
            whole = replace(record, arrays=digests)
            if not write_record(store, whole, self._folder):
                raise ClaimError(f"shard {shard} of {store} was finished by another process")
        return whole

    @contextlib.contextmanager
    def _owning(self) -> Iterator[None]:
        """Turns a disk's errors into one line, the loss of the work folder into the claim's own."""
        with disk_errors(self.claim.store):
            try:
                yield
            except FileNotFoundError as error:
                if self._folder.is_dir():
                    raise
                raise self.claim.lost() from error

    def _take_away(self, path: Path) -> None:
        """Removes a file, or another's work folder, unless ours is taken away itself."""
        gone = self._folder / f"gone.{path.parent.name}.{path.name}"
        with contextlib.suppress(FileNotFoundError):
            path.rename(gone)
            if gone.is_dir():
                shutil.rmtree(gone, ignore_errors=True)
            else:
                gone.unlink()

    def _take_files_away(self) -> None:
        for one in self.info.arrays:
            self._take_away(self.info.file(self.claim.store, one.name, self.claim.shard))


class ShardFile:
    """One array's shard while it grows: nothing but the index is kept in memory."""

    def __init__(self, array: ArrayFormat, path: Path, rows: int) -> None:
        self.array = array
        self.path = path
        self._index = ShardIndex(rows)
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._file: BinaryIO = path.open("wb")

    def append(self, at: int, chunk: bytes) -> None:
        self._index.put(at, self._size, len(chunk))
        self._write(chunk)

    def finish(self) -> FileDigest:
        self._write(self._index.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileDigest(bytes=self._size, sha256=self._sha256.hexdigest())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: what is buffered is given up anyway
            self._file.close()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._sha256.update(content)
        self._size += len(content)
