"""The small, deterministic file that DVC tracks of a store: which bytes, but not when or where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.store.disk import as_json, write_atomically

if TYPE_CHECKING:
    from kdpipe.store.ledger import Record
    from kdpipe.store.metadata import StoreInfo


def write_manifest(path: Path, info: StoreInfo, records: Sequence[Record]) -> None:
    """Writes the manifest of a complete store.

    Args:
        path: artifacts/stores/<data>/<teacher>.json.
        info: of the store.
        records: one of every shard, in order.
    """
    values = {
        "data": info.data,
        "teacher": info.teacher,
        "fingerprint": info.fingerprint,
        "identity": info.digest,
        "rows": info.rows,
        "bad": sum(len(one.bad) for one in records),
        "bytes": sum(one.bytes for one in records),
        "shards": [
            {"rows": [one.start, one.stop], "row_digest": one.row_digest, "digest": one.digest}
            for one in records
        ],
    }
    content = as_json(values)
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
