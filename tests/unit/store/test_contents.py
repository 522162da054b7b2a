"""What `store info` says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from tests.unit.store.conftest import BAD, BINS, NATIVE, ROWS, MakeStore, info_of

from kdpipe.errors import StoreError
from kdpipe.store import layout
from kdpipe.store.contents import read_contents


def test_a_store_says_what_wrote_it_and_what_it_holds(make_store: MakeStore) -> None:
    path = make_store()

    found = read_contents(path)

    arrays = {one.name: one for one in found.arrays}
    depth = sum(info_of().file(path, layout.DEPTH, n).stat().st_size for n in range(3))
    assert found.identity == info_of().identity
    assert found.identity_digest == info_of().digest
    assert (found.summary.images, found.summary.finished, found.summary.bad) == (ROWS, 3, 1)
    assert found.bad == {f"{BAD:04d}": "torn"}
    assert arrays[layout.DEPTH].shape == (ROWS, *NATIVE)
    assert arrays[layout.DEPTH].bytes == depth
    assert arrays[layout.DEPTH].bytes_per_image == depth / ROWS
    assert arrays[layout.DEPTH].ratio == pytest.approx(ROWS * np.prod(NATIVE) * 4 / depth)
    assert dict(arrays[layout.DEPTH].codec or {})["max_relative_error"] == 1e-3
    assert arrays[layout.BIN_CODES].shape == (ROWS, BINS, *NATIVE)
    bound = dict(arrays[layout.BIN_CODES].codec or {})["max_root_error"]
    assert bound == pytest.approx(0.5 / 63)
    assert arrays[layout.BIN_EDGES].codec is None
    assert found.environment == {}
    json.dumps(asdict(found), default=str)


def test_an_empty_store_holds_nothing(make_store: MakeStore) -> None:
    found = read_contents(make_store(shards=()))

    assert (found.summary.images, found.summary.rows) == (0, ROWS)
    assert {(one.bytes, one.ratio) for one in found.arrays} == {(0, 0.0)}
    assert (found.first, found.last) == ("", "")


def test_without_a_store_there_is_nothing_to_say(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no store"):
        read_contents(tmp_path)
