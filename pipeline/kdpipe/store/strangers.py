"""Files in a store that kdpipe did not write."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.store import layout, s3
from kdpipe.store.s3 import S3Path

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo


_CLAIM = re.compile(r"[0-9]{7,}\.[0-9]+\.json")
_WORK = re.compile(r"[0-9]{7,}\.[0-9a-z]+")


def strangers(path: Path, info: StoreInfo) -> Iterator[Path]:
    """Lists the files of a store's folder that no kdpipe wrote, sorted.

    Claims, work folders and the half-written small files of a killed process are kdpipe's own, and
    so are the arrays of a shard that has no record yet.

    Args:
        path: of the store.
        info: of the store.
    """
    nodes = {"", *(one.name for one in info.arrays)}
    nodes |= {name.rpartition("/")[0] for name in nodes}
    known = {str(layout.metadata_path(path, name)) for name in nodes}
    known.add(str(layout.consolidated_path(path)))
    records = str(layout.record_path(path, 0).parent)
    known.update(f"{records}/{layout.record_name(shard)}" for shard in range(info.shards))
    for one in info.arrays:
        array, dimensions = path / one.name, 1 + len(one.shape)
        shards = (layout.shard_name(shard, dimensions) for shard in range(info.shards))
        known.update(f"{array}/{shard}" for shard in shards)
    if isinstance(path, S3Path):
        for found in s3.listed(path):
            if not found.path.name.endswith(".tmp") and str(found.path) not in known:
                yield found.path
        return
    claims = str(layout.claim_path(path, 0, 0).parent)
    work = str(layout.work_dir(path, 0, "").parent)
    for folder, folders, names in os.walk(path):
        folders.sort()
        if folder == work:
            folders[:] = [one for one in folders if not _WORK.fullmatch(one)]
        for name in sorted(names):
            is_half = name.startswith(".") and name.endswith(".tmp")
            is_claim = folder == claims and _CLAIM.fullmatch(name)
            if not is_half and not is_claim and f"{folder}/{name}" not in known:
                yield Path(folder, name)
