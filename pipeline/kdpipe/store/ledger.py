"""The ledger: one record a shard; a shard counts when its record is there, and not before."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.errors import CardError, StoreError
from kdpipe.store import layout
from kdpipe.store.disk import as_json, create_exclusively, parse_json
from kdpipe.store.s3 import S3Path
from kdpipe.strict import build

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo

_SEAL = re.compile(rb'\n "seal": "([0-9a-f]{64})"')


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """One array's file of a shard."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one shard holds."""

    store: str
    """Digest of the store's identity: a record of another store is refused."""

    shard: int
    start: int
    stop: int
    """Row numbers [start, stop)."""

    row_digest: str
    """`Rows.digest` of these rows: ids, image digests, focal lengths, frames."""

    ids: tuple[str, ...]
    arrays: Mapping[str, FileDigest]
    statistics: Mapping[str, float] = field(default_factory=dict)
    """Of the known depths [m], and of how the teacher's own outputs agree."""

    bad: Mapping[str, str] = field(default_factory=dict)
    """Row number -> why it has no depth."""

    environment: Mapping[str, object] = field(default_factory=dict)
    """Machine, versions, seconds: never compared, different in every run."""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(one.bytes for one in self.arrays.values())

    @property
    def bad_ids(self) -> dict[str, str]:
        """Row id -> why it has no depth."""
        return {self.ids[int(number) - self.start]: why for number, why in self.bad.items()}

    @property
    def digest(self) -> str:
        """Of the shard's content, the same wherever and whenever it was taught."""
        lasting = {k: v for k, v in asdict(self).items() if k != "environment"}
        return hashlib.sha256(as_json(lasting)).hexdigest()

    @property
    def line(self) -> Line:
        """All but the rows' ids."""
        return Line(
            store=self.store,
            shard=self.shard,
            start=self.start,
            stop=self.stop,
            row_digest=self.row_digest,
            arrays=self.arrays,
            bad=self.bad,
            bad_ids=self.bad_ids,
            environment=self.environment,
            digest=self.digest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A record but for the ids of its rows: what is kept in memory of all shards at once."""

    store: str
    shard: int
    start: int
    stop: int
    row_digest: str
    arrays: Mapping[str, FileDigest]
    bad: Mapping[str, str]
    bad_ids: Mapping[str, str]
    environment: Mapping[str, object]
    digest: str
    """See Record."""

    @property
    def images(self) -> int:
        """Rows, bad ones included."""
        return self.stop - self.start

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(one.bytes for one in self.arrays.values())


def write_record(path: Path, record: Record, work: Path | None = None) -> bool:
    """Makes a shard count.

    Args:
        path: of the store.
        record: of the shard.
        work: the writer's own folder, which a successor takes away; see create_exclusively.

    Returns:
        False: another process's record is there already.

    Raises:
        FileNotFoundError: a successor took `work` away: the shard is not ours any more.
    """
    return create_exclusively(layout.record_path(path, record.shard), sealed(record), work)


def read_record(path: Path, shard: int) -> Record | None:
    """Reads the record of a shard; None where it is not finished.

    Raises:
        StoreError: the record is torn, a byte of it changed, or it is not of this shard.
    """
    where = layout.record_path(path, shard)
    try:
        record = build(Record, _unsealed(where), str(where))
    except FileNotFoundError:
        return None
    except CardError as error:
        raise StoreError(f"{error}; remove this record and teach again") from error
    if record.shard != shard or not _is_consistent(record):
        raise StoreError(f"{where} is of shard {record.shard}: remove this record and teach again")
    return record


def _is_consistent(record: Record) -> bool:
    rows = {str(number) for number in range(record.start, record.stop)} if record.bad else set()
    return len(record.ids) == record.stop - record.start and rows.issuperset(record.bad)


def finished(path: Path) -> list[int]:
    """Numbers of the shards that have a record, sorted."""
    if isinstance(path, S3Path):
        from kdpipe.store import s3_claims

        return s3_claims.finished(path)
    folder = layout.record_path(path, 0).parent
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = {one.name for one in entries}
    numbers = {int(name[:-5]) for name in names if name[:-5].isdecimal()}
    return sorted(one for one in numbers if layout.record_name(one) in names)


def check_record(path: Path, record: Record, info: StoreInfo) -> None:
    """Checks that a record is of this store and that its files are there, whole by their size.

    Raises:
        StoreError: names the file, with what was found and expected.
    """
    where = layout.record_path(path, record.shard)
    if record.store != info.digest:
        raise StoreError(
            f"{where} is of a store with identity {record.store}, this one has {info.digest}: "
            "remove this record and teach again"
        )
    for one in info.arrays:
        file = info.file(path, one.name, record.shard)
        expected = record.arrays[one.name].bytes if one.name in record.arrays else None
        size = file.stat().st_size if file.exists() else None
        if size is None or size != expected:
            raise StoreError(
                f"{file} {'is missing' if size is None else f'has {size} bytes'}, {expected} bytes "
                f"expected by its record: remove {where} and teach again"
            )


def sealed(record: Record) -> bytes:
    """A record's file: it carries the SHA-256 of its own other bytes, so that each of them counts.

    What a shard's files hold is proved by the record; this proves the record.
    """
    plain = as_json({**asdict(record), "seal": ""})
    seal = hashlib.sha256(plain).hexdigest().encode()
    return plain.replace(b'\n "seal": ""', b'\n "seal": "' + seal + b'"', 1)


def _content(where: Path) -> bytes:
    if not isinstance(where, S3Path):
        try:
            return where.read_bytes()
        except (IsADirectoryError, NotADirectoryError) as error:
            raise StoreError(
                f"{where} is no file ({error.strerror}), expected a shard's record: move it away "
                "and teach again"
            ) from error
    from kdpipe.store.s3_claims import recorded  # which knows how long a ledger's claim is

    record = recorded(where.read_bytes())
    if record is None:
        raise FileNotFoundError(str(where))
    return record


def _unsealed(where: Path) -> dict[str, object]:
    content = _content(where)
    values = parse_json(content, where)
    if "seal" not in values:
        return values  # the first stores' records have none
    del values["seal"]
    found = _SEAL.search(content)
    if found is not None:
        plain = content[: found.start(1)] + content[found.end(1) :]
        if hashlib.sha256(plain).hexdigest().encode() == found[1]:
            return values
    raise StoreError(
        f"{where}: its bytes are not those its seal is of, they changed on disk: "
        "remove this record and teach again"
    )
