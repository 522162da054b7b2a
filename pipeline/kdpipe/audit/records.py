"""The finished shards of a store that are of the rows there are, and a sample of their images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.errors import StoreError
from kdpipe.store.ledger import finished, read_record
from kdpipe.teaching.plan import check_rows

if TYPE_CHECKING:
    from kdpipe.rows import Rows
    from kdpipe.store import Store
    from kdpipe.store.ledger import Record


def records_of(store: Store, rows: Rows) -> dict[int, Record]:
    """Records of the finished shards by their number.

    Raises:
        StaleStoreError: rows were reordered or edited since they were taught; names the row.
        StoreError: a record is torn.
    """
    found: dict[int, Record] = {}
    for shard in finished(store.path):
        record = read_record(store.path, shard)
        if record is not None and shard < store.info.shards:
            check_rows(store.path, record, rows)
            found[shard] = record
    return found


def choose(store: Store, records: Mapping[int, Record], count: int, seed: int) -> list[int]:
    """Row numbers of images with depth, spread over the shards: one of each, then a second.

    The same store, count and seed give the same rows, and a larger count some more.

    Args:
        store: where they are.
        records: of its finished shards.
        count: of rows, > 0.
        seed: another one gives other rows.

    Raises:
        StoreError: there are fewer rows with depth.
    """
    rng = np.random.default_rng(seed)
    shards = [int(shard) for shard in rng.permutation(sorted(records))]
    each = {shard: _rows_of(store, records[shard], seed) for shard in shards}
    there = sum(len(one) for one in each.values())
    if count > there:
        raise StoreError(
            f"{store.path} has {there} images with depth in its finished shards, {count} are asked "
            f"for: ask for at most {there}"
        )
    chosen: list[int] = []
    turn = 0
    while len(chosen) < count:
        chosen += [each[shard][turn] for shard in shards if turn < len(each[shard])]
        turn += 1
    return sorted(chosen[:count])


def _rows_of(store: Store, record: Record, seed: int) -> list[int]:
    """Rows with depth of one shard, shuffled."""
    bad = {int(number) for number in record.bad}
    stop = min(record.stop, len(store))
    known = [number for number in range(record.start, stop) if number not in bad]
    rng = np.random.default_rng([seed, record.shard])
    return [int(number) for number in rng.permutation(known)]
