"""One image = one row: the Parquet schema, read and write.

Row number in the file = index in a store = index in a Dataset. Paths are relative to the data
set's root, which the file's metadata holds together with the data card.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdpipe.cards import DataCard
from kdpipe.errors import DataError
from kdpipe.strict import build


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One image, and what is known of it."""

    id: str
    """Image path relative to the root without extension; unique in the data set."""

    split: str
    image: str
    """Relative to the root, with forward slashes; `file.mat#17` is image 17, from 0, of a file."""

    truth: str | None = None
    """Measured depth, likewise; None: unlabelled."""

    truth_scale: float = 1.0
    """Metres of one unit of the depth file."""

    labels: str | None = None
    """Semantic classes, likewise."""

    image_height: int
    """Pixels of the file."""

    image_width: int
    top: int = 0
    """Where the frame lies in the file [pixels]."""

    left: int = 0
    height: int
    """Of the frame: what a teacher sees and what a store's maps are brought to [pixels]."""

    width: int
    fx: float | None = None
    """Focal lengths and principal point in the frame [pixels]."""

    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    image_digest: str = ""
    """SHA-256 of the image file's bytes, 16 hex digits."""

    bytes: int = 0
    """Of the image file, and its time of change: an unchanged file is not read again."""

    mtime_ns: int = 0
    truth_bytes: int = 0
    """Likewise of the depth file."""

    truth_mtime_ns: int = 0


_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("image", pa.string()),
        ("truth", pa.string()),
        ("truth_scale", pa.float64()),
        ("labels", pa.string()),
        ("image_height", pa.int32()),
        ("image_width", pa.int32()),
        ("top", pa.int32()),
        ("left", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("fx", pa.float64()),
        ("fy", pa.float64()),
        ("cx", pa.float64()),
        ("cy", pa.float64()),
        ("image_digest", pa.string()),
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("truth_bytes", pa.int64()),
        ("truth_mtime_ns", pa.int64()),
    ]
)


_AT_ONCE = 16_384
"""Rows that are text at a time."""


