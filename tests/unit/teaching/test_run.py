"""`teach` in one process: what lands in the store, what is kept, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.toy_teacher import TEACHER, ToyTeacher, load_toy, make_photos

from kdpipe import teaching
from kdpipe.cards import TeacherCard, load_teacher_card
from kdpipe.datasets import read_image
from kdpipe.errors import (
    CheckpointError,
    ClaimError,
    DataError,
    DeviceError,
    KdpipeError,
    StaleStoreError,
    StoreError,
    UnknownNameError,
)
from kdpipe.rows import Rows, make_rows, write_rows
from kdpipe.store import StoredBins, layout, ledger, open_store
from kdpipe.store.claims import Claim
from kdpipe.store.metadata import read_info
from kdpipe.store.summary import summarise
from kdpipe.teachers import Bins
from kdpipe.teaching import Options

STORE = layout.store_path("photos", TEACHER)
MANIFEST = layout.manifest_path("photos", TEACHER)


def teach(**options: Any) -> teaching.Done:
    return teaching.run(TEACHER, "photos", options=Options(workers=0, **options))


def digests() -> list[str]:
    records = [ledger.read_record(STORE, shard) for shard in ledger.finished(STORE)]
    return [one.digest for one in records if one is not None]


def rewritten(rows: Rows, **changes: object) -> None:
    """Writes the rows file anew, its second row changed."""
    listed = rows[:]
    listed[1] = replace(listed[1], **changes)
    write_rows(layout.rows_path("photos"), make_rows(rows.card, rows.root, listed))


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


def test_an_unreadable_image_is_counted_with_its_reason_and_may_be_tried_again() -> None:
    make_photos(10)
    torn = Path("photos/0003.png")
    whole = torn.read_bytes()
    torn.write_bytes(whole[: len(whole) // 2])

    done = teach()
    store = open_store(STORE)
    known, depth = [store.known(3), store.known(4)], store.depth(3)
    kept = teach()
    torn.write_bytes(whole)
    mended = teach(retry_bad=True)

    assert list(done.bad) == ["0003"]
    assert "0003.png" in done.bad["0003"]
    assert known == [False, True]
    assert depth.tolist() == [[0.0] * 16] * 12
    assert (kept.written, list(kept.bad)) == (0, ["0003"])
    assert (mended.written, dict(mended.bad)) == (8, {})
    assert open_store(STORE).known(3)


def test_an_image_replaced_since_it_was_indexed_ends_the_run_and_finished_shards_stay() -> None:
    make_photos(24)
    taken = Path("photos/0012.png")
    kept = taken.read_bytes()
    taken.write_bytes(Path("photos/0013.png").read_bytes())  # another photo of the same size

    with pytest.raises(StoreError) as stopped:
        teach()
    first = ledger.finished(STORE)
    taken.write_bytes(kept)
    done = teach()

    said = str(stopped.value)
    assert said.startswith("photos/0012.png has changed since `kdpipe index`: put the old image")
    assert said.endswith(
        "run `kdpipe index --data photos` again (1 of 3 shards were taught and stay)"
    )
    assert first == [0]
    assert (done.written, done.kept, dict(done.bad)) == (16, 8, {})


def test_weights_that_were_fitted_in_part_are_said(caplog: pytest.LogCaptureFixture) -> None:
    make_photos(2)
    folder = layout.teacher_dir("photos", TEACHER)
    (folder / "metrics.json").write_text('{"finished": false}')

    teach()

    assert f"{folder} was trained in part: run the same `kdpipe fit` to go on" in caplog.messages


def test_reordered_and_edited_rows_are_refused_by_name() -> None:
    rows = make_photos(20)
    teach()

    rewritten(rows, id="other")
    with pytest.raises(StaleStoreError, match=r"row 1 was '0001', now it is 'other'"):
        teach()
    rewritten(rows, image_digest="ff")
    with pytest.raises(StaleStoreError, match=r"an image, frame or focal length of rows 0\.\.7"):
        teach()
    rewritten(rows, fx=1.0)
    with pytest.raises(StaleStoreError, match="focal length"):
        teach()
    write_rows(layout.rows_path("photos"), make_rows(rows.card, rows.root, rows[:9]))
    with pytest.raises(StaleStoreError, match="made for 20 rows, the data set has 9"):
        teach()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_depth": 12.0}, "teacher.max_depth is 10.0"),
        ({"mirror": True}, "teacher.mirror"),
        ({"revision": 2}, "teacher.revision"),
        ({"network": {"bins": 5}}, "teacher.network"),
        ({"bins": "none"}, "teacher.bins"),
        ({"about": {"licence": "other"}}, "licences.teacher"),
    ],
)
def test_another_card_is_refused_by_the_name_of_its_field(
    changes: dict[str, object], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(8)
    teach()
    before = digests()

    def changed(name: str, _: object = None) -> TeacherCard:
        return replace(load_teacher_card(name), **changes)  # type: ignore[arg-type]

    monkeypatch.setattr(teaching, "load_teacher_card", changed)
    with pytest.raises(StaleStoreError) as caught:
        teaching.run(
            TEACHER,
            "photos",
            checkpoint=layout.teacher_dir("photos", TEACHER) / "model.pt",
            options=Options(workers=0),
        )

    assert field in str(caught.value)
    assert digests() == before


def test_other_weights_are_refused() -> None:
    make_photos(8)
    teach()
    Path("other.pt").write_bytes(b"other")

    with pytest.raises(StaleStoreError, match=r"weights\.sha256 is '"):
        teaching.run(TEACHER, "photos", checkpoint=Path("other.pt"), options=Options(workers=0))


def test_another_bound_is_refused_and_a_larger_shard_limit_is_not() -> None:
    make_photos(8)
    teach()
    Path("params.yaml").write_text("store: {shard_rows: 4096}")
    assert teach().kept == 8

    Path("params.yaml").write_text("store: {max_relative_error: 1.0e-2}")
    with pytest.raises(StaleStoreError, match=r"codecs\.depth\.max_relative_error is 0\.001"):
        teach()


def test_missing_weights_say_where_they_were_looked_for_and_which_flag_helps() -> None:
    make_photos(8)

    with pytest.raises(CheckpointError) as caught:
        teaching.run(TEACHER, "photos", fitted_on="nyu", options=Options(workers=0))

    message = str(caught.value)
    assert str(layout.weights_path("nyu", TEACHER)) in message
    assert "--checkpoint" in message
    assert "\n" not in message


def test_a_data_set_that_was_not_indexed_is_named() -> None:
    with pytest.raises(DataError, match="kdpipe index --data rooms"):
        teaching.run(TEACHER, "rooms", options=Options(workers=0))
    with pytest.raises(UnknownNameError, match=r"nothing called 'photos'\. Known: folder, kitti"):
        teach()


def test_an_error_in_one_image_costs_its_shard_only(toy_teacher: type[ToyTeacher]) -> None:
    make_photos(24)
    toy_teacher.fails_on = 9

    with pytest.raises(StoreError, match=r"1 shard not taught: RuntimeError: the toy broke"):
        teach()

    assert ledger.finished(STORE) == [0, 2]
    assert not MANIFEST.exists()
    assert list((STORE / "claims").iterdir()) == []
    assert list((STORE / "work").iterdir()) == []


def test_a_shard_that_another_process_holds_is_reported_and_the_rest_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kdpipe.teaching.tally._SECONDS_TO_WAIT_FOR_A_CLAIM", 0.01)
    make_photos(24)
    teach(shards=(2, 3))
    claim = Claim.take(STORE, 1, "other")

    with pytest.raises(ClaimError, match=r"1 shard not taught: shard 1 .* held by process"):
        teach()
    claim.release()

    assert ledger.finished(STORE) == [0, 2]
    assert teach().written == 8


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


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def of_another_store(record: Path) -> None:
    shard = int(record.stem)
    before = ledger.read_record(STORE, shard)
    assert before is not None
    record.unlink()
    ledger.write_record(STORE, replace(before, store="0123456789ab"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (layout.DEPTH, truncate),
        (layout.BIN_CODES, Path.unlink),
        (layout.EXTENT, truncate),
        ("record", of_another_store),
        ("record", Path.unlink),
    ],
)
def test_a_damaged_shard_is_taught_again(name: str, damage: Callable[[Path], None]) -> None:
    make_photos(24)
    teach()
    before = digests()
    (STORE / "notes.txt").write_text("not ours")
    is_record = name == "record"
    damage(layout.record_path(STORE, 1) if is_record else read_info(STORE).file(STORE, name, 1))

    done = teach()

    assert (done.written, done.kept) == (8, 16)
    assert digests() == before
    assert (STORE / "notes.txt").read_text() == "not ours"


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_torn_record_is_one_line(share: float) -> None:
    make_photos(24)
    teach()
    record = layout.record_path(STORE, 1)
    content = record.read_bytes()
    record.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(StoreError, match=r"0000001\.json is torn .*remove"):
        teach()


def test_too_little_space_is_seen_before(monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(24)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("kdpipe.teaching.plan.shutil.disk_usage", lambda _: usage)

    with pytest.raises(StoreError, match="make room"):
        teach()
    assert not STORE.exists()


def test_the_summary_adds_up() -> None:
    make_photos(20)
    done = teach()

    summary = summarise(STORE)

    assert (summary.rows, summary.images, summary.shards, summary.finished) == (20, 20, 3, 3)
    assert summary.bytes == done.bytes
    assert summary.seconds >= summary.forward_seconds > 0


def test_a_cluster_that_does_not_answer_is_one_line() -> None:
    make_photos(8)
    teach()
    make_photos(9)

    with pytest.raises(StoreError, match=r"nobody answers at 127\.0\.0\.1:9 .*--ray-address"):
        teaching.run(TEACHER, "photos", options=Options(ray_address="127.0.0.1:9"))

    assert MANIFEST.exists()


def test_more_gpus_than_there_are_is_one_line_and_no_endless_wait() -> None:
    make_photos(8)

    with pytest.raises(DeviceError, match=r"need 1000, torch .* finds \d+: give fewer --workers"):
        teaching.run(TEACHER, "photos", options=Options(workers=500, gpus_per_worker=2))


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


def test_an_image_too_large_for_the_device_fails_its_shard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos(3)
    monkeypatch.setattr(ToyTeacher, "fits", 0)

    with pytest.raises(KdpipeError, match="an image of 12x16 pixels does not fit into the memory"):
        teach()

    assert ledger.finished(STORE) == []


def test_another_precision_is_another_store() -> None:
    make_photos(8)
    teach()

    with pytest.raises(StaleStoreError, match="precision is 'fp32' in the store, expected 'bf16'"):
        teaching.run(TEACHER, "photos", precision="bf16", options=Options(workers=0))


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
