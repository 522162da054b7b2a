"""The bytes on disk: what plain zarr reads is what was written, and every chunk proves itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.plain_zarr import plain_zarr
from tests.unit.store.conftest import BAD, BINS, CODEC, NATIVE, ROWS, MakeStore, info_of, row_of

from kdpipe.errors import StoreError
from kdpipe.store import StoredBins, layout, open_store
from kdpipe.store.metadata import documents, formats, read_info, write_info
from kdpipe.store.shards import ArrayFormat, ShardIndex

ARRAYS = (layout.DEPTH, layout.EXTENT, layout.BIN_CODES, layout.BIN_EDGES)
RNG = np.random.default_rng(0)


def plain(path: Path) -> Any:
    """The store as zarr alone opens it."""
    with plain_zarr():
        group = zarr.open_group(str(path), mode="r")
        names = {name for name, _ in group.members(max_depth=None)}
        assert names == {*ARRAYS, "bins"}
        return {name: np.asarray(group[name]) for name in ARRAYS}


def test_plain_zarr_reads_every_array_as_our_reader_does(make_store: MakeStore) -> None:
    path = make_store()

    arrays, store = plain(path), open_store(path)

    assert arrays[layout.DEPTH].shape == (ROWS, *NATIVE)
    assert arrays[layout.BIN_CODES].shape == (ROWS, BINS, *NATIVE)
    for number in range(ROWS):
        height, width = store.extent(number)
        codes = arrays[layout.DEPTH][number]
        if number == BAD:
            assert not codes.any()
            assert not arrays[layout.BIN_CODES][number].any()
            continue
        depth = CODEC.decode(codes[:height, :width])
        assert np.array_equal(depth, store.native_depth(number))
        assert not codes[height:].any()
        assert not codes[:, width:].any()
        bins = store.bins(number)
        assert isinstance(bins, StoredBins)
        assert np.array_equal(arrays[layout.BIN_CODES][number, :, :height, :width], bins.codes)
        assert np.array_equal(arrays[layout.BIN_EDGES][number], bins.edges)
        assert arrays[layout.EXTENT][number].tolist()[:2] == [height, width]


def test_a_shard_that_is_not_there_reads_as_unknown_in_plain_zarr(make_store: MakeStore) -> None:
    arrays = plain(make_store(shards=(0,)))

    assert arrays[layout.DEPTH][0].any()
    assert not arrays[layout.DEPTH][4:].any()


def test_a_store_that_grows_keeps_its_shards(make_store: MakeStore) -> None:
    path = make_store(shards=(0, 1))
    before = plain(path)

    write_info(path, info_of(1000))
    after = plain(path)

    assert after[layout.DEPTH].shape == (1000, *NATIVE)
    for name in ARRAYS:
        assert np.array_equal(after[name][:8], before[name][:8])


FIRST = (
    ArrayFormat("bins of the first", "uint8", (BINS, *NATIVE), ("bin", "y", "x"), "zstd"),
    ArrayFormat("depth of the first", "uint16", NATIVE, ("y", "x"), "pcodec"),
)


@pytest.mark.parametrize("one", [*formats(NATIVE, BINS), *FIRST], ids=lambda one: one.name)
def test_a_chunk_comes_back_and_every_flipped_byte_is_seen(one: ArrayFormat) -> None:
    values = RNG.integers(0, 60, one.shape).astype(one.dtype)

    chunk = one.encode(values)

    assert np.array_equal(one.decode(chunk, "here"), values)
    for at in range(len(chunk)):
        torn = bytearray(chunk)
        torn[at] ^= 0x10
        with pytest.raises(StoreError, match="checksum"):
            one.decode(bytes(torn), "here")


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 3), (64, 33)])
def test_plain_zarr_sums_up_depth_as_we_do(shape: tuple[int, int], tmp_path: Path) -> None:
    one = formats(shape, None)[0]
    codes = RNG.integers(0, 2**16, shape, np.uint16)  # every sum of two wraps around
    node = documents(replace(info_of(1), arrays=(one,)))[one.name]
    (tmp_path / "zarr.json").write_bytes(node)
    chunk, index = one.encode(codes), ShardIndex(info_of(1).shard_rows)
    index.put(0, 0, len(chunk))
    (tmp_path / layout.shard_name(0, 3)).write_bytes(chunk + index.encode())

    with plain_zarr():
        read = np.asarray(zarr.open_array(tmp_path, mode="r")[0])

    assert np.array_equal(read, codes)
    assert np.array_equal(one.decode(chunk, "here"), codes)


def test_a_map_of_another_shape_is_refused() -> None:
    one = formats(NATIVE, None)[0]

    with pytest.raises(StoreError, match=r"chunks of \(6, 8\), got \(6, 9\)"):
        one.encode(np.zeros((6, 9), np.uint16))


def test_an_index_comes_back_and_every_flipped_byte_is_seen() -> None:
    index = ShardIndex(3)
    index.put(0, 0, 10)
    index.put(2, 10, 7)

    end = index.encode()
    again = ShardIndex.decode(end, 3, "here")

    assert [again.place(at) for at in range(3)] == [(0, 10), None, (10, 7)]
    for at in range(len(end)):
        torn = bytearray(end)
        torn[at] ^= 1
        with pytest.raises(StoreError, match="index is torn"):
            ShardIndex.decode(bytes(torn), 3, "here")
    with pytest.raises(StoreError, match="index is torn"):
        ShardIndex.decode(end[1:], 3, "here")


def test_attributes_come_back(make_store: MakeStore) -> None:
    assert read_info(make_store()) == info_of()


def test_metadata_say_how_to_get_metres(make_store: MakeStore) -> None:
    path = make_store()

    said = json.loads(layout.metadata_path(path, layout.DEPTH).read_bytes())["attributes"]

    assert said["codec"] == {
        "codec": "log16",
        "far": 10.0,
        "max_relative_error": 1e-3,
        "near": 0.1,
    }
    codes = plain(path)[layout.DEPTH][0]
    metres = said["codec"]["near"] * np.exp(said["step"] * (codes - 1.0)) * (codes > 0)
    np.testing.assert_allclose(metres, row_of(0).depth, rtol=1.001e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no store of kdpipe"),
        ("{", "torn or no JSON"),
        ("[]", "holds list"),
        ('{"attributes": {}}', "kdpipe did not write"),
        ('{"attributes": {"kdpipe": {"identity": {"format": 2}}}}', "has format 2"),
        ('{"attributes": {"kdpipe": {"identity": {"format": 1}}}}', "changed by hand"),
    ],
)
def test_what_is_no_store_is_refused_in_one_line(
    content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.zarr"
    if content is not None:
        path.mkdir()
        layout.metadata_path(path).write_text(content)

    with pytest.raises(StoreError, match=message):
        open_store(path)
