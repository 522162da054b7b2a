"""Checks a store: metadata, records, sizes, and every byte. It changes nothing."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dask.base import compute
from dask.delayed import delayed

from kdpipe.errors import StoreError
from kdpipe.store import layout
from kdpipe.store.consensus import settle
from kdpipe.store.consolidated import known_lines, what_is_wrong
from kdpipe.store.inspection import Problem, Seen, at_a_glance, inspect
from kdpipe.store.ledger import finished, read_record
from kdpipe.store.manifest import manifest_beside, manifest_of, read_manifest
from kdpipe.store.metadata import documents, read_info
from kdpipe.store.strangers import strangers

if TYPE_CHECKING:
    from kdpipe.store.ledger import Record
    from kdpipe.store.metadata import StoreInfo

_AT_ONCE = 64
"""Shards of one round: each thread has work, and progress is seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What `verify` saw."""

    path: Path
    quick: bool
    shards: int
    """Of the store."""

    finished: int
    """Of these, have a record; the others are no problem, they are still to be taught."""

    bytes: int
    """That were read and hashed."""

    seconds: float
    identity: str
    """Digest of the identity: what most of root, ledger and manifest say, in doubt the root."""

    problems: tuple[Problem, ...]

    @property
    def broken(self) -> tuple[int, ...]:
        """Shards that must be taught again, in order."""
        return tuple(sorted({one.shard for one in self.problems if one.shard is not None}))


def verify(
    path: Path,
    *,
    quick: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Looks for whatever in a store is not what its identity and its ledger say.

    Args:
        path: of the store.
        quick: compare metadata, records and sizes, O(shards); else every byte's digest too.
        workers: threads; None: as many as there are processors.
        progress: called with the number of shards looked at, and of all.

    Returns:
        A problem for each shard that must be taught again, and for each other file that is damaged
        or that kdpipe did not write. A shard is named once, by the first thing wrong with it.

    Raises:
        StoreError: there is no store.
    """
    began = time.perf_counter()
    try:
        info = settle(path, read_info(path))
    except StoreError as error:
        if not finished(path):
            raise
        seen, shards = list(_records_only(path)), finished(path)[-1] + 1
        trusted, problems = _trusted(path, None, seen), [_lost_root(path, error)]
    else:
        seen, shards = list(_inspect_all(path, info, quick, workers, progress)), info.shards
        trusted = _trusted(path, info.digest, seen)
        if trusted == info.digest:
            problems = [
                *_check_metadata(path, info),
                *_check_shards(path, info, seen),
                *_check_consolidated(path, info, quick),
                *_check_manifest(path, info, seen, quick),
                *_check_strangers(path, info),
            ]
        else:  # what follows from it says nothing of the other files
            problems = [_wrong_root(path, info.digest, trusted)]
    return Verified(
        path=path,
        quick=quick,
        shards=shards,
        finished=len(seen),
        bytes=sum(one.bytes for one in seen),
        seconds=time.perf_counter() - began,
        identity=trusted,
        problems=tuple(problems),
    )


def _inspect_all(
    path: Path,
    info: StoreInfo,
    quick: bool,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Seen]:
    shards = [shard for shard in finished(path) if shard < info.shards]
    glance = at_a_glance(path, info, known_lines(path)) if quick else {}
    look = partial(inspect, path, info, quick=quick)
    task = delayed(look, pure=False, traverse=False)  # dask would walk through arguments of its own
    for start in range(0, len(shards), _AT_ONCE):
        part = shards[start : start + _AT_ONCE]
        if quick:  # reads no file to speak of: threads would only wait for each other
            yield from (glance.get(shard) or look(shard) for shard in part)
        else:
            yield from compute(  # type: ignore[no-untyped-call]
                *map(task, part),
                scheduler="threads",
                num_workers=workers,
                traverse=False,
            )
        if progress is not None:
            progress(start + len(part), len(shards))


def _records_only(path: Path) -> Iterator[Seen]:
    """Reads the ledger of a store whose root is lost."""
    for shard in finished(path):
        with contextlib.suppress(StoreError):
            record = read_record(path, shard)
            yield Seen(shard=shard, problem=None, store=record.store if record else None)


