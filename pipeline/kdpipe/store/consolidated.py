"""The ledger of a complete store as one Parquet file, a line a shard: read at once, not by shards.

The records stay, and they alone make a shard count. A line is believed only while its record is
there and is the one that was copied: of the same size and time of change, or else of the same
SHA-256. So a shard that is taught again, a record that is taken away, a file out of another store
or of before a crash are never read for what they are not; the record is read then. That the file
itself is whole is proved by the SHA-256 of its own other bytes, which it carries.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kdpipe.store import layout
from kdpipe.store.disk import disk_errors, write_atomically
from kdpipe.store.ledger import FileDigest, Line, Record, finished, read_record
from kdpipe.store.listing import Stamp, listing, stamp_of

_SEAL = re.compile(rb"kdpipe\.seal\x18@([0-9a-f]{64})")
"""Key, Thrift's compact `field 2, 64 bytes`, value: so it lies in the footer of a Parquet file."""

_UNSEALED = "0" * 64
_FILES = pa.map_(pa.string(), pa.struct([("bytes", pa.int64()), ("sha256", pa.string())]))
_BAD = pa.list_(pa.struct([("row", pa.int64()), ("id", pa.string()), ("reason", pa.string())]))
_SCHEMA = pa.schema(
    [
        ("store", pa.string()),
        ("shard", pa.int64()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("row_digest", pa.string()),
        ("ids", pa.list_(pa.string())),
        ("arrays", _FILES),
        ("statistics", pa.map_(pa.string(), pa.float64())),
        ("bad", _BAD),
        ("environment", pa.string()),
        ("digest", pa.string()),
        ("record_bytes", pa.int64()),
        ("record_mtime_ns", pa.int64()),
        ("record_sha256", pa.string()),
    ]
)
"""A record's fields, its environment as JSON, its digest; then the record's own file."""

_PROOF = ("record_bytes", "record_mtime_ns", "record_sha256")


def read_lines(path: Path) -> list[Line]:
    """What the finished shards of a store hold, in order.

    Raises:
        StoreError: a record is torn.
    """
    lines = known_lines(path)
    for shard in finished(path):
        if shard not in lines and (record := read_record(path, shard)) is not None:
            lines[shard] = record.line
    return [lines[shard] for shard in sorted(lines)]


def read_ids(path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """First row number and row ids of each finished shard, in order.

    Raises:
        StoreError: a record is torn.
    """
    table = _believed(path, ("shard", "start", "ids"))
    places = {} if table is None else {n: at for at, n in enumerate(table["shard"].to_pylist())}
    for shard in finished(path):
        at = places.get(shard)
        if table is not None and at is not None:
            yield table["start"][at].as_py(), table["ids"][at].as_py()
        elif (record := read_record(path, shard)) is not None:
            yield record.start, record.ids


def known_lines(path: Path) -> dict[int, Line]:
    """What is believed of a store's consolidated ledger, by shard; no record is read for it."""
    table = _believed(path, [name for name in _SCHEMA.names if name not in ("ids", "statistics")])
    if table is None:
        return {}
    columns = {one: table[one].to_pylist() for one in table.column_names if one != "arrays"}
    files = _files(table["arrays"].combine_chunks())
    lines = {}
    for at, arrays in enumerate(files):
        bad = columns["bad"][at]
        lines[columns["shard"][at]] = Line(
            store=columns["store"][at],
            shard=columns["shard"][at],
            start=columns["start"][at],
            stop=columns["stop"][at],
            row_digest=columns["row_digest"][at],
            arrays=arrays,
            bad={str(one["row"]): one["reason"] for one in bad},
            bad_ids={one["id"]: one["reason"] for one in bad},
            environment=json.loads(columns["environment"][at]),
            digest=columns["digest"][at],
        )
    return lines


def consolidate(path: Path) -> None:
    """Writes the consolidated ledger of a complete store; one that is up to date stays.

    Args:
        path: of the store.

    Raises:
        StoreError: a record is torn, or the disk refuses.
    """
    stamps, table = _stamps(path), _believed(path, _SCHEMA.names)
    parts = [] if table is None else [table]
    known = set() if table is None else set(table["shard"].to_pylist())
    if table is not None and known == stamps.keys() and _has_stamps(table, stamps):
        return
    rest = sorted(stamps.keys() - known)
    for start in range(0, len(rest), 256):  # Arrow's columns are smaller than records
        values = [
            one
            for shard in rest[start : start + 256]
            if (one := _values(path, shard, stamps[shard])) is not None
        ]
        parts.append(pa.Table.from_pylist(values, schema=_SCHEMA))
    whole = pa.concat_tables(parts).sort_by("shard") if parts else _SCHEMA.empty_table()
    with disk_errors(path):
        write_atomically(layout.consolidated_path(path), _sealed(_restamped(whole, stamps)))


def what_is_wrong(path: Path, store: str, records: Iterable[Record] = ()) -> str | None:
    """What a consolidated ledger is that it should not be; None: it is sound, or there is none.

    One that is older than the records is sound: it is not believed where it is.

    Args:
        path: of the store.
        store: digest of the store's identity.
        records: that are there now, to be compared with its lines one by one.
    """
    content = _read(path)
    if content is None:
        return None
    if _seal_of(content) is None:
        return "bytes that its seal is not of"
    table = _table(content, _SCHEMA.names)
    if table is None:
        return "other columns"
    others = set(table["store"].to_pylist()) - {store}
    if others:
        return f"lines of a store with identity {min(others)}"
    places = {number: at for at, number in enumerate(table["shard"].to_pylist())}
    for one in records:
        at = places.get(one.shard)
        if at is None:
            continue
        (said,) = table.slice(at, 1).to_pylist(maps_as_pydicts="strict")
        if _is_record(path, said) and any(said[k] != v for k, v in _fields(one).items()):
            return f"another line of shard {one.shard} than its record"
    return None


def _believed(path: Path, names: Sequence[str]) -> pa.Table | None:
    """Those lines whose record is the one that was copied."""
    content = _read(path)
    if content is None or _seal_of(content) is None:
        return None
    table = _table(content, [*dict.fromkeys((*names, "shard", *_PROOF))])
    if table is None:
        return None
    stamps = _stamps(path)
    proofs = zip(*(table[one].to_pylist() for one in ("shard", *_PROOF)), strict=True)
    believed = [
        stamps.get(shard) == Stamp(size, changed)
        or (
            shard in stamps
            and stamps[shard].bytes == size
            and _sha256(layout.record_path(path, shard)) == sha256
        )
        for shard, size, changed, sha256 in proofs
    ]
    return table if all(believed) else table.filter(pa.array(believed, pa.bool_()))


def _read(path: Path) -> bytes | None:
    try:
        return layout.consolidated_path(path).read_bytes()
    except OSError:
        return None


def _seal_of(content: bytes) -> bytes | None:
    """The seal, if the content is what it is of."""
    places = list(_SEAL.finditer(content))
    if not places:
        return None
    found = places[-1]  # the footer is at the end
    plain = hashlib.sha256(content[: found.start(1)])
    plain.update(_UNSEALED.encode())
    plain.update(content[found.end(1) :])
    return found[1] if plain.hexdigest().encode() == found[1] else None


def _table(content: bytes, names: Sequence[str]) -> pa.Table | None:
    schema = pa.schema([_SCHEMA.field(name) for name in names])
    try:
        # Without Arrow's threads: one that still starts while a short command ends aborts it.
        table = pq.ParquetFile(pa.BufferReader(content)).read(list(names), use_threads=False)
        return table.select(list(names)).cast(schema)
    except (KeyError, OSError, ValueError):  # pyarrow's own errors are ValueErrors
        return None


def _sealed(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink, _SCHEMA, compression="zstd", use_dictionary=False, store_schema=False
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"kdpipe.seal": _UNSEALED})
    content = sink.getvalue()
    *_, found = _SEAL.finditer(content)
    seal = hashlib.sha256(content).hexdigest().encode()
    return content[: found.start(1)] + seal + content[found.end(1) :]


def _stamps(path: Path) -> dict[int, Stamp]:
    """Size and time of change of each shard's record."""
    stamps = {}
    for name, stamp in listing(layout.record_path(path, 0).parent).items():
        number = name.removesuffix(".json")
        if number.isdecimal() and name == layout.record_name(int(number)):
            stamps[int(number)] = stamp
    return stamps


def _has_stamps(table: pa.Table, stamps: Mapping[int, Stamp]) -> bool:
    changed = zip(table["shard"].to_pylist(), table["record_mtime_ns"].to_pylist(), strict=True)
    return all(stamps[shard].mtime_ns == time for shard, time in changed)


def _restamped(table: pa.Table, stamps: Mapping[int, Stamp]) -> pa.Table:
    """With the times that the records have now: a copied store's are younger."""
    times = [stamps[shard].mtime_ns for shard in table["shard"].to_pylist()]
    at = table.column_names.index("record_mtime_ns")
    return table.set_column(at, "record_mtime_ns", pa.array(times, pa.int64()))


def _values(path: Path, shard: int, stamp: Stamp) -> dict[str, Any] | None:
    """A line, from the shard's record; None where it was taken away or replaced just now."""
    record, sha256 = read_record(path, shard), _sha256(layout.record_path(path, shard))
    if record is None or sha256 is None or stamp_of(layout.record_path(path, shard)) != stamp:
        return None
    proof = {"record_bytes": stamp.bytes, "record_mtime_ns": stamp.mtime_ns}
    return {**_fields(record), **proof, "record_sha256": sha256}


def _fields(record: Record) -> dict[str, Any]:
    """All that a line says of a record, but for the proof."""
    return {
        "store": record.store,
        "shard": record.shard,
        "start": record.start,
        "stop": record.stop,
        "row_digest": record.row_digest,
        "ids": list(record.ids),
        "arrays": {k: {"bytes": v.bytes, "sha256": v.sha256} for k, v in record.arrays.items()},
        "statistics": dict(record.statistics),
        "bad": [
            {"row": int(number), "id": record.ids[int(number) - record.start], "reason": why}
            for number, why in record.bad.items()
        ],
        "environment": json.dumps(dict(record.environment), sort_keys=True),
        "digest": record.digest,
    }


def _files(column: pa.MapArray) -> Iterator[dict[str, FileDigest]]:
    names, items, ends = column.keys.to_pylist(), column.items, column.offsets.to_pylist()
    sizes, digests = items.field("bytes").to_pylist(), items.field("sha256").to_pylist()
    for start, stop in pairwise(ends):
        yield {
            names[at]: FileDigest(bytes=sizes[at], sha256=digests[at]) for at in range(start, stop)
        }


def _is_record(path: Path, said: Mapping[str, Any]) -> bool:
    return _sha256(layout.record_path(path, int(said["shard"]))) == str(said["record_sha256"])


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
