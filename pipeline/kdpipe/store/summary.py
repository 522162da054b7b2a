"""What a store cost and holds, from its ledger: for reports and for the end of `teach`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, SupportsFloat

from kdpipe.store.consolidated import read_lines
from kdpipe.store.metadata import read_info

if TYPE_CHECKING:
    from kdpipe.store.ledger import Line
    from kdpipe.store.metadata import StoreInfo


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
    return summary_of(read_info(path), read_lines(path))


def summary_of(info: StoreInfo, lines: Sequence[Line]) -> Summary:
    """Adds up the lines of a store's ledger."""
    images = sum(one.images for one in lines)
    return Summary(
        rows=info.rows,
        images=images,
        bad=sum(len(one.bad) for one in lines),
        shards=info.shards,
        finished=len(lines),
        bytes=sum(one.bytes for one in lines),
        raw_bytes=images * info.raw_bytes,
        seconds=sum(_number(one.environment.get("seconds")) for one in lines),
        forward_seconds=sum(_number(one.environment.get("forward_seconds")) for one in lines),
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, SupportsFloat) else 0.0
