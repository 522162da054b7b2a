"""A store on S3: read, checked, mended and removed as on a disk; what it lacks is said."""

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
from tests.s3_photos import STORE, write_shard
from tests.s3_server import BUCKET, Server
from tests.unit.store.conftest import BAD, CODEC, MakeStore, info_of

from kdpipe.errors import ClaimError, StoreError
from kdpipe.store import layout, ledger, open_store, s3
from kdpipe.store.claims import Claim, tidy
from kdpipe.store.consolidated import consolidate, known_lines
from kdpipe.store.removal import find_removable, remove, remove_shard
from kdpipe.store.s3 import S3Path, location
from kdpipe.store.verify import verify

if TYPE_CHECKING:
    from numpy.typing import NDArray


def plain_depth() -> NDArray[np.uint16]:
    """All codes, as plain zarr reads them through fsspec."""
    with plain_zarr():
        array = zarr.open_array(f"{STORE}/{layout.DEPTH}", mode="r")
        return cast("NDArray[np.uint16]", array[:])


def objects(path: S3Path = STORE) -> dict[str, bytes]:
    """All that is below a name, but for the ledger: its records name the time."""
    found = {one.path.relative_to(path).as_posix(): one.path for one in s3.listed(path)}
    return {k: v.read_bytes() for k, v in found.items() if not k.startswith("ledger")}


def test_a_store_on_s3_holds_the_bytes_of_one_on_a_disk(
    s3_store: Server, make_store: MakeStore
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
    s3_store: Server, make_store: MakeStore
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


def test_a_read_asks_for_its_own_chunk_only(s3_store: Server) -> None:
    write_shard(0)
    remote = open_store(STORE)
    remote.depth(0)
    s3_store.gate.mend()

    remote.depth(1)

    assert [one.partition(f"{STORE.key}/")[2] for one in s3_store.gate.asked] == ["depth/c.0.0.0"]


def test_a_download_that_breaks_off_is_asked_for_again(s3_store: Server) -> None:
    write_shard(0)
    remote = open_store(STORE)
    whole = remote.depth(0)
    s3_store.gate.breaks(range(2), "within")

    assert np.array_equal(remote.depth(0), whole)

    s3_store.gate.breaks(range(100), "within")
    with pytest.raises(StoreError, match="does not answer"):
        remote.depth(0)


def test_verify_names_what_changed_and_a_read_of_it_raises(s3_store: Server) -> None:
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


def test_a_broken_shard_is_taken_away_and_written_again(s3_store: Server) -> None:
    write_shard(0)
    s3.replace(S3Path(info_of().file(STORE, layout.DEPTH, 0)), b"broken")

    remove_shard(STORE, info_of(), 0, "repair")

    assert ledger.finished(STORE) == []
    write_shard(0)
    assert verify(STORE).problems == ()


def test_the_consolidated_ledger_spares_the_records(s3_store: Server) -> None:
    for shard in range(3):
        write_shard(shard)
    consolidate(STORE)
    s3_store.gate.mend()

    assert set(known_lines(STORE)) == {0, 1, 2}

    assert not [one for one in s3_store.gate.asked if one.endswith("00.json")]
    Claim.take(STORE, 1, "test")
    assert set(known_lines(STORE)) == {0, 2}


def test_a_store_is_removed_unless_somebody_writes_it_or_it_holds_a_strangers_file(
    s3_store: Server,
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


def test_pictures_in_a_folder_called_depth_are_no_damaged_store(s3_store: Server) -> None:
    write_shard(0)
    S3Path(layout.metadata_path(STORE)).unlink()
    assert find_removable(STORE).files > 0
    s3.replace(S3Path(STORE / "depth/0.png"), b"x")

    with pytest.raises(StoreError, match=r"depth/0\.png, which kdpipe did not write"):
        find_removable(STORE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "127.0.0.1:9 does not answer"),
    ],
)
def test_what_the_environment_lacks_is_said_in_one_line(
    change: dict[str, str | None], said: str, s3_store: Server, monkeypatch: pytest.MonkeyPatch
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
    s3_store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)

    with pytest.raises(StoreError, match=r"pip install 'kdpipe\[s3\]'"):
        open_store(STORE)


def test_a_bucket_that_is_not_there_is_named(s3_store: Server) -> None:
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
