"""A store on S3: one writer a shard, whole or not at all whatever breaks, read as on a disk."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import zarr
from tests.plain_zarr import plain_zarr
from tests.s3_server import BUCKET, Break, Server, place
from tests.unit.store.conftest import BAD, CODEC, MakeStore, info_of, put, record_of

from kdpipe.errors import ClaimError, LostClaimError, StoreError
from kdpipe.store import claims, layout, ledger, open_store, s3, s3_claims
from kdpipe.store.claims import Claim, Owner, tidy
from kdpipe.store.consolidated import consolidate, known_lines
from kdpipe.store.metadata import create_info, write_info
from kdpipe.store.removal import find_removable, remove, remove_shard
from kdpipe.store.s3 import S3Path, location
from kdpipe.store.verify import verify
from kdpipe.store.writer import open_writer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.store.ledger import Record

STORE = place("stores/photos/adabins-small.zarr")


def write_shard(shard: int, *, rows: int = 10, note: float = 0.0, lease: float = 600) -> Record:
    """As a worker does."""
    info, claim = info_of(rows), Claim.take(STORE, shard, "test", lease)
    try:
        with open_writer(info, claim) as writer:
            for number in range(*info.rows_of(shard)):
                put(writer, number)
            return writer.commit(record_of(info, shard, note=note))
    finally:
        claim.release()


def plain_depth() -> NDArray[np.uint16]:
    """All codes, as plain zarr reads them through fsspec."""
    with plain_zarr():
        array = zarr.open_array(f"{STORE}/{layout.DEPTH}", mode="r")
        return cast("NDArray[np.uint16]", array[:])


def objects(path: S3Path = STORE) -> dict[str, bytes]:
    """All that is below a name, but for the ledger: its records name the time."""
    found = {one.path.relative_to(path).as_posix(): one.path for one in s3.listed(path)}
    return {k: v.read_bytes() for k, v in found.items() if not k.startswith("ledger")}


@pytest.fixture
def store(s3_server: Server) -> Server:
    """A server with an empty store."""
    create_info(STORE, info_of())
    return s3_server


def test_a_store_on_s3_holds_the_bytes_of_one_on_a_disk(
    store: Server, make_store: MakeStore
) -> None:
    path = make_store()

    for shard in range(3):
        write_shard(shard)

    local = {
        one.relative_to(path).as_posix(): one.read_bytes()
        for one in path.rglob("*")
        if one.is_file() and one.parent.name != "ledger"
    }
    assert objects() == local
    records = [ledger.read_record(STORE, shard) for shard in ledger.finished(STORE)]
    others = [ledger.read_record(path, shard) for shard in range(3)]
    assert [one and one.digest for one in records] == [one and one.digest for one in others]


def test_it_is_read_as_one_on_a_disk_and_as_plain_zarr_does(
    store: Server, make_store: MakeStore
) -> None:
    for shard in range(3):
        write_shard(shard)
    local, remote = open_store(make_store()), open_store(f"{STORE}")

    again = pickle.loads(pickle.dumps(remote))

    codes = plain_depth()
    for row in range(10):
        assert np.array_equal(remote.depth(row), local.depth(row))
        assert np.array_equal(again.native_depth(row), local.native_depth(row))
        if row != BAD:
            window = (1, 2, 5, 4)
            assert np.array_equal(remote.depth(row, window), local.depth(row, window))
            assert np.array_equal(remote.bins(row).probabilities(), local.bins(row).probabilities())
            height, width = remote.extent(row)
            decoded = CODEC.decode(codes[row, :height, :width])
            assert np.array_equal(decoded, remote.native_depth(row))
    assert remote.ids == local.ids
    assert remote.finished.all()


def test_a_read_asks_for_its_own_chunk_only(store: Server) -> None:
    write_shard(0)
    remote = open_store(STORE)
    remote.depth(0)
    store.gate.mend()

    remote.depth(1)

    assert [one.partition(f"{STORE.key}/")[2] for one in store.gate.asked] == ["depth/c.0.0.0"]


def be_alone(patch: pytest.MonkeyPatch) -> None:
    """Every other owner of a claim is dead from now on."""
    patch.setattr(Owner, "is_gone", property(lambda _: True))


STEPS = 12
"""Requests of a shard: see its claim, claim, look at four names, renew, put four, its record."""


@pytest.mark.parametrize(("at", "how"), [(8, "before"), (9, "after"), (11, "after")])
def test_a_writer_that_loses_the_server_leaves_the_shard_unfinished_or_whole(
    at: int, how: Break, store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_server(at, how, store, monkeypatch)


@pytest.mark.slow
def test_a_writer_may_lose_the_server_at_any_step(
    store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(STEPS):  # after one step the server is as before the next
        lose_the_server(at, "before", store, monkeypatch)
        s3.remove([one.path for one in s3.listed(STORE)])
        create_info(STORE, info_of())


def lose_the_server(at: int, how: Break, store: Server, patch: pytest.MonkeyPatch) -> None:
    """A writer whose requests break from one of them on, and what the next one makes of it."""
    store.gate.breaks(range(at, 1000), how)

    with pytest.raises(StoreError, match="does not answer"):
        write_shard(0, note=1.0)

    store.gate.mend()
    be_alone(patch)
    done = ledger.finished(STORE)
    assert done == ([0] if (at, how) == (STEPS - 1, "after") else [])
    assert verify(STORE, quick=True).problems == ()
    if not done:
        write_shard(0, note=2.0)
    assert verify(STORE).problems == ()
    assert open_store(STORE).known(0)


@pytest.mark.parametrize("at", [1, 9, 11])
def test_a_lost_answer_is_asked_for_again_and_our_own_write_is_no_one_elses(
    at: int, store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store.gate.breaks(range(at, at + 1), "after")

    write_shard(0)

    assert ledger.finished(STORE) == [0]
    assert len(store.gate.asked) > STEPS


def test_a_download_that_breaks_off_is_asked_for_again(store: Server) -> None:
    write_shard(0)
    remote = open_store(STORE)
    whole = remote.depth(0)
    store.gate.breaks(range(2), "within")

    assert np.array_equal(remote.depth(0), whole)

    store.gate.breaks(range(100), "within")
    with pytest.raises(StoreError, match="does not answer"):
        remote.depth(0)


def test_the_second_of_two_writers_is_told_who_the_first_is(store: Server) -> None:
    first = Claim.take(STORE, 0, "first")

    with pytest.raises(ClaimError, match=r"held by process \d+ .*run first"):
        Claim.take(STORE, 0, "second")

    first.release()
    Claim.take(STORE, 0, "second").release()
    assert ledger.finished(STORE) == []


def test_of_two_who_claim_at_once_one_does(store: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    look = s3_claims._read

    def look_and_sleep(path: S3Path) -> None:
        monkeypatch.setattr(s3_claims, "_read", look)
        Claim.take(STORE, 0, "faster")

    monkeypatch.setattr(s3_claims, "_read", look_and_sleep)

    with pytest.raises(ClaimError, match="by another process just now"):
        Claim.take(STORE, 0, "slower")


@pytest.mark.parametrize("when", ["before its data", "between two arrays", "before its record"])
def test_a_writer_that_slept_through_its_lease_finishes_and_spoils_nothing(
    when: str, store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, puts, info = s3.write, [0], info_of()
    wakes = {"before its data": 1, "between two arrays": 3, "before its record": 5}[when]

    def sleep(path: S3Path, content: object, *, over: str | None) -> str | None:
        puts[0] += 1
        if puts[0] - 1 == wakes:
            monkeypatch.setattr(s3, "write", real)
            be_alone(monkeypatch)
            write_shard(0, note=1.0)
        return real(path, content, over=over)  # type: ignore[arg-type]

    slow = Claim.take(STORE, 0, "slow")
    with open_writer(info, slow) as writer:
        put(writer, 0)  # other bytes than its successor's
        monkeypatch.setattr(s3, "write", sleep)
        with pytest.raises(ClaimError, match=r"took it over|by another process"):
            writer.commit(record_of(info, 0, note=2.0))
    slow.release()

    record = ledger.read_record(STORE, 0)
    assert record is not None
    assert record.environment["seconds"] == 1.0
    assert verify(STORE).problems == ()


def test_a_lease_that_ran_out_is_noticed_by_its_owner_and_broken_by_others(store: Server) -> None:
    slow = Claim.take(STORE, 0, "slow", lease=-1.0)

    other = Claim.take(STORE, 0, "other")

    with pytest.raises(LostClaimError, match="this process slept"):
        slow.hold()
    slow.release()
    other.hold()
    with pytest.raises(ClaimError, match="run other"):
        Claim.take(STORE, 0, "third")


def test_a_claim_is_renewed_while_its_owner_works(
    store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Claim.take(STORE, 0, "test", lease=100.0)
    store.gate.mend()
    claim.hold()
    assert store.gate.asked == []

    now = claims.awake()
    monkeypatch.setattr(claims, "awake", lambda: now + 50)
    claim.hold()

    assert [one.split()[0] for one in store.gate.asked] == ["PUT"]


def test_a_grown_tail_stays_readable_until_its_longer_self_is_there(store: Server) -> None:
    write_shard(2)
    write_info(STORE, info_of(12))
    claim = Claim.take(STORE, 2, "test")

    assert open_store(STORE).known(9)
    claim.release()
    assert ledger.finished(STORE) == [2]
    write_shard(2, rows=12)

    assert open_store(STORE).known(11)
    assert verify(STORE).problems == ()


def test_dead_workers_claims_are_given_back(store: Server) -> None:
    write_shard(1)
    Claim.take(STORE, 0, "run")
    Claim.take(STORE, 1, "run")
    Claim.take(STORE, 2, "another run")

    tidy(STORE, "run")

    assert ledger.finished(STORE) == [1]
    Claim.take(STORE, 0, "next")
    Claim.take(STORE, 1, "next")
    with pytest.raises(ClaimError, match="another run"):
        Claim.take(STORE, 2, "next")


def test_verify_names_what_changed_and_a_read_of_it_raises(store: Server) -> None:
    for shard in range(3):
        write_shard(shard)
    depth, extra = S3Path(info_of().file(STORE, layout.DEPTH, 0)), STORE / "notes.txt"
    content = bytearray(depth.read_bytes())
    content[3] ^= 1
    s3.replace(depth, bytes(content))
    s3.replace(S3Path(info_of().file(STORE, layout.DEPTH, 1)), b"short")
    s3.replace(S3Path(extra), b"x")

    quick, whole = verify(STORE, quick=True), verify(STORE)

    assert quick.broken == (1,)
    assert whole.broken == (0, 1)
    assert [one.file for one in whole.problems if one.kind == "stranger"] == [extra]
    with pytest.raises(StoreError, match="checksum"):
        open_store(STORE).depth(0)


def test_a_broken_shard_is_taken_away_and_written_again(store: Server) -> None:
    write_shard(0)
    s3.replace(S3Path(info_of().file(STORE, layout.DEPTH, 0)), b"broken")

    remove_shard(STORE, info_of(), 0, "repair")

    assert ledger.finished(STORE) == []
    write_shard(0)
    assert verify(STORE).problems == ()


def test_the_consolidated_ledger_spares_the_records(store: Server) -> None:
    for shard in range(3):
        write_shard(shard)
    consolidate(STORE)
    store.gate.mend()

    assert set(known_lines(STORE)) == {0, 1, 2}

    assert not [one for one in store.gate.asked if one.endswith("00.json")]
    Claim.take(STORE, 1, "test")
    assert set(known_lines(STORE)) == {0, 2}


def test_a_store_is_removed_unless_somebody_writes_it_or_it_holds_a_strangers_file(
    store: Server,
) -> None:
    write_shard(0)
    claim = Claim.take(STORE, 1, "busy")
    with pytest.raises(ClaimError, match="run busy"):
        find_removable(STORE)
    claim.release()
    for name in ("notes.txt", "ledger/notes.json", "ledger/0000000.json/a", "claims/a.json"):
        s3.replace(S3Path(STORE / name), b"x")
        tidy(STORE, "busy")
        assert [one.file for one in verify(STORE).problems] == [STORE / name]
        with pytest.raises(StoreError, match=f"{name}, which kdpipe did not write"):
            find_removable(STORE)
        S3Path(STORE / name).unlink()

    remove(find_removable(STORE))

    assert list(s3.listed(STORE)) == []
    with pytest.raises(StoreError, match="is no store"):
        find_removable(STORE)


def test_pictures_in_a_folder_called_depth_are_no_damaged_store(store: Server) -> None:
    write_shard(0)
    S3Path(layout.metadata_path(STORE)).unlink()
    assert find_removable(STORE).files > 0
    s3.replace(S3Path(STORE / "depth/0.png"), b"x")

    with pytest.raises(StoreError, match=r"depth/0\.png, which kdpipe did not write"):
        find_removable(STORE)


def test_a_server_without_conditional_writes_is_refused(
    store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_checked", set())
    store.gate.forgets_conditions = True

    with pytest.raises(StoreError, match="ignores conditional writes"):
        s3.check_conditions(place("elsewhere"))

    assert list(s3.listed(place("elsewhere"))) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "127.0.0.1:9 does not answer"),
    ],
)
def test_what_the_environment_lacks_is_said_in_one_line(
    change: dict[str, str | None], said: str, store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in change.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)

    with pytest.raises(StoreError, match=said) as raised:
        open_store(STORE)

    assert "\n" not in str(raised.value)


def test_a_machine_without_botocore_is_told_what_to_install(
    store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)

    with pytest.raises(StoreError, match=r"pip install 'kdpipe\[s3\]'"):
        open_store(STORE)


def test_a_bucket_that_is_not_there_is_named(store: Server) -> None:
    with pytest.raises(StoreError, match="has no bucket 'nowhere'"):
        open_store("s3://nowhere/photos/toy.zarr")


def test_names_of_s3_are_told_from_paths_and_are_no_files() -> None:
    assert str(location(f"s3://{BUCKET}/a/b.zarr")) == f"s3://{BUCKET}/a/b.zarr"
    assert location(Path(f"s3://{BUCKET}/a")) == location(f"s3://{BUCKET}/a")
    assert location("artifacts/a") == Path("artifacts/a")
    with pytest.raises(StoreError, match="no file of this machine"):
        os.stat(location("s3://bucket/a"))  # noqa: PTH116, what a path of its own would not ask
    with pytest.raises(StoreError, match="names no bucket"):
        location("s3://")
