"""Which shards are missing, and whether what is there may be added to."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kdpipe.codecs import Codec, Companded, Log16, LogBinomial, codec_of
from kdpipe.errors import StaleStoreError, StoreError
from kdpipe.nets.zoedepth_sizes import Sizes
from kdpipe.store import identity as identities
from kdpipe.store import layout
from kdpipe.store.consolidated import known_lines, read_lines
from kdpipe.store.disk import disk_errors
from kdpipe.store.inspection import file_stamps, is_whole
from kdpipe.store.ledger import Line, Record, check_record, finished, read_record
from kdpipe.store.metadata import StoreInfo, create_info, formats, read_info, write_info
from kdpipe.store.s3 import S3Path, check_conditions
from kdpipe.strict import build

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard
    from kdpipe.params import StoreParams
    from kdpipe.rows import Rows
    from kdpipe.teaching.measuring import Measure
    from kdpipe.teaching.weights import Weights

log = logging.getLogger(__name__)

_LEAST_SHARD_ROWS = 8
_SHARDS_OF_A_SMALL_SET = 16
_BEYOND = 4
"""Times a card's max_depth that a store can hold: not every network keeps below it, and codes that
are not used cost nothing."""

_UNITLESS = (1e-3, 1e5)
"""What a store can hold of a relative teacher, whose disparity has no unit; 0 is unknown there."""

_GUESSED_PACKING = {"pcodec": 4, "delta-pcodec": 4, "zstd": 8, "zstd-pixels": 25, "none": 1}
"""Raw bytes of one stored byte, before a finished shard tells."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to do for one store."""

    info: StoreInfo
    missing: tuple[int, ...]
    """Shards to be taught, in order."""

    kept: tuple[Line, ...] = field(default=())
    """Finished shards that stay, in order."""

    @property
    def images(self) -> int:
        """Of the missing shards."""
        return sum(stop - start for start, stop in map(self.info.rows_of, self.missing))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is taught: it decides the bytes of the store."""

    card: TeacherCard
    rows: Rows
    weights: Weights
    params: StoreParams

    def identity(self, rule: str, shard_rows: int | None = None) -> identities.Identity:
        """The identity that this command would give a store.

        Args:
            rule: native map to frame, as the teacher says.
            shard_rows: images in a shard; None: as a new store would have.
        """
        card, params = self.card, self.params
        near, far = (card.min_depth, _BEYOND * card.max_depth) if card.is_metric else _UNITLESS
        depth = Log16(near, far, params.max_relative_error)
        codecs: dict[str, Codec] = {"depth": depth}
        bins = _bins_codec(card)
        if bins is not None and params.bins:
            codecs["bins"] = bins
        return identities.identity_of(
            card,
            self.rows.card,
            weights={"sha256": self.weights.sha256, "source": self.weights.source},
            rule=rule,
            codecs=codecs,
            precision=params.precision,
            shard_rows=shard_rows or _shard_rows(len(self.rows), params.shard_rows),
        )


def draft(identity: identities.Identity, length: int, seen: Measure) -> StoreInfo:
    """A store of so many rows that is not made yet, its shapes as measured."""
    codecs = cast("Mapping[str, object]", identity["codecs"])
    bins: int | LogBinomial | None = None
    if "bins" in codecs:
        codec = codec_of(cast("Mapping[str, object]", codecs["bins"]), "bins")
        bins = codec if isinstance(codec, LogBinomial) else seen.bins
    return StoreInfo(identity=identity, rows=length, arrays=formats(seen.native, bins))


def establish(path: Path, info: StoreInfo) -> StoreInfo:
    """Makes a store, or gives the one that is there its new length; the last step of a plan.

    Returns:
        The attributes of the store that is there now: another process may have made it longer.

    Raises:
        StaleStoreError: another process made it just now, of another identity.
        StoreError: the disk refuses.
    """
    with disk_errors(path):
        is_there = layout.metadata_path(path).exists()
        there = read_info(path) if is_there else create_info(path, info)
        identities.compare(path, there.identity, info.identity)
        if there.rows < info.rows:
            there = replace(there, rows=info.rows)
            write_info(path, there)
    return there


def open_existing(path: Path, subject: Subject, length: int) -> StoreInfo | None:
    """The store that is there, if this command may add to it; None where there is none.

    A data set that grew gives it a new length, which `establish` writes.

    Args:
        path: of the store.
        subject: what this command would teach.
        length: rows that the store should have at least.

    Raises:
        StaleStoreError: another teacher, other weights, a codec, or other rows wrote it.
        StoreError: what is there is no store of this format.
    """
    if not layout.metadata_path(path).exists():
        return None
    info = read_info(path)
    shard = min(info.shard_rows, subject.params.shard_rows)
    identities.compare(path, info.identity, subject.identity(info.rule, shard))
    if len(subject.rows) < info.rows:
        raise StaleStoreError(
            f"{path}: it was made for {info.rows} rows, the data set has {len(subject.rows)} now: "
            f"index all of it, or `kdpipe store rm {path}` and teach again"
        )
    return replace(info, rows=max(length, info.rows))


def make_plan(
    path: Path,
    info: StoreInfo,
    rows: Rows,
    *,
    shards: tuple[int, int] | None = None,
    limit: int | None = None,
    retry_bad: bool = False,
) -> Plan:
    """Compares the ledger with the rows.

    Args:
        path: of the store.
        info: of the store.
        rows: of the data set.
        shards: consider these only, [first, last); None: all.
        limit: consider shards of the first rows only.
        retry_bad: teach shards with bad images again.

    Raises:
        StaleStoreError: rows of a finished shard were reordered or edited.
        StoreError: a record is torn, or `shards` lies outside the store.
    """
    if shards is not None and not 0 <= shards[0] < shards[1] <= info.shards:
        raise StoreError(
            f"shards {shards[0]}:{shards[1]} asked for, {path} has 0:{info.shards}: "
            "give a range inside it"
        )
    first, last = shards or (0, info.shards)
    if limit is not None:
        last = min(last, -(-limit // info.shard_rows))
    done, lines, kept, missing = set(finished(path)), known_lines(path), [], []
    stamps = file_stamps(path, info) if lines else {}
    for shard in range(first, last):
        line = lines.get(shard)
        if line is not None and not (is_whole(line, info, stamps) and _has_rows(line, rows)):
            line = None  # its record says what is wrong
        if line is None and shard in done:
            record = find_finished(path, shard, info, rows)
            line = record.line if record else None
        if line is None or is_again(line, info, retry_bad):
            missing.append(shard)
        else:
            kept.append(line)
    return Plan(info=info, missing=tuple(missing), kept=tuple(kept))


def find_finished(path: Path, shard: int, info: StoreInfo, rows: Rows) -> Record | None:
    """The record of a shard whose files are there; None where there is none that could stay.

    Raises:
        StaleStoreError: its rows were reordered or edited.
        StoreError: the record is torn.
    """
    record = read_record(path, shard)
    if record is None or not _is_whole(path, record, info):
        return None
    check_rows(path, record, rows)
    return record


def is_again(one: Line | Record, info: StoreInfo, retry_bad: bool) -> bool:
    """Whether a finished shard is taught again: it is a tail that grew, or has bad images."""
    return one.stop < info.rows_of(one.shard)[1] or (retry_bad and bool(one.bad))


def check_rows(path: Path, record: Record, rows: Rows) -> None:
    """Refuses a shard whose rows are not those of the data set as it is now.

    Args:
        path: of the store.
        record: of the shard.
        rows: of the data set.

    Raises:
        StaleStoreError: names the first row that differs.
    """
    if _has_rows(record, rows):
        return
    now = [one.id for one in rows[record.start : record.stop]]
    for number, (before, after) in enumerate(_pairs(record.ids, now), record.start):
        if before != after:
            found = "the data set has no such row now" if after is None else f"now it is {after!r}"
            raise StaleStoreError(
                f"{path}: row {number} was {before!r}, {found}: rows may only be added at the "
                f"end; restore their order, or `kdpipe store rm {path}` and teach again"
            )
    raise StaleStoreError(
        f"{path}: an image, frame or focal length of rows {record.start}..{record.stop - 1} is "
        f"another one than was taught: restore it, or `kdpipe store rm {path}` and teach again"
    )


def check_space(path: Path, plan: Plan) -> None:
    """Looks before a long run whether its result will fit on the disk.

    Raises:
        StoreError: it will not.
    """
    images = sum(one.images for one in plan.kept)
    taught = sum(one.bytes for one in plan.kept)
    guess = sum(one.raw_bytes / _GUESSED_PACKING[one.packing] for one in plan.info.arrays)
    row = taught / images if images else guess
    needed, where = int(row * plan.images), path.absolute().parent
    if isinstance(path, S3Path):  # a shard grows here before it is put there
        needed, where = int(row * plan.info.shard_rows), Path(tempfile.gettempdir())
        check_conditions(path)
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    if needed > free:
        raise StoreError(
            f"{where} has {_said(free)} free, about {_said(needed)} are needed for "
            f"{plan.images} images: make room, or teach fewer with --limit"
        )


def complete_lines(path: Path, info: StoreInfo) -> list[Line] | None:
    """The ledger of a complete store, in order; None where a shard is missing or too short."""
    if not set(finished(path)).issuperset(range(info.shards)):
        return None
    lines = [one for one in read_lines(path) if one.shard < info.shards]
    whole = [one for one in lines if one.stop == info.rows_of(one.shard)[1]]
    return whole if len(whole) == info.shards else None


def _said(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def _bins_codec(card: TeacherCard) -> Companded | LogBinomial | None:
    """How the card's kind of distribution is kept."""
    if card.bins == "companded":
        return Companded()
    if card.bins == "none":
        return None
    sizes = build(Sizes, card.network, f"teachers/{card.name}: network")
    span = (card.min_depth, card.max_depth) if sizes.centers == "normed" else None
    return LogBinomial(bins=sizes.bins, attractors=sizes.points, span=span)


def _is_whole(path: Path, record: Record, info: StoreInfo) -> bool:
    try:
        check_record(path, record, info)
    except StoreError as error:
        log.warning("%s: shard %d is taught again: %s", path, record.shard, error)
        return False
    return True


def _has_rows(one: Line | Record, rows: Rows) -> bool:
    return one.stop <= len(rows) and rows.digest(one.start, one.stop) == one.row_digest


def _pairs(before: Iterable[str], now: list[str]) -> Iterable[tuple[str, str | None]]:
    for at, one in enumerate(before):
        yield one, now[at] if at < len(now) else None


def _shard_rows(rows: int, largest: int) -> int:
    """Images in a shard: fewer than `largest` for a small set, so that workers have a share."""
    wanted = _LEAST_SHARD_ROWS
    while wanted * _SHARDS_OF_A_SMALL_SET < rows:
        wanted *= 2
    return min(wanted, largest)
