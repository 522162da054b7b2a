"""What was written once stays readable, and is written the same; `--regold` writes it anew.

Shard bytes follow from the versions of pcodec and zstd in constraints.txt too: other versions may
pack the same codes otherwise, which the first test does not mind.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from tests.golden import stores
from tests.plain_zarr import plain_zarr

from kdpipe.store import layout, open_store
from kdpipe.store.metadata import read_info
from kdpipe.store.verify import verify

BINS = {"companded": "codes", "log-binomial": "pair", "delta": "codes"}


@pytest.fixture(params=stores.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Of the bins; with `--regold` the store is written anew first."""
    kind = str(request.param)
    if request.config.getoption("--regold"):
        path = stores.store_path(kind)
        shutil.rmtree(path, ignore_errors=True)
        stores.write(kind, path)
        stores.note(kind, stores.read(open_store(path)))
    return kind


def test_a_store_of_an_older_version_is_read(kind: str) -> None:
    path = stores.store_path(kind)

    store = open_store(path)

    assert store.ids == [f"image {number}" for number in range(stores.ROWS)]
    known = [number != stores.BAD for number in range(stores.ROWS)]
    assert [store.known(number) for number in range(stores.ROWS)] == known
    found, expected = stores.read(store), stores.expected(kind)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-7, err_msg=name)


def test_plain_zarr_reads_every_array_of_it(kind: str) -> None:
    store = open_store(stores.store_path(kind))
    with plain_zarr():
        group = zarr.open_group(str(store.path), mode="r")
        arrays = {one.name: np.asarray(group[one.name]) for one in store.info.arrays}

    for number in range(stores.ROWS):
        height, width = stores.NATIVE[number]
        codes = arrays[layout.DEPTH][number, :height, :width]
        assert np.array_equal(stores.DEPTH.decode(codes), store.native_depth(number))
        if number != stores.BAD:
            bins, name = store.bins(number), store.info.arrays[2].name
            assert np.array_equal(arrays[name][number, :, :height, :width], bins.codes)


def test_xarray_opens_all_of_it(kind: str) -> None:
    store = open_store(stores.store_path(kind))
    with plain_zarr():
        root, bins = (xarray.open_zarr(store.path, group=group) for group in (None, "bins"))
        depth, codes = np.asarray(root["depth"][3]), np.asarray(bins[BINS[kind]][3])

    sizes = {one.name.rpartition("/")[2]: one.shape for one in store.info.arrays}
    for name, one in {**root.variables, **bins.variables}.items():
        assert one.shape == (stores.ROWS, *sizes[str(name)])
    assert root["depth"].dims == ("row", "y", "x")
    assert np.array_equal(stores.DEPTH.decode(depth), store.native_depth(3))
    assert np.array_equal(codes, store.bins(3).codes)


def test_it_is_whole(kind: str) -> None:
    assert not verify(stores.store_path(kind)).problems


def test_todays_writer_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    stores.write(kind, tmp_path / "again.zarr")

    info = read_info(stores.store_path(kind))
    for one in info.arrays:
        for shard in range(info.shards):
            golden, again = (
                info.file(path, one.name, shard).read_bytes()
                for path in (stores.store_path(kind), tmp_path / "again.zarr")
            )
            assert golden == again, f"{one.name}, shard {shard}"
