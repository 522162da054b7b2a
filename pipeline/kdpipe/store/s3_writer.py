"""One shard of every array on S3: it grows on this machine's disk and is put when it is whole.

claim -> chunks, encoded as they come, into files of a temporary folder -> what is at their final
names -> the claim, proved and without a record -> the objects, each only where it is as it was seen
-> the record in the claim's place. s3_claims.py says why a sleeper cannot spoil this.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from kdpipe.errors import ClaimError, StoreError
from kdpipe.store import s3
from kdpipe.store.disk import disk_errors
from kdpipe.store.ledger import Record, sealed
from kdpipe.store.writer import ShardFile, ShardWriter

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo
    from kdpipe.store.s3 import S3Path
    from kdpipe.store.s3_claims import S3Claim


class S3ShardWriter(ShardWriter):
    """See ShardWriter."""

    claim: S3Claim

    def __init__(self, info: StoreInfo, claim: S3Claim) -> None:
        super().__init__(info, claim)
        self._folder = Path(tempfile.gettempdir())

    def __enter__(self) -> S3ShardWriter:
        """See ShardWriter."""
        with self._owning():
            self._folder = Path(tempfile.mkdtemp(prefix="kdpipe-shard-"))
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

    def commit(self, record: Record) -> Record:
        """See ShardWriter."""
        with self._owning():
            digests = {name: one.finish() for name, one in self._files.items()}
        there = {name: s3.look(self._target(name)) for name in self._files}
        self.claim.take_record_away()
        for name, one in self._files.items():
            self._put(one, self._target(name), there[name])
            self.claim.hold()
        whole = replace(record, arrays=digests)
        self.claim.finish(sealed(whole))
        return whole

    def _put(self, one: ShardFile, target: S3Path, there: s3.Listed | None) -> None:
        size = one.path.stat().st_size
        if size > s3.LARGEST_OBJECT:
            raise StoreError(
                f"{target} would have {size} bytes, S3 takes {s3.LARGEST_OBJECT} at once: set "
                "store.shard_rows lower in params.yaml and teach into a new store"
            )
        with one.path.open("rb") as content:
            if s3.write(target, content, over=None if there is None else there.etag) is None:
                raise ClaimError(f"{target} is being written by another process")

    def _target(self, name: str) -> S3Path:
        return cast("S3Path", self.info.file(self.claim.store, name, self.claim.shard))

    @contextlib.contextmanager
    def _owning(self) -> Iterator[None]:
        with disk_errors(self._folder):
            yield
