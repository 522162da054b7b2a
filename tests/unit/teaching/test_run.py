"""`teach` in one process: what lands in the store, and what is kept of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.toy_teacher import TEACHER, ToyTeacher, load_toy, make_photos
from tests.unit.teaching.conftest import MANIFEST, STORE, teach

from kdpipe.datasets import read_image
from kdpipe.errors import (
    DataError,
    StoreError,
)
from kdpipe.rows import make_rows, write_rows
from kdpipe.store import StoredBins, layout, ledger, open_store
from kdpipe.store.summary import summarise
from kdpipe.teachers import Bins


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_store_is_what_the_teacher_said_within_the_bound(batch_size: int) -> None:
    rows = make_photos(20, sizes=((12, 16), (12, 16), (8, 20)))

    done = teach(batch_size=batch_size)

    store, toy = open_store(done.path), load_toy(TEACHER)
    assert (done.written, done.kept, dict(done.bad)) == (20, 0, {})
    assert store.ids == [row.id for row in rows]
    for number, row in enumerate(rows):
        said = toy.predict(read_image(rows, number)[None])
        assert store.extent(number) == said.depth.shape[1:]
        assert store.frame(number) == (row.height, row.width)
        np.testing.assert_allclose(store.native_depth(number), said.depth[0], rtol=1.001e-3)
        in_frame = said.depth_in_frame(row.height, row.width)[0]
        np.testing.assert_allclose(store.depth(number), in_frame, rtol=1.01e-3)
        assert isinstance(said.bins, Bins)
        bins = store.bins(number)
        assert isinstance(bins, StoredBins)
        roots = np.sqrt(said.bins.probabilities()[0].numpy())
        bound = 2 * np.sqrt(len(roots)) * bins.codec.max_root_error
        assert np.linalg.norm(np.sqrt(bins.probabilities()) - roots, axis=0).max() <= bound
        assert np.array_equal(bins.edges, said.bins.edges[0].numpy())


def test_a_second_run_keeps_everything_and_its_manifest_is_the_same_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(20)
    teach()
    first, before = MANIFEST.read_bytes(), MANIFEST.stat().st_mtime_ns

    again = teach()
    elsewhere = tmp_path / "another place"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    make_photos(20)
    teach()

    assert (again.written, again.kept) == (0, 20)
    assert (tmp_path / MANIFEST).stat().st_mtime_ns == before
    assert MANIFEST.read_bytes() == first
    assert json.loads(first)["rows"] == 20


def test_a_grown_data_set_keeps_its_finished_shards_and_teaches_the_tail_again() -> None:
    make_photos(20)
    teach()
    before = [layout.record_path(STORE, shard).read_bytes() for shard in range(3)]

    make_photos(30)
    done = teach()

    after = [layout.record_path(STORE, shard).read_bytes() for shard in range(3)]
    assert (done.written, done.kept) == (14, 16)
    assert after[:2] == before[:2]
    assert after[2] != before[2]
    assert open_store(STORE).depth(29).shape == (12, 16)
    assert json.loads(MANIFEST.read_bytes())["rows"] == 30


def test_a_limited_run_leaves_a_readable_part_and_no_manifest() -> None:
    make_photos(20)

    done = teach(limit=10)
    store = open_store(STORE)
    rest = teach()

    assert (done.written, done.manifest) == (10, None)
    assert (len(store), store.known(9)) == (10, True)
    assert (rest.written, rest.kept) == (12, 8)
    assert MANIFEST.exists()


def test_shards_of_a_range_only_are_taught() -> None:
    make_photos(20)

    done = teach(shards=(1, 2))

    store = open_store(STORE)
    assert (done.written, done.manifest, ledger.finished(STORE)) == (8, None, [1])
    assert store.finished.tolist() == [False] * 8 + [True] * 8 + [False] * 4
    with pytest.raises(StoreError, match="shard 0 is not finished"):
        store.depth(0)
    with pytest.raises(StoreError, match="0:4 asked for"):
        teach(shards=(0, 4))


def test_weights_that_were_fitted_in_part_are_said(caplog: pytest.LogCaptureFixture) -> None:
    make_photos(2)
    folder = layout.teacher_dir("photos", TEACHER)
    (folder / "metrics.json").write_text('{"finished": false}')

    teach()

    assert f"{folder} was trained in part: run the same `kdpipe fit` to go on" in caplog.messages


def test_what_another_process_has_taught_meanwhile_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos(24)
    Path("photos/0009.png").write_bytes(b"torn")

    def meanwhile(*_: object) -> None:
        monkeypatch.undo()
        monkeypatch.chdir(before)
        monkeypatch.setattr("kdpipe.teachers.load_teacher", load_toy)
        teach(shards=(1, 2))
        seen.append(layout.record_path(STORE, 1).read_bytes())

    seen: list[bytes] = []
    before = Path.cwd()
    monkeypatch.setattr("kdpipe.teaching.plan.check_space", meanwhile)
    done = teach()

    assert (done.written, done.kept, list(done.bad)) == (16, 8, ["0009"])
    assert layout.record_path(STORE, 1).read_bytes() == seen[0]
    assert teach(retry_bad=True).written == 8


def test_the_summary_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_SECONDS", "0.001")  # a record keeps no less of a shard's time
    make_photos(20)
    done = teach()

    summary = summarise(STORE)

    assert (summary.rows, summary.images, summary.shards, summary.finished) == (20, 20, 3, 3)
    assert summary.bytes == done.bytes
    assert summary.seconds >= summary.forward_seconds > 0


def test_a_batch_too_large_for_the_device_is_halved_and_the_store_is_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_photos(20)
    teach(batch_size=8)
    expected, seen = open_store(STORE), [open_store(STORE).native_depth(n) for n in range(20)]
    shutil.rmtree(STORE)
    monkeypatch.setattr(ToyTeacher, "fits", 3)

    done = teach(batch_size=8)

    store = open_store(STORE)
    assert done.written == 20
    assert store.ids == expected.ids
    assert all(np.array_equal(store.native_depth(n), seen[n]) for n in range(20))
    assert "going on with batches of 2" in caplog.text
    assert len([one for one in caplog.records if "do not fit" in one.message]) == 2, "8, then 4"
    record = ledger.read_record(STORE, 0)
    assert record is not None
    assert record.environment["batch_size"] == 2


def test_a_teacher_that_needs_focal_lengths_gets_those_of_the_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = make_photos(8)
    monkeypatch.setattr(ToyTeacher, "needs_focal", True)

    assert teach().written == 8

    shutil.rmtree(STORE)
    without = [replace(row, fx=None) for row in rows[:]]
    write_rows(layout.rows_path("photos"), make_rows(rows.card, rows.root, without))
    with pytest.raises(DataError, match="found no focal length"):
        teach()
