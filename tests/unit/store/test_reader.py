"""Reading by row number, in any process; a byte that changed is never depth."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.store.conftest import BAD, ROWS, MakeStore, info_of, row_of

from kdpipe.cards import load_teacher_card
from kdpipe.errors import StaleStoreError, StoreError
from kdpipe.store import Store, StoredBins, layout, ledger, open_store
from kdpipe.store.frame import to_frame

FORK = """
import multiprocessing, sys
from kdpipe.store import open_store

store = open_store(sys.argv[1])

def sums(first):
    return [float(store.depth(number).sum()) for number in range(first, len(store), 2)]

expected = [sums(0), sums(1)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(sums, [0, 1]) == expected and sum(map(sum, expected)) > 0
"""
"""Two children read through the indices that their parent has."""


def total(store: Store) -> float:
    """Uses everything of a store."""
    numbers = range(len(store))
    depth = sum(float(store.depth(number).sum()) for number in numbers)
    bins = [store.bins(number) for number in numbers if store.known(number)]
    free = [one for one in bins if isinstance(one, StoredBins)]
    return depth + sum(float(one.codes.sum()) + float(one.edges.sum()) for one in free)


def test_depth_and_bins_are_within_their_bounds(make_store: MakeStore) -> None:
    store = open_store(make_store())

    assert len(store) == ROWS
    assert store.ids == [f"{number:04d}" for number in range(ROWS)]
    for number in range(ROWS):
        row = row_of(number)
        height, width = row.depth.shape
        assert store.frame(number) == (2 * height, 2 * width)
        if number == BAD:
            assert not store.known(number)
            assert store.native_depth(number).shape == (0, 0)
            assert not store.depth(number).any()
            assert np.array_equal(store.depth(number, (1, 2, 4, 5)), np.zeros((4, 5)))
            for beyond in ((0, 0, 99, 1), (-1, 0, 1, 1), (0, 0, 1, -1)):
                with pytest.raises(StoreError, match="leaves the frame"):
                    store.depth(number, beyond)
            with pytest.raises(StoreError, match="has no bins: its image could not be read"):
                store.bins(number)
            continue
        assert store.known(number)
        native = store.native_depth(number)
        np.testing.assert_allclose(native, row.depth, rtol=1.001e-3)
        assert native[0, 0] == 0
        whole = store.depth(number)
        assert np.array_equal(whole, to_frame(native, (2 * height, 2 * width)))
        assert np.array_equal(store.depth(number, (1, 2, 4, 5)), whole[1:5, 2:7])
        bins = store.bins(number)
        assert isinstance(bins, StoredBins)
        assert np.array_equal(bins.edges, row.edges)
        np.testing.assert_allclose(bins.centers(), (row.edges[1:] + row.edges[:-1]) / 2, rtol=1e-6)
        gap = np.linalg.norm(np.sqrt(bins.probabilities()) - np.sqrt(row.probabilities), axis=0)
        assert gap.max() <= 2 * np.sqrt(len(row.probabilities)) * bins.codec.max_root_error


def test_a_reader_travels_by_pickle_fork_spawn_and_threads(make_store: MakeStore) -> None:
    store = open_store(make_store())
    expected = total(store)

    assert total(pickle.loads(pickle.dumps(store))) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(total, [store]) == [expected]
    with ThreadPoolExecutor(4) as threads:
        fresh = open_store(store.path)
        assert set(threads.map(total, [fresh] * 8)) == {expected}
    # In a process of its own: this one has threads, which a fork would lose.
    done = subprocess.run([sys.executable, "-c", FORK, str(store.path)], check=False)
    assert done.returncode == 0


def test_rows_that_are_not_there_or_not_finished_are_named(make_store: MakeStore) -> None:
    store = open_store(make_store(shards=(0, 2)))

    assert store.finished.tolist() == [True] * 4 + [False] * 4 + [True] * 2
    assert store.ids[4] is None
    assert store.known(9)
    for read in (store.depth, store.native_depth, store.bins, store.known, store.extent):
        with pytest.raises(StoreError, match="shard 1 is not finished"):
            read(5)
        with pytest.raises(IndexError, match="row 10"):
            read(10)
    with pytest.raises(IndexError):
        store.depth(-1)


def test_a_store_of_another_card_is_refused_by_field(make_store: MakeStore) -> None:
    path, card = make_store(), load_teacher_card("adabins-small")

    assert len(open_store(path, card=card)) == ROWS
    with pytest.raises(StaleStoreError, match=r"teacher\.revision is 1 in the store, expected 2"):
        open_store(path, card=replace(card, revision=2))


def test_a_read_of_truncated_and_missing_files_names_them(make_store: MakeStore) -> None:
    path = make_store()
    depth, edges = (info_of().file(path, one, 1) for one in (layout.DEPTH, layout.BIN_EDGES))

    depth.write_bytes(depth.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"depth/c\.1\.0\.0 has \d+ bytes, \d+ bytes expected"):
        open_store(path).depth(5)
    depth.unlink()
    with pytest.raises(StoreError, match=r"depth/c\.1\.0\.0 is missing"):
        open_store(path).depth(5)
    edges.unlink()
    with pytest.raises(StoreError, match=r"c\.1"):
        open_store(path).bins(5)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"shard": 1}'])
def test_a_torn_record_is_one_line(content: str, make_store: MakeStore) -> None:
    path = make_store()
    layout.record_path(path, 1).write_text(content)

    with pytest.raises(StoreError, match="0000001"):
        open_store(path).depth(5)


def test_a_ledger_of_another_store_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    path = make_store()
    record = ledger.read_record(path, 1)
    assert record is not None
    layout.record_path(path, 1).unlink()
    ledger.write_record(path, replace(record, store="other"))

    with pytest.raises(StoreError, match="identity other"):
        open_store(path).depth(5)
