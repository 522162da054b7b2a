"""`index`: lists a data set as rows, checks every file once, and keeps row numbers for ever."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from kdpipe.cards import DataCard, load_data
from kdpipe.datasets import load_family, resolve_root
from kdpipe.datasets.changes import find_changes, merge
from kdpipe.datasets.check import check_row
from kdpipe.errors import DataError, UnknownNameError
from kdpipe.rows import Row, Rows, make_rows, read_rows, write_rows
from kdpipe.store import layout

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"(?!none$)[A-Za-z0-9][A-Za-z0-9._-]{,99}")
_NAMED = 5
"""Bad files that a message names."""

_BATCH = 512
"""Files that wait for a thread at once."""

Progress = Callable[[int, int], None]
"""Called with (files checked, files to check)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What an `index` did."""

    rows: Rows
    path: Path
    """The rows file."""

    new: int
    changed: int
    kept: int
    """Rows whose files have the size and the time of change of last time; they were not read."""

    def counts(self) -> dict[str, int]:
        """Rows of each split."""
        counts = self.rows.table["split"].value_counts()
        return {one["values"]: one["counts"] for one in counts.to_pylist()}

    def labelled(self) -> int:
        """Rows with measured depth."""
        return len(self.rows) - int(self.rows.table["truth"].null_count)


def index(card: DataCard, root: Path, limit: int | None = None, name: str | None = None) -> Rows:
    """Lists and checks a data set and writes its rows; see `run`."""
    return run(card, root, limit=limit, name=name).rows


def find_data(
    data: str, *, root: Path | None = None, name: str | None = None, manifests: Path | None = None
) -> tuple[DataCard, Path]:
    """Finds the card of a data set and the folder of its files.

    A set that was indexed before is found by its rows file too: its own name then says enough.

    Raises:
        UnknownNameError: neither a card nor a rows file has this name.
        DataError: the folder is not said or not there.
    """
    called = layout.rows_path(check_name(data if name is None else name))
    known = read_rows(called) if called.is_file() else None
    try:
        card = load_data(data, manifests)
    except UnknownNameError:
        if known is None or name is not None:
            raise
        card = known.card
    card = replace(card, name=name or card.name)
    try:
        return card, resolve_root(card, root)
    except DataError:
        if known is None or root is not None:
            raise
        return card, resolve_root(card, known.root)


def check_name(name: str) -> str:
    """Refuses a data set's name that could not be part of a path or of a run's name.

    Raises:
        DataError: it holds anything but letters, digits, dots, dashes and underscores, is too long
            for a path, or is `none`, which stands for no data set.
    """
    if not _NAME.fullmatch(name):
        raise DataError(
            f"found the name {name[:120]!r}, expected 1 to 100 letters, digits, '.', '-', '_' "
            "and not 'none': give it another --name"
        )
    return name


def run(
    card: DataCard,
    root: Path,
    *,
    limit: int | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Indexed:
    """Lists a data set and checks every file that is new or changed: sizes, depth, all pixels.

    Rows are append-only: a row of the last time keeps its number, new ones come at the end.

    Args:
        card: the data set.
        root: folder of its files.
        limit: rows of each split to take, the first; None: all.
        name: what the rows are called; None: as the card.
        progress: called after each checked file.

    Raises:
        DataError: a file is missing, torn or not what its format says, a split is empty, two rows
            have one id, or rows of last time are gone. Nothing is written then.
    """
    card = replace(card, name=check_name(name or card.name))
    path = layout.rows_path(card.name)
    known, empty = _before(path, card), make_rows(card, root, [])
    changes = find_changes(empty, known, _list(card, root, limit))
    if changes.twins is not None:
        row, twin = changes.twins
        raise DataError(
            f"{_origin(row)}{row.image!r} and {_origin(twin)}{twin.image!r} have the same id "
            f"{row.id!r} (path without extension): take one away, or rename it"
        )
    if changes.gone:
        raise DataError(
            f"{path} has {len(changes.gone)} rows that are not listed any more (first: "
            f"{changes.gone[0]!r}); stores count on row numbers: put the files or the longer "
            f"--limit back, or delete {path} and {layout.store_path(card.name, 'T').parent} to "
            "start over"
        )
    todo = [*changes.changed.values(), *changes.new]
    whole = merge(empty, known, changes, _check_all(empty, todo, progress))
    if known is None or todo or (known.card, known.root) != (card, root):
        write_rows(path, whole)
    changed, new = len(changes.changed), len(changes.new)
    refused = 0 if known is None else _count_refused(known, whole, changes.changed)
    if refused:
        _LOG.warning("%s: %d rows changed; `teach` will refuse shards with them", path, refused)
    return Indexed(rows=whole, path=path, new=new, changed=changed, kept=len(whole) - len(todo))


def _count_refused(before: Rows, now: Rows, changed: Iterable[int]) -> int:
    """Changed rows that stores tell from what was taught; not those whose file was only touched."""
    return sum(before.digest(at, at + 1) != now.digest(at, at + 1) for at in changed)


def _list(card: DataCard, root: Path, limit: int | None) -> Iterator[Row]:
    """In the family's order.

    Raises:
        DataError: there is no row.
    """
    taken: Counter[str] = Counter()
    for row in load_family(card.family).list_rows(card, root):
        if limit is not None and taken[row.split] >= limit:
            continue
        taken[row.split] += 1
        yield row
    if not taken:
        raise DataError(f"{card.name!r} lists no image in {root}: is it the right --root?")


def _before(path: Path, card: DataCard) -> Rows | None:
    if not path.is_file():
        return None
    rows = read_rows(path)
    if rows.card.family != card.family:
        raise DataError(
            f"{path} holds a set of family {rows.card.family!r}, this one is {card.family!r}: "
            "choose another --name, or delete that file"
        )
    return rows


def _check_all(empty: Rows, todo: Sequence[Row], progress: Progress | None) -> list[Row]:
    """Checks in threads (decoders let go of the interpreter's lock), gives rows in order."""
    checked: list[Row] = []
    problems: list[str] = []
    for done, found in enumerate(_check_many(empty, todo), 1):
        if isinstance(found, Row):
            checked.append(found)
        else:
            problems.append(found)
        if progress is not None:
            progress(done, len(todo))
    if problems:
        raise DataError(_say(problems, len(todo)))
    return checked


def _check_many(empty: Rows, todo: Sequence[Row]) -> Iterator[Row | str]:
    def one(row: Row) -> Row | str:
        try:
            return check_row(empty, row)
        except DataError as error:
            return f"{_origin(row)}{error}"

    threads = ThreadPoolExecutor(max_workers=min(16, len(os.sched_getaffinity(0)) + 1))
    try:
        for start in range(0, len(todo), _BATCH):
            yield from threads.map(one, todo[start : start + _BATCH])
    finally:
        threads.shutdown(cancel_futures=True)


def _say(problems: Sequence[str], total: int) -> str:
    if len(problems) == 1:
        return problems[0]
    more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return f"{len(problems)} of {total} files are bad: {'; '.join(problems[:_NAMED])}{more}"


def _origin(row: Row) -> str:
    origin = getattr(row, "origin", "")
    return f"{origin}: " if origin else ""
