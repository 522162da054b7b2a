"""The small, deterministic file that DVC tracks of a store: which bytes, but not when or where."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.store import layout
from kdpipe.store.disk import as_json, write_atomically
from kdpipe.store.s3 import S3Path

if TYPE_CHECKING:
    from kdpipe.store.ledger import Line, Record
    from kdpipe.store.metadata import StoreInfo


def manifest_beside(path: Path) -> Path:
    """Where the manifest of a store is: T.json beside T.zarr, for DVC also where that is on S3."""
    data, teacher = path.parent.name, path.stem
    if isinstance(path, S3Path) and path == layout.store_path(data, teacher):
        return layout.manifest_path(data, teacher)
    # A copy called T.bak is another store than T.zarr: it must not share its manifest.
    return path.with_suffix(".json") if path.suffix == ".zarr" else Path(f"{path}.json")


def read_manifest(path: Path) -> dict[str, object] | None:
    """Reads the manifest of a store; None where there is none, or one that is torn."""
    try:
        values = json.loads(manifest_beside(path).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def manifest_of(info: StoreInfo, lines: Sequence[Line | Record]) -> bytes:
    """What the manifest of a complete store holds.

    Args:
        info: of the store.
        lines: of the ledger, one of every shard, in order.
    """
    values = {
        "data": info.data,
        "teacher": info.teacher,
        "fingerprint": info.fingerprint,
        "identity": info.digest,
        "rows": info.rows,
        "bad": sum(len(one.bad) for one in lines),
        "bytes": sum(one.bytes for one in lines),
        "shards": [
            {"rows": [one.start, one.stop], "row_digest": one.row_digest, "digest": one.digest}
            for one in lines
        ],
    }
    return as_json(values)


def write_manifest(path: Path, info: StoreInfo, lines: Sequence[Line | Record]) -> None:
    """Writes the manifest of a complete store; the same one is left as it is.

    Args:
        path: artifacts/stores/<data>/<teacher>.json.
        info: of the store.
        lines: of the ledger, one of every shard, in order.
    """
    content = manifest_of(info, lines)
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
