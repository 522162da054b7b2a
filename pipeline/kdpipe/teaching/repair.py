"""What `verify` named, made whole again: metadata from the identity, shards by the same teacher."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kdpipe.datasets import read_image
from kdpipe.errors import DataError, StaleStoreError, StoreError
from kdpipe.store import layout
from kdpipe.store.claims import tidy
from kdpipe.store.consensus import settle
from kdpipe.store.consolidated import consolidate
from kdpipe.store.disk import disk_errors
from kdpipe.store.ledger import Record, finished, read_record
from kdpipe.store.manifest import manifest_beside, read_manifest, write_manifest
from kdpipe.store.metadata import StoreInfo, read_info, write_info
from kdpipe.store.removal import remove_shard
from kdpipe.store.verify import Verified, verify
from kdpipe.teaching import Options, make_pool
from kdpipe.teaching import plan as plans
from kdpipe.teaching.progress import Progress
from kdpipe.teaching.source import Source, restore_root, subject_of
from kdpipe.teaching.tally import raise_what_failed
from kdpipe.teaching.worker import Assignment

if TYPE_CHECKING:
    from kdpipe.rows import Rows
    from kdpipe.store.inspection import Problem
    from kdpipe.teaching.plan import Subject

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What `repair` did."""

    path: Path
    problems: tuple[Problem, ...]
    """That `verify` saw before."""

    rewritten: tuple[Path, ...]
    """Each zarr.json and one-file ledger that was damaged, and the manifest if it was, or has
    changed."""

    shards: tuple[int, ...]
    """Taught again."""

    images: int
    """Of these."""

    changed: tuple[int, ...]
    """Of these, have other bytes than before: another device, batch size or number of threads."""

    left: tuple[Problem, ...]
    """Files that kdpipe did not write, and leaves to who did."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _Before:
    """What is known of a broken shard as it was; None: not known."""

    stop: int | None = None
    row_digest: str | None = None
    digest: str | None = None
    bad: frozenset[str] | None = None
    """Numbers of its rows without depth."""


def repair(
    path: Path,
    *,
    source: Source | None = None,
    options: Options | None = None,
) -> Repaired:
    """Mends a store; what is whole stays as it is.

    The record of a broken shard goes first, so that nothing broken ever counts as done; then the
    shard is taught again. Killed in between, the same command or `teach` goes on.

    Args:
        path: of the store.
        source: where the teacher comes from.
        options: how fast and where; None: in this process, in batches as they were.

    Raises:
        ClaimError: another process is teaching a broken shard.
        StaleStoreError: card, weights or rows are not those that the store is of.
        StoreError: the root is lost and nothing says what it was, the store was imported, an image
            is gone that a broken shard has depth of, the disk is full, or a shard failed again and
            again.
    """
    began, source = time.perf_counter(), source or Source()
    log.info("%s: looking for what is broken", path)
    found = verify(path)
    problems = found.problems
    rewritten = [one.file for one in problems if one.kind == "metadata"]
    info = _mend_metadata(path, found, source) if rewritten else read_info(path)
    if layout.metadata_path(path) in rewritten:  # all else was compared with it
        found = verify(path)
        problems = tuple(dict.fromkeys((*problems, *found.problems)))
    changed: tuple[int, ...] = ()
    if found.broken:
        options = options or Options(workers=0, batch_size=batch_size_of(path))
        changed = _teach_again(path, info, found.broken, source, options)
    if changed or any(one.kind == "manifest" for one in found.problems):
        rewritten.append(manifest_beside(path))
    ledgers = [one.file for one in found.problems if one.kind == "ledger"]
    for one in ledgers:  # the records say all that it said
        one.unlink(missing_ok=True)
    if found.broken or ledgers or manifest_beside(path) in rewritten:
        _renew_manifest(path, info)
    return Repaired(
        path=path,
        problems=problems,
        rewritten=(*rewritten, *ledgers),
        shards=found.broken,
        images=_images(info, found.broken),
        changed=changed,
        left=tuple(one for one in found.problems if one.kind == "stranger"),
        seconds=time.perf_counter() - began,
    )


def batch_size_of(path: Path) -> int:
    """Images of a forward pass when a store was taught: the same sums give the same bits."""
    for shard in finished(path):
        record = _readable(path, shard)
        size = None if record is None else record.environment.get("batch_size")
        if isinstance(size, int) and size > 0:
            return size
    return Options().batch_size


def _mend_metadata(path: Path, found: Verified, source: Source) -> StoreInfo:
    try:
        info = settle(path, read_info(path))
        is_lost = info.digest != found.identity
    except StoreError:
        is_lost = True
    if is_lost:
        info = restore_root(path, found.identity, source)
    with disk_errors(path):
        write_info(path, info)
    return info


def _teach_again(
    path: Path, info: StoreInfo, shards: Sequence[int], source: Source, options: Options
) -> tuple[int, ...]:
    """Gives the shards that have other bytes than before."""
    if "imported" in info.identity:
        raise StoreError(
            f"{path}: {len(shards)} shards are broken, and no teacher wrote them: run `kdpipe "
            "store import` again, from the folder they came from"
        )
    subject = subject_of(path, info, source)
    before = {shard: _before(path, info, shard) for shard in shards}
    for shard in shards:
        _check_rows(path, info, shard, before[shard], subject.rows)
    run = secrets.token_hex(4)
    try:
        for shard in shards:
            remove_shard(path, info, shard, run)
        fitted_on = None if source.checkpoint else source.fitted_on or info.data
        _teach(path, info, shards, subject, options, run, fitted_on)
    finally:
        tidy(path, run)
    after = {shard: read_record(path, shard) for shard in shards}
    return tuple(
        shard
        for shard, record in after.items()
        if record is not None and before[shard].digest not in (None, record.digest)
    )


def _teach(
    path: Path,
    info: StoreInfo,
    shards: Sequence[int],
    subject: Subject,
    options: Options,
    run: str,
    fitted_on: str | None,
) -> None:
    assignment = Assignment(
        store=path.absolute(),
        rows=layout.rows_path(info.data).absolute(),
        folder=Path.cwd(),
        card=subject.card,
        checkpoint=subject.weights.path.absolute(),
        fitted_on=fitted_on,
        device=options.device,
        precision=subject.params.precision,
        batch_size=options.batch_size,
        run=run,
    )
    pool = make_pool(assignment, options)
    try:
        pool.start()
        with Progress(f"{info.teacher} over {info.data}", _images(info, shards)) as bar:
            tally = pool.teach(info, shards, bar.advance)
    finally:
        pool.close()
    raise_what_failed(tally, len(shards))


def _images(info: StoreInfo, shards: Sequence[int]) -> int:
    return sum(stop - start for start, stop in map(info.rows_of, shards))


def _readable(path: Path, shard: int) -> Record | None:
    try:
        return read_record(path, shard)
    except StoreError:
        return None


def _before(path: Path, info: StoreInfo, shard: int) -> _Before:
    """By its record, else by the manifest."""
    record = _readable(path, shard)
    if record is not None and record.store == info.digest:
        return _Before(record.stop, record.row_digest, record.digest, frozenset(record.bad))
    try:
        manifest = cast("dict[str, Any]", read_manifest(path) or {})
        entry = manifest["shards"][shard] if manifest["identity"] == info.digest else {}
        return _Before(int(entry["rows"][1]), str(entry["row_digest"]), str(entry["digest"]))
    except (IndexError, KeyError, TypeError, ValueError):
        return _Before()


def _check_rows(path: Path, info: StoreInfo, shard: int, before: _Before, rows: Rows) -> None:
    start, stop = info.rows_of(shard)
    is_same = before.row_digest in (None, rows.digest(start, before.stop or stop))
    if len(rows) < stop or not is_same:
        raise StaleStoreError(
            f"{path}: rows {start}..{stop - 1} are not those that were taught, so nothing was "
            f"removed: restore {layout.rows_path(info.data)} and its images, or remove the store "
            "and its manifest and teach again"
        )
    if before.bad is None:
        return
    for number in range(start, before.stop or stop):
        if str(number) in before.bad:
            continue
        try:
            read_image(rows, number)
        except DataError as error:
            raise StoreError(
                f"{path}: shard {shard} had depth of an image that is not to be had now, and "
                f"nothing of it was removed: bring the images back, then repair again ({error})"
            ) from error


def _renew_manifest(path: Path, info: StoreInfo) -> None:
    """The manifest and the one-file ledger of a complete store; a partial one has none."""
    lines = plans.complete_lines(path, info)
    if lines is None:
        manifest_beside(path).unlink(missing_ok=True)
    else:
        consolidate(path)
        write_manifest(manifest_beside(path), info, lines)
