"""Shards compared with their records, each up to the first difference."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdpipe.errors import StoreError
from kdpipe.store import layout
from kdpipe.store.ledger import FileDigest, Line, Record, read_record
from kdpipe.store.listing import Stamp, listing

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo

Kind = Literal["metadata", "shard", "ledger", "manifest", "stranger"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a store."""

    kind: Kind
    """Of a zarr.json, a shard or its record, all records in one file, the manifest beside the
    store, or a file of someone else's."""

    file: Path
    found: str
    expected: str
    shard: int | None = None
    """Which is to be taught again."""

    def __str__(self) -> str:
        return f"{self.file}: found {self.found}, expected {self.expected}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen of one shard."""

    shard: int
    problem: Problem | None
    store: str | None = None
    """Identity of the store that its record is of; None: the record is torn, or was taken away just
    now."""

    line: Line | None = None
    """What the record says; None too at a quick look, where it is not asked for."""

    bytes: int = 0
    """That were read."""


def file_stamps(path: Path, info: StoreInfo) -> dict[str, Mapping[str, Stamp]]:
    """The files of each array by their names: a listing an array, whatever its length."""
    return {one.name: listing(path / one.name) for one in info.arrays}


def is_whole(line: Line, info: StoreInfo, stamps: Mapping[str, Mapping[str, Stamp]]) -> bool:
    """Whether a line is of this store, and its shard's files are there, whole by their size.

    Args:
        line: of the ledger.
        info: of the store.
        stamps: as from `file_stamps`.
    """
    if line.store != info.digest or line.start != line.shard * info.shard_rows:
        return False
    for one in info.arrays:
        expected = line.arrays.get(one.name)
        found = stamps[one.name].get(layout.shard_name(line.shard, 1 + len(one.shape)))
        if expected is None or found is None or found.bytes != expected.bytes:
            return False
    return True


def at_a_glance(path: Path, info: StoreInfo, lines: Mapping[int, Line]) -> Mapping[int, Seen]:
    """Those shards whose line is believed and whose files have the right sizes.

    Args:
        path: of the store.
        info: of the store.
        lines: that are believed, by shard.
    """
    stamps = file_stamps(path, info) if lines else {}
    return {
        shard: Seen(shard=shard, problem=None, store=line.store)
        for shard, line in lines.items()
        if is_whole(line, info, stamps) and line.start < line.stop <= info.rows_of(shard)[1]
    }


def inspect(path: Path, info: StoreInfo, shard: int, *, quick: bool) -> Seen:
    """Compares the files of a finished shard with its record.

    Args:
        path: of the store.
        info: of the store.
        shard: to be looked at.
        quick: compare sizes only; else digests too.
    """
    where = layout.record_path(path, shard)
    try:
        record = read_record(path, shard)
    except StoreError as error:
        expected = "one as it was written"
        torn = _problem(shard, where, f"a torn record ({error})", expected)
        return Seen(shard=shard, problem=torn)
    if record is None:  # another process takes it away to teach the shard again
        return Seen(shard=shard, problem=None)
    seen = Seen(shard=shard, problem=None, store=record.store, line=None if quick else record.line)
    start, stop = info.rows_of(shard)
    if record.start != start or not start < record.stop <= stop:
        found = f"rows {record.start}..{record.stop - 1}"
        problem = _problem(shard, where, found, f"{start}..{stop - 1}")
        return replace(seen, problem=problem)
    read = 0
    for one in info.arrays:
        file, expected_file = info.file(path, one.name, shard), record.arrays.get(one.name)
        if expected_file is None:
            problem = _problem(shard, where, f"no {one.name}", "an entry for each array")
            return replace(seen, problem=problem, bytes=read)
        difference = _difference(file, expected_file, quick)
        if difference is not None and _has_changed(path, record):
            return Seen(shard=shard, problem=None)
        if difference is not None:
            problem = _problem(shard, file, *difference)
            return replace(seen, problem=problem, bytes=read)
        read += 0 if quick else expected_file.bytes
    return replace(seen, bytes=read)


def _has_changed(path: Path, record: Record) -> bool:
    """Whether another process took the record away meanwhile, to teach a grown tail again."""
    try:
        return read_record(path, record.shard) != record
    except StoreError:
        return False


def _difference(file: Path, expected: FileDigest, quick: bool) -> tuple[str, str] | None:
    """What was found of a file and what was expected; None where it is whole."""
    try:
        size = file.stat().st_size
        if size != expected.bytes:
            return f"{size} bytes", f"{expected.bytes}"
        if quick:
            return None
        with file.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    except FileNotFoundError:
        return "no file", f"{expected.bytes} bytes"
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})", f"{expected.bytes} bytes"
    if sha256 != expected.sha256:
        return f"SHA-256 {sha256[:16]}…", f"{expected.sha256[:16]}…"
    return None


def _problem(shard: int, file: Path, found: str, expected: str) -> Problem:
    return Problem(kind="shard", file=file, found=found, expected=expected, shard=shard)
