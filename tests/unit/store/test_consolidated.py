"""All records in one file: believed only while the records are there that it is a copy of."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.unit.store.conftest import BAD, MakeStore, info_of, write_shard

from kdpipe.store import layout, ledger, open_store
from kdpipe.store.consolidated import consolidate, known_lines, read_ids, read_lines, what_is_wrong
from kdpipe.store.metadata import write_info
from kdpipe.store.verify import verify


@pytest.fixture
def path(make_store: MakeStore) -> Path:
    """A complete store with all its records in one file, written long before the test."""
    path = make_store()
    for file in (path / "ledger").iterdir():  # a disk's clock ticks slower than shards are written
        os.utime(file, (1, 1))
    consolidate(path)
    return path


def records(path: Path) -> list[ledger.Record]:
    """As they are in files of their own."""
    found = [ledger.read_record(path, shard) for shard in ledger.finished(path)]
    return [one for one in found if one is not None]


def test_the_one_file_says_what_the_records_say(path: Path) -> None:
    expected = records(path)

    assert list(known_lines(path).values()) == [one.line for one in expected]
    assert [(start, tuple(ids)) for start, ids in read_ids(path)] == [
        (one.start, one.ids) for one in expected
    ]
    assert read_lines(path)[0].bad_ids == {f"{BAD:04d}": "torn"}
    table = pq.read_table(layout.consolidated_path(path))
    assert table["ids"][0].as_py() == list(expected[0].ids)
    assert table["bad"][0].as_py() == [{"row": BAD, "id": f"{BAD:04d}", "reason": "torn"}]


def test_no_record_is_read_where_the_one_file_is_believed(path: Path) -> None:
    for shard in range(3):  # as many bytes, of the same time, that are no record
        file = layout.record_path(path, shard)
        before = file.stat()
        file.write_bytes(b"x" * before.st_size)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    store = open_store(path)

    assert len(read_lines(path)) == 3
    assert store.finished.all()
    assert store.ids == [f"{number:04d}" for number in range(10)]
    assert verify(path, quick=True).problems == ()
    assert verify(path).broken == (0, 1, 2)


def test_a_copied_store_is_believed_by_its_digests(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(path, copy, copy_function=shutil.copyfile)

    assert known_lines(copy) == known_lines(path)
    consolidate(copy)  # with the times of now
    assert known_lines(copy) == known_lines(path)
    assert verify(copy).problems == ()


def test_a_line_is_not_believed_when_its_shard_was_taught_again(path: Path) -> None:
    write_shard(path, info_of(), 1, note=2.5)  # as many bytes as before
    layout.record_path(path, 2).unlink()

    assert set(known_lines(path)) == {0}
    assert [one.environment["seconds"] for one in read_lines(path)] == [0.0, 2.5]
    assert open_store(path).finished.tolist() == [True] * 8 + [False] * 2
    assert open_store(path).ids[8:] == [None, None]
    assert verify(path, quick=True).problems == verify(path).problems == ()


def test_a_grown_store_keeps_its_lines(path: Path) -> None:
    info = info_of(14)
    write_info(path, info)
    for shard in (2, 3):
        write_shard(path, info, shard)

    assert set(known_lines(path)) == {0, 1}
    assert read_lines(path) == [one.line for one in records(path)]
    consolidate(path)
    assert list(known_lines(path).values()) == read_lines(path)


def test_what_is_up_to_date_is_not_written_again(path: Path) -> None:
    file = layout.consolidated_path(path)
    before = file.stat()

    consolidate(path)
    same = file.stat()
    os.utime(layout.record_path(path, 1))
    consolidate(path)

    assert (same.st_ino, same.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert file.stat().st_ino != before.st_ino


@pytest.mark.parametrize("content", [b"", b"PAR1", None], ids=["empty", "torn", "unsealed"])
def test_a_torn_one_is_named_and_the_records_are_read(content: bytes | None, path: Path) -> None:
    file, expected = layout.consolidated_path(path), read_lines(path)
    table = pq.read_table(file)
    if content is None:
        pq.write_table(table, file)
    else:
        file.write_bytes(content)

    assert known_lines(path) == {}
    assert read_lines(path) == expected
    assert [(one.kind, one.file) for one in verify(path, quick=True).problems] == [("ledger", file)]
    file.unlink()
    assert verify(path).problems == ()


def test_one_of_another_store_is_named_and_not_believed(path: Path, tmp_path: Path) -> None:
    other, info = tmp_path / "other.zarr", info_of(licence="another")
    write_info(other, info)
    for shard in range(3):
        write_shard(other, info, shard)
    expected = read_lines(other)
    shutil.copy(layout.consolidated_path(path), layout.consolidated_path(other))

    assert known_lines(other) == {}
    assert read_lines(other) == expected
    (problem,) = verify(other, quick=True).problems
    assert str(problem) == (
        f"{layout.consolidated_path(other)}: found lines of a store with identity "
        f"{info_of().digest}, expected what the records say"
    )


def test_a_line_that_says_something_else_than_its_record_is_named(path: Path) -> None:
    (first, *rest) = records(path)

    assert what_is_wrong(path, first.store, [first, *rest]) is None
    lie = replace(first, ids=("other", *first.ids[1:]))
    assert what_is_wrong(path, first.store, [lie]) == "another line of shard 0 than its record"
