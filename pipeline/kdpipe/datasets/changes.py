"""What of a listing is new or changed since last time, told without opening an image.

Rows of last time come in batches beside the listing, which mostly has their order: a million of
them are never objects all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from operator import attrgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdpipe.datasets.check import place, stamps_of
from kdpipe.errors import DataError
from kdpipe.rows import Row, Rows, make_rows

_BATCH = 4096
"""Rows that are objects at once."""

_ASKED = {"image_digest", "bytes", "mtime_ns", "truth_bytes", "truth_mtime_ns"}
_SAID = attrgetter(*(one.name for one in fields(Row) if one.name not in _ASKED))
"""What a listing says of a row; the rest is asked of its files."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Between the rows of last time and a listing."""

    changed: dict[int, Row] = field(default_factory=dict)
    """Row number -> the row as it is listed now, whose files have to be read."""

    new: list[Row] = field(default_factory=list)
    """In the listing's order."""

    gone: list[str] = field(default_factory=list)
    """Ids of last time that are not listed any more."""

    twins: tuple[Row, Row] | None = None
    """Two listed rows of one id."""


def find_changes(empty: Rows, before: Rows | None, listed: Iterable[Row]) -> Changes:
    """Compares a listing with the rows of last time, by what it says and by the files' stamps.

    Args:
        empty: no rows, of the card and the root that `listed` is of.
        before: last time's; None: there are none.
        listed: the data set as it is now.
    """
    olds = enumerate(_objects(before))
    changed: dict[int, Row] = {}
    waiting: dict[str, Row] = {}
    number, old = next(olds, (0, None))
    for row in listed:
        if old is not None and row.id == old.id:
            if not _is_unchanged(empty, row, old):
                changed[number] = row
            number, old = next(olds, (number + 1, None))
            continue
        twin = waiting.setdefault(row.id, row)
        if twin is not row:
            return Changes(twins=(row, twin))
    if (twins := _twins(before, number, waiting)) is not None:
        return Changes(twins=twins)
    gone: list[str] = []
    while old is not None:
        late = waiting.pop(old.id, None)
        if late is None:
            gone.append(old.id)
        elif not _is_unchanged(empty, late, old):
            changed[number] = late
        number, old = next(olds, (number + 1, None))
    return Changes(changed=changed, new=list(waiting.values()), gone=gone)


def merge(empty: Rows, before: Rows | None, changes: Changes, checked: list[Row]) -> Rows:
    """The rows of last time with what has changed in its place and what is new at the end.

    Args:
        empty: no rows, of the card and the root.
        before: last time's; None: there are none.
        changes: since.
        checked: what became of the changed and of the new ones, in this order.

    Raises:
        DataError: a path leaves the root.
    """
    fresh = make_rows(empty.card, empty.root, checked).table
    if before is None:
        return Rows(empty.card, empty.root, fresh)
    count, changed = len(before), len(changes.changed)
    order = np.arange(count + len(changes.new))
    order[list(changes.changed)] = count + np.arange(changed)
    order[count:] += changed
    both = pa.concat_tables([before.table, fresh])
    return Rows(empty.card, empty.root, both.take(order) if checked else before.table)


def _objects(rows: Rows | None) -> Iterator[Row]:
    for start in range(0, 0 if rows is None else len(rows), _BATCH):
        assert rows is not None
        for values in rows.table.slice(start, _BATCH).to_pylist():
            yield Row(**values)


def _twins(before: Rows | None, met: int, waiting: dict[str, Row]) -> tuple[Row, Row] | None:
    """A row that was listed after another one of its id had met its like of last time."""
    if before is None or not waiting:
        return None
    ids = pc.index_in(pa.array(list(waiting), pa.string()), before.table["id"].slice(0, met))
    for row, place_before in zip(waiting.values(), ids.to_pylist(), strict=True):
        if place_before is not None:
            return row, before[place_before]
    return None


def _is_unchanged(empty: Rows, row: Row, old: Row) -> bool:
    try:
        stamps = stamps_of(empty, row)
        if stamps != (old.bytes, old.mtime_ns, old.truth_bytes, old.truth_mtime_ns):
            return False
        now = place(empty.card, row, old.image_height, old.image_width)
    except DataError:
        return False  # checking it says why
    return bool(_SAID(now) == _SAID(old))
