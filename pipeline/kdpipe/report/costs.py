"""What stores weigh, and what it took to write them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdpipe.errors import StoreError
from kdpipe.store.consolidated import read_lines
from kdpipe.store.layout import parse_run, store_path
from kdpipe.store.metadata import read_info


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCost:
    """What a store weighs, and what it took to write."""

    data: str
    teacher: str
    rows: int
    finished: int
    bad: int
    bytes: int
    raw_bytes: int
    """Of the same rows unpacked."""

    seconds: float | None
    """Of all workers, added up."""

    weights_sha256: str | None

    @property
    def bytes_per_image(self) -> float:
        """Of a finished row."""
        return self.bytes / max(self.finished, 1)


def read_store_cost(path: Path) -> StoreCost:
    """Adds up a store's ledger.

    Raises:
        StoreError: there is no store, or a record is torn.
    """
    info = read_info(path)
    lines = read_lines(path)
    seconds = [number_of(line.environment.get("seconds")) for line in lines]
    rows = sum(line.images for line in lines)
    weights = info.identity.get("weights")
    digest = weights.get("sha256") if isinstance(weights, dict) else None
    return StoreCost(
        data=info.data,
        teacher=info.teacher,
        rows=info.rows,
        finished=rows,
        bad=sum(len(line.bad) for line in lines),
        bytes=sum(line.bytes for line in lines),
        raw_bytes=rows * info.raw_bytes,
        seconds=None if None in seconds else sum(s for s in seconds if s is not None),
        weights_sha256=None if digest is None else str(digest),
    )


def read_store_bytes(run: str) -> int | None:
    """Adds up the stores that a run learned from; None: one is gone, or nobody can tell which."""
    named = parse_run(run)
    if named is None:
        return None
    teachers = [] if named.teacher == "none" else named.teacher.split("+")
    try:
        return sum(
            read_store_cost(store_path(data, teacher)).bytes
            for data in (named.data, *named.aux)
            for teacher in teachers
        )
    except StoreError:
        return None


def number_of(value: object) -> float | None:
    """A number as a file may hold it; None: something else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
