"""What a store is and holds, from its attributes and its ledger: O(shards), no array is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from kdpipe.store.consolidated import read_lines
from kdpipe.store.metadata import read_info
from kdpipe.store.summary import Summary, summary_of

if TYPE_CHECKING:
    from kdpipe.store.ledger import Line
    from kdpipe.store.metadata import StoreInfo

_EACH_SHARD = ("seconds", "forward_seconds", "finished", "run", "pid")
"""Of a record's environment, what differs from shard to shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayContents:
    """One array."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Rows first."""

    packing: str
    codec: Mapping[str, object] | None
    """What its integers mean, with its bound; None: plain numbers."""

    bytes: int
    bytes_per_image: float
    ratio: float
    """Bytes of as many float32 over its own; 0 while it is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A store at a glance."""

    path: Path
    identity: Mapping[str, object]
    """What wrote it; see identity.py."""

    identity_digest: str
    summary: Summary
    arrays: tuple[ArrayContents, ...]
    bad: Mapping[str, str]
    """Row id -> why it has no depth."""

    environment: Mapping[str, Sequence[object]]
    """Each value that the shards' machines, devices and libraries had."""

    first: str
    """When the first shard was finished, and the last; UTC."""

    last: str


def read_contents(path: Path) -> Contents:
    """Reads what a store is and holds.

    Raises:
        StoreError: there is no store, or a record is torn.
    """
    info = read_info(path)
    lines = read_lines(path)
    times = sorted(str(one.environment.get("finished", "")) for one in lines) or [""]
    return Contents(
        path=path,
        identity=info.identity,
        identity_digest=info.digest,
        summary=summary_of(info, lines),
        arrays=tuple(_arrays(info, lines)),
        bad={row: why for one in lines for row, why in one.bad_ids.items()},
        environment=_environment(lines),
        first=times[0],
        last=times[-1],
    )


def _arrays(info: StoreInfo, lines: Sequence[Line]) -> list[ArrayContents]:
    images = sum(one.images for one in lines)
    codecs = {
        name: _codec(info, name) for name in cast("dict[str, object]", info.identity["codecs"])
    }
    found = []
    for one in info.arrays:
        size = sum(line.arrays[one.name].bytes for line in lines if one.name in line.arrays)
        plain = images * int(np.prod(one.shape)) * 4
        is_coded = one.dtype.startswith("uint")
        found.append(
            ArrayContents(
                name=one.name,
                dtype=one.dtype,
                shape=(info.rows, *one.shape),
                packing=one.packing,
                codec=codecs.get(one.name.partition("/")[0]) if is_coded else None,
                bytes=size,
                bytes_per_image=size / images if images else 0.0,
                ratio=plain / size if size else 0.0,
            )
        )
    return found


def _codec(info: StoreInfo, name: str) -> dict[str, object]:
    """Name, parameters and bounds."""
    codec = info.codec(name)
    bounds = {one: getattr(codec, one) for one in dir(codec) if one.startswith("max_")}
    return {**codec.to_json(), **bounds}


def _environment(lines: Sequence[Line]) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for line in lines:
        for name, value in line.environment.items():
            if name not in _EACH_SHARD and value not in found.setdefault(name, []):
                found[name].append(value)
    return dict(sorted(found.items()))
