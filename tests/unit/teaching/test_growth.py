"""A store that is there is added to: what stays, what is refused, and what that leaves behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.toy_teacher import TEACHER, make_photos
from tests.unit.teaching.conftest import MANIFEST, STORE, teach

from kdpipe import teaching
from kdpipe.errors import DeviceError, StaleStoreError, StoreError
from kdpipe.rows import make_rows, write_rows
from kdpipe.store import layout, ledger, open_store
from kdpipe.store.consolidated import read_lines
from kdpipe.store.metadata import formats
from kdpipe.store.verify import verify
from kdpipe.teaching import Options

if TYPE_CHECKING:
    from kdpipe.store.shards import ArrayFormat


def digests() -> list[str]:
    return [line.digest for line in read_lines(STORE)]


def test_a_shard_that_would_lose_depth_stays_and_the_others_are_done() -> None:
    make_photos(20)
    torn, gone = [Path("photos/0003.png"), Path("photos/0009.png")], Path("photos/0005.png")
    images = {path: path.read_bytes() for path in [*torn, gone]}
    for path in torn:
        path.write_bytes(b"torn")
    teach()
    before, manifest = digests(), MANIFEST.read_bytes()
    gone.unlink()

    with pytest.raises(StoreError, match=r"1 shard not taught: shard 0 .* stays .*'0005'"):
        teach(retry_bad=True)
    assert (digests(), MANIFEST.read_bytes()) == (before, manifest)

    torn[1].write_bytes(images[torn[1]])
    with pytest.raises(StoreError, match=r"shard 0 .* stays"):
        teach(retry_bad=True)
    assert [digests()[shard] == before[shard] for shard in range(3)] == [True, False, True]
    assert json.loads(MANIFEST.read_bytes())["bad"] == 1

    for path, content in images.items():
        path.write_bytes(content)
    assert dict(teach(retry_bad=True).bad) == {}


def test_a_tail_that_grew_and_lost_images_stays_as_short_as_it_was() -> None:
    make_photos(20)
    teach()
    before = digests()
    make_photos(30)
    for number in (17, 18):
        Path(f"photos/{number:04d}.png").unlink()

    with pytest.raises(StoreError, match=r"shard 2 .* stays .*'0017' and 1 more"):
        teach()

    assert digests()[:3] == before
    assert ledger.finished(STORE) == [0, 1, 2, 3]
    assert not MANIFEST.exists()
    make_photos(30)
    assert (teach().written, dict(teach().bad)) == (8, {})


def test_what_is_refused_leaves_the_store_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(20)
    teach()
    before = {path: path.read_bytes() for path in sorted(STORE.parent.rglob("*.json"))}
    rows = make_photos(30)

    with pytest.raises(StoreError, match="0:9 asked for"):
        teach(shards=(0, 9))
    with monkeypatch.context() as patch:
        usage = type("Usage", (), {"free": 10})
        patch.setattr("kdpipe.teaching.plan.shutil.disk_usage", lambda _: usage)
        with pytest.raises(StoreError, match="make room"):
            teach()
    with pytest.raises(DeviceError, match="fewer --workers"):
        teaching.run(TEACHER, "photos", options=Options(workers=500, gpus_per_worker=2))
    other = [replace(row, id=f"other{row.id}") for row in rows[:]]
    write_rows(layout.rows_path("photos"), make_rows(rows.card, rows.root, other))
    with pytest.raises(StaleStoreError, match="row 0 was"):
        teach()

    assert {path: path.read_bytes() for path in sorted(STORE.parent.rglob("*.json"))} == before


def test_an_image_larger_than_the_store_s_maps_is_bad_and_the_rest_is_taught() -> None:
    make_photos(20)
    teach()
    make_photos(30, sizes=((12, 16),) * 25 + ((40, 16),) + ((12, 16),) * 4)

    done = teach(batch_size=3)

    assert list(done.bad) == ["0025"]
    assert "its map of (20, 8) is larger than the store's, of (6, 8)" in done.bad["0025"]
    assert (done.written, MANIFEST.exists()) == (14, True)
    assert open_store(STORE).known(24)


def test_a_store_that_has_depth_as_the_first_had_it_goes_on_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def first(*sizes: Any) -> tuple[ArrayFormat, ...]:
        depth, *others = formats(*sizes)
        return (replace(depth, packing="pcodec"), *others)

    make_photos(20)
    with monkeypatch.context() as patch:
        patch.setattr("kdpipe.teaching.plan.formats", first)
        teach()
    make_photos(30)

    teach()

    old = open_store(STORE)
    depth = [old.native_depth(number) for number in range(30)]
    assert not verify(STORE).problems
    shutil.rmtree(STORE)
    teach()
    new = open_store(STORE)
    packings = [one.info.array(layout.DEPTH).packing for one in (old, new)]
    assert packings == ["pcodec", "delta-pcodec"]
    assert all(np.array_equal(new.native_depth(number), depth[number]) for number in range(30))


def test_a_record_notes_which_data_set_s_fit_gave_the_weights() -> None:
    make_photos(8)
    make_photos(8, name="more")
    given = layout.teacher_dir("photos", TEACHER) / "model.pt"

    teach()
    teaching.run(TEACHER, "more", fitted_on="photos", options=Options(workers=0))
    more = layout.store_path("more", TEACHER)
    (said,) = [line.environment["fitted_on"] for line in read_lines(more)]
    shutil.rmtree(more)
    teaching.run(TEACHER, "more", checkpoint=given, options=Options(workers=0))

    assert read_lines(STORE)[0].environment["fitted_on"] == "photos"
    assert (said, read_lines(more)[0].environment["fitted_on"]) == ("photos", None)