class Rows(Sequence[Row]):
    """The rows of one data set, backed by an Arrow table: a million rows are a few hundred MB."""

    def __init__(self, card: DataCard, root: Path, table: pa.Table) -> None:
        self.card = card
        self.root = root
        """Folder that all paths are relative to; itself as given to `index`."""
        self.table = table
        self._cut: tuple[int, _Text] = (-1, _Text(table.slice(0, 0)))
        """Number and text of the block of rows that `digest` was last asked for."""

    def __getstate__(self) -> dict[str, object]:
        return {"card": self.card, "root": self.root, "table": self.table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.card.name

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        """Row `index`; a slice gives a list of rows."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {self.name}, which has {len(self)}")
        at = index % len(self)
        return Row(**{name: self.table[name][at].as_py() for name in _SCHEMA.names})

    def of_split(self, split: str) -> list[int]:
        """Row numbers of a split, in order.

        Raises:
            DataError: the split has no row.
        """
        found: list[int] = pc.indices_nonzero(pc.equal(self.table["split"], split)).to_pylist()
        if not found:
            known = ", ".join(sorted(self.table["split"].unique().to_pylist())) or "none"
            raise DataError(f"{self.name} has no row of split {split!r}. Splits: {known}.")
        return found

    def digest(self, start: int, stop: int) -> str:
        """Identity of rows start..stop: ids, image digests, focal lengths, frames."""
        names = ("id", "image_digest", "fx", "top", "left", "height", "width")
        whole = hashlib.sha256(b"[")
        for block in range(start // _AT_ONCE, -(-stop // _AT_ONCE)):
            at = block * _AT_ONCE
            there, text = self._cut
            if block != there:  # the shards of a store come one after the other
                text = _Text(self.table.slice(at, _AT_ONCE).select(names))
                self._cut = (block, text)
            whole.update(text.of(max(start - at, 0), min(stop - at, _AT_ONCE)))
            whole.update(b", " if at + _AT_ONCE < stop else b"")
        whole.update(b"]")
        return whole.hexdigest()[:16]


class _Text:
    """Rows as the standard library would write them as JSON, made by columns."""

    def __init__(self, table: pa.Table) -> None:
        parts: list[object] = []
        for name in sorted(table.column_names):
            column = _json_column(table[name].combine_chunks())
            parts += [f'{", " if parts else "{"}"{name}": ', column]
        lines = pc.binary_join_element_wise(*parts, "}, ", "")
        _, ends, self._bytes = lines.buffers()
        self._ends = np.frombuffer(ends, np.int32)[: len(lines) + 1] if len(lines) else [0]

    def of(self, start: int, stop: int) -> bytes:
        """Of rows [start, stop), which are some, without brackets."""
        first, last = int(self._ends[start]), int(self._ends[stop])
        text: bytes = self._bytes[first : last - len(", ")].to_pybytes()
        return text


def json_of(table: pa.Table) -> Iterator[bytes]:
    """What `json.dumps(table.to_pylist(), sort_keys=True)` gives, in pieces and by columns.

    A million rows take a second so, and no memory to speak of.
    """
    between = b"["
    for start in range(0, len(table), _AT_ONCE):
        part = table.slice(start, _AT_ONCE)
        yield between
        yield _Text(part).of(0, len(part))
        between = b", "
    yield b"]" if len(table) else b"[]"


def _json_column(column: pa.Array) -> pa.Array:
    if pa.types.is_integer(column.type):
        return pc.fill_null(column.cast(pa.string()), "null")
    is_text = pa.types.is_string(column.type)
    if is_text and not pc.any(pc.match_substring_regex(column, r'["\\]|[^ -~]')).as_py():
        quoted = pc.binary_join_element_wise('"', column, '"', "")
        return pc.fill_null(quoted, "null")
    coded = column.dictionary_encode(null_encoding="encode")
    texts = pa.array([json.dumps(one) for one in coded.dictionary.to_pylist()], pa.string())
    return texts.take(coded.indices)


def make_rows(card: DataCard, root: Path, rows: Iterable[Row]) -> Rows:
    """Puts rows together; their order is their number.

    Raises:
        DataError: two rows have one id, or a path leaves the root.
    """
    listed, seen = list(rows), set[str]()
    for one in listed:
        if one.id in seen:
            raise DataError(f"{card.name}: two rows have the id {one.id!r}; ids must be unique")
        seen.add(one.id)
        for path in (one.image, one.truth, one.labels):
            if path is not None:
                check_inside(path)
    columns = {name: [getattr(one, name) for one in listed] for name in _SCHEMA.names}
    return Rows(card, root, pa.table(columns, schema=_SCHEMA))


def check_inside(path: str) -> None:
    """Refuses a path that is absolute or climbs out of the data set's root.

    Raises:
        DataError: it does.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise DataError(f"path {path!r} leaves the data set's folder; paths must lie inside it")


def write_rows(path: Path, rows: Rows) -> None:
    """Writes a rows file, whole or not at all."""
    about = {"card": json.dumps(asdict(rows.card)), "root": str(rows.root)}
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(rows.table.replace_schema_metadata(about), half)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def read_rows(path: Path) -> Rows:
    """Reads a rows file.

    Raises:
        DataError: it is missing, or no rows file.
    """
    try:
        # Without threads: one that starts late aborts a command that is short.
        table = pq.read_table(path, use_threads=False)
        about = table.schema.metadata or {}
        card = build(DataCard, json.loads(about[b"card"]), str(path))
        return Rows(card, Path(about[b"root"].decode()), table.select(_SCHEMA.names))
    except FileNotFoundError as error:
        name = path.stem
        raise DataError(f"{path} is missing: run `kdpipe index --data {name}` first") from error
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:  # OSError: a torn footer
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a rows file of kdpipe ({reason}); index again") from error
