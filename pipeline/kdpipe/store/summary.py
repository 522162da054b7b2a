"""What a store cost and holds, from its ledger: for reports and for the end of `teach`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import SupportsFloat

from kdpipe.store.ledger import finished, read_record
from kdpipe.store.metadata import read_info


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Sums over the finished shards."""

    rows: int
    """Of the data set."""

    images: int
    """Finished, bad ones included."""

    bad: int
    """Images that could not be read: code 0 everywhere."""

    shards: int
    finished: int
    bytes: int
    """Of the finished shards on disk."""

    raw_bytes: int
    """The same arrays before they were packed."""

    seconds: float
    """Spent by all workers, loading of the network apart."""

    forward_seconds: float
    """Of these, in the teacher's forward."""


def summarise(path: Path) -> Summary:
    """Adds up a store's ledger, O(shards).

    Raises:
        StoreError: there is no store, or a record is torn.
    """
    info, done = read_info(path), finished(path)
    records = [record for shard in done if (record := read_record(path, shard)) is not None]
    images = sum(one.stop - one.start for one in records)
    return Summary(
        rows=info.rows,
        images=images,
        bad=sum(len(one.bad) for one in records),
        shards=info.shards,
        finished=len(records),
        bytes=sum(one.bytes for one in records),
        raw_bytes=images * info.raw_bytes,
        seconds=sum(_number(one.environment.get("seconds")) for one in records),
        forward_seconds=sum(_number(one.environment.get("forward_seconds")) for one in records),
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, SupportsFloat) else 0.0
