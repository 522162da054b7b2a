"""A shard is there as a whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from tests.unit.store.conftest import MakeStore, info_of, put, record_of, write_shard

from kdpipe.errors import ClaimError, LostClaimError, StoreError
from kdpipe.store import layout, ledger, open_store
from kdpipe.store.claims import Claim
from kdpipe.store.metadata import write_info
from kdpipe.store.writer import ShardWriter


def files(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*") if one.is_file())


def test_a_shard_left_without_commit_leaves_nothing(make_store: MakeStore) -> None:
    path, info = make_store(shards=()), info_of()
    before, claim = files(path), Claim.take(path, 0, "test")

    def interrupted() -> None:
        with ShardWriter(info, claim) as writer:
            put(writer, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    claim.release()

    assert files(path) == before


def test_leftovers_of_a_killed_owner_are_replaced(make_store: MakeStore) -> None:
    path, info = make_store(shards=()), info_of()
    for name in (layout.DEPTH, layout.BIN_CODES):
        info.file(path, name, 0).write_bytes(b"half of another attempt")
    layout.work_dir(path, 0, "killed").mkdir(parents=True)
    (layout.work_dir(path, 0, "killed") / "depth").write_bytes(b"half")

    write_shard(path, info, 0)

    other = make_store("other.zarr", shards=(0,))
    assert files(path) == files(other)
    for name in files(other):
        assert "ledger" in name or (path / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize("failing", range(12))
def test_a_disk_that_is_full_at_any_step_leaves_the_shard_unfinished(
    failing: int, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, info, real = make_store(shards=(1,)), info_of(), os.fsync
    calls = iter(range(100))

    def fsync(handle: int) -> None:
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match="the disk is full"):
            write_shard(path, info, 0)

    assert ledger.finished(path) == [1]
    write_shard(path, info, 0)
    assert open_store(path).known(0)


def test_a_writer_that_lost_its_claim_makes_nothing_visible(make_store: MakeStore) -> None:
    path, info = make_store(shards=()), info_of()
    slow = Claim.take(path, 0, "slow")
    with ShardWriter(info, slow) as writer:
        put(writer, 0)
        os.utime(slow.path, (1, 1))
        record = write_shard(path, info, 0, note=1.0)

        with pytest.raises(ClaimError, match="took it over"):
            writer.commit(record_of(info, 0, note=2.0))

    assert ledger.read_record(path, 0) == record
    assert open_store(path).known(0)


def test_a_writer_that_sleeps_just_before_its_last_step_cannot_replace_a_finished_shard(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, info = make_store(shards=()), info_of()
    slow = Claim.take(path, 0, "slow")
    monkeypatch.setattr(slow, "hold", lambda: None)  # it looked before the other one came
    with ShardWriter(info, slow) as writer:
        put(writer, 0)
        os.utime(slow.path, (1, 1))
        record = write_shard(path, info_of(), 0)
        with pytest.raises(LostClaimError, match="took it over"):
            writer.commit(record_of(info, 0))

    assert ledger.read_record(path, 0) == record
    assert open_store(path).known(0)


def test_a_writer_that_sleeps_before_it_clears_the_shard_cannot_clear_a_finished_one(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, info = make_store(shards=()), info_of()
    slow, finished = Claim.take(path, 0, "slow"), files(make_store("other.zarr", shards=(0,)))

    def look_and_sleep(*_: object) -> None:
        monkeypatch.undo()
        os.utime(slow.path, (1, 1))
        with ShardWriter(info, Claim.take(path, 0, "successor")) as writer:
            for number in range(*info.rows_of(0)):
                put(writer, number)
            writer.commit(record_of(info, 0))

    monkeypatch.setattr("kdpipe.store.writer.read_record", look_and_sleep)
    with pytest.raises(LostClaimError, match="took it over"), ShardWriter(info, slow):
        pass

    assert [one for one in files(path) if not one.startswith("claims")] == finished
    assert open_store(path).known(0)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("the other has linked", "is being written by another process"),
        ("the other has cleared our work", "took it over"),
    ],
)
def test_two_writers_in_the_same_step_do_not_mix(
    step: str, said: str, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, info = make_store(shards=()), info_of()
    slow = Claim.take(path, 0, "slow")
    monkeypatch.setattr(slow, "hold", lambda: None)
    with ShardWriter(info, slow) as writer:
        put(writer, 0)
        if step == "the other has linked":
            info.file(path, layout.DEPTH, 0).write_bytes(b"theirs")
        else:
            shutil.rmtree(path / "work")
        with pytest.raises(ClaimError, match=said):
            writer.commit(record_of(info, 0))

    assert ledger.finished(path) == []


def test_a_finished_shard_is_replaced_by_its_longer_self(make_store: MakeStore) -> None:
    path = make_store()
    grown = info_of(12)
    write_info(path, grown)

    write_shard(path, grown, 2)

    store = open_store(path)
    assert store.known(9)
    assert store.known(11)
    assert len(store.ids) == 12


def test_a_read_only_store_is_one_line(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_store(shards=())

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="read-only") as caught:
        write_shard(path, info_of(), 0)

    assert "\n" not in str(caught.value)