def _trusted(path: Path, root: str | None, seen: Sequence[Seen]) -> str:
    votes = Counter([] if root is None else [root])
    votes.update(one.store for one in seen if one.store is not None)
    manifest = read_manifest(path)
    if manifest is not None:
        votes[str(manifest.get("identity"))] += 1
    (likeliest, most), *_ = votes.most_common(1) or [("", 0)]
    return root if root is not None and votes[root] == most else likeliest


def _lost_root(path: Path, error: StoreError) -> Problem:
    return Problem(
        kind="metadata",
        file=layout.metadata_path(path),
        found=f"no attributes of a store ({error})",
        expected="those that its ledger is of",
    )


def _wrong_root(path: Path, found: str, trusted: str) -> Problem:
    return Problem(
        kind="metadata",
        file=layout.metadata_path(path),
        found=f"identity {found}",
        expected=f"{trusted}, as its ledger says",
    )


def _check_metadata(path: Path, info: StoreInfo) -> Iterator[Problem]:
    for name, expected in documents(info).items():
        file = layout.metadata_path(path, name)
        content = file.read_bytes() if file.is_file() else None
        if content != expected:
            found = "no file" if content is None else _first_difference(content, expected)
            what = f"{len(expected)} bytes that follow from the store's identity"
            yield Problem(kind="metadata", file=file, found=found, expected=what)


def _first_difference(content: bytes, expected: bytes) -> str:
    pairs = enumerate(zip(content, expected, strict=False))
    at = next((n for n, (one, other) in pairs if one != other), min(len(content), len(expected)))
    return f"{len(content)} bytes, another one at {at}"


def _check_shards(path: Path, info: StoreInfo, seen: Sequence[Seen]) -> Iterator[Problem]:
    there = {one.shard: one for one in seen}
    promised = _promised_shards(path, info)
    for shard in range(info.shards):
        one, file = there.get(shard), layout.record_path(path, shard)
        if one is None:
            if shard < promised:
                what = f"one: {manifest_beside(path)} says that it was finished"
                yield Problem(
                    kind="shard", file=file, found="no record", expected=what, shard=shard
                )
        elif one.store not in (None, info.digest):
            found = f"a record of a store with identity {one.store}"
            yield Problem(kind="shard", file=file, found=found, expected=info.digest, shard=shard)
        elif one.problem is not None:
            yield one.problem


def _check_consolidated(path: Path, info: StoreInfo, quick: bool) -> Iterator[Problem]:
    found = what_is_wrong(path, info.digest, () if quick else _records(path))
    if found is not None:
        file, what = layout.consolidated_path(path), "what the records say"
        yield Problem(kind="ledger", file=file, found=found, expected=what)


def _records(path: Path) -> Iterator[Record]:
    for shard in finished(path):
        with contextlib.suppress(StoreError):
            if (record := read_record(path, shard)) is not None:
                yield record


def _promised_shards(path: Path, info: StoreInfo) -> int:
    """Number of shards that were finished when the manifest was written."""
    manifest = read_manifest(path)
    if manifest is None or manifest.get("identity") != info.digest:
        return 0
    shards = manifest.get("shards")
    return len(shards) if isinstance(shards, list) else 0


def _check_manifest(
    path: Path, info: StoreInfo, seen: Sequence[Seen], quick: bool
) -> Iterator[Problem]:
    file, manifest = manifest_beside(path), read_manifest(path)
    if not file.exists():
        return
    if manifest is None or manifest.get("identity") != info.digest:
        found = "no JSON object" if manifest is None else f"identity {manifest.get('identity')}"
        yield Problem(kind="manifest", file=file, found=found, expected=info.digest)
        return
    if manifest.get("rows") != info.rows:
        found = f"{manifest.get('rows')} rows"
        yield Problem(kind="manifest", file=file, found=found, expected=f"{info.rows}")
        return
    lines = [one.line for one in seen if one.line is not None]
    if quick or len(lines) < info.shards:
        return  # where a record is missing that is said already
    if file.read_bytes() != manifest_of(info, lines):
        what = "those of the ledger"
        yield Problem(kind="manifest", file=file, found="other rows or digests", expected=what)


def _check_strangers(path: Path, info: StoreInfo) -> Iterator[Problem]:
    for file in strangers(path, info):
        yield Problem(kind="stranger", file=file, found="a file", expected="none of this name")
