"""What a store's metadata were, where one of its zarr.json files has changed: what most files say.

The root's attributes and the arrays' own zarr.json say most things twice, so that a damaged file
can be told from the others, and written again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from kdpipe.errors import StoreError
from kdpipe.store import layout
from kdpipe.store.disk import read_json
from kdpipe.store.metadata import documents
from kdpipe.store.shards import ArrayFormat, Packing

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo


@dataclass(frozen=True, kw_only=True)
class Remains:
    """What the arrays' own zarr.json say of a store."""

    rows: int
    shard_rows: int
    arrays: tuple[ArrayFormat, ...]
    """Depth and extent first, as in a root, then the others by name."""

    rule: str
    codecs: dict[str, object]
    """As in the store's identity."""


def settle(path: Path, info: StoreInfo) -> StoreInfo:
    """The rows and arrays that most files of a store agree with, in doubt those of its root.

    Args:
        path: of the store.
        info: what its root says.
    """
    own = read_remains(path)
    if own is None or (own.rows, own.arrays) == (info.rows, info.arrays):
        return info
    other = replace(info, rows=own.rows, arrays=own.arrays)
    return max((info, other), key=lambda one: _agreeing(path, one))


def read_remains(path: Path) -> Remains | None:
    """Reads the arrays' own zarr.json; None where one is damaged, or none is there."""
    arrays: list[ArrayFormat] = []
    rows: Counter[int] = Counter()
    shard_rows: Counter[int] = Counter()
    rule, codecs = "", {}
    for file in sorted([*path.glob("*/zarr.json"), *path.glob("*/*/zarr.json")]):
        try:
            node = cast("dict[str, Any]", read_json(file))
            if node["node_type"] != "array":
                continue
            name = file.parent.relative_to(path).as_posix()
            arrays.append(_format(name, node))
            rows[int(node["shape"][0])] += 1
            shard_rows[int(node["chunk_grid"]["configuration"]["chunk_shape"][0])] += 1
            rule = node["attributes"].get("rule", rule)
            if "codec" in node["attributes"]:
                codecs[name.partition("/")[0]] = node["attributes"]["codec"]
        except (AttributeError, IndexError, KeyError, StoreError, TypeError, ValueError):
            return None
    if not arrays:
        return None
    first = (layout.DEPTH, layout.EXTENT)
    return Remains(
        rows=rows.most_common(1)[0][0],
        shard_rows=shard_rows.most_common(1)[0][0],
        arrays=tuple(sorted(arrays, key=lambda one: (one.name not in first, one.name))),
        rule=str(rule),
        codecs=codecs,
    )


def _format(name: str, node: dict[str, Any]) -> ArrayFormat:
    shape, dimensions = tuple(node["shape"][1:]), tuple(node["dimension_names"][1:])
    chain = node["codecs"][0]["configuration"]["codecs"]
    for packing in cast("tuple[Packing, ...]", get_args(Packing)):
        one = ArrayFormat(name, str(node["data_type"]), shape, dimensions, packing)
        if one.codecs == chain:
            return one
    raise ValueError(f"{name} has other codecs than kdpipe's")


def _agreeing(path: Path, info: StoreInfo) -> int:
    try:
        expected = documents(info)
    except (KeyError, StoreError, TypeError, ValueError):
        return 0
    files = {name: layout.metadata_path(path, name) for name in expected}
    return sum(one.is_file() and one.read_bytes() == expected[name] for name, one in files.items())
