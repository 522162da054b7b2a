"""What `teach` refuses, in a line that names it: rows, cards, weights, bounds, devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.toy_teacher import TEACHER, make_photos
from tests.unit.teaching.conftest import MANIFEST, STORE, digests, teach

from kdpipe import teaching
from kdpipe.cards import TeacherCard, load_teacher_card
from kdpipe.errors import (
    CheckpointError,
    DataError,
    DeviceError,
    StaleStoreError,
    StoreError,
    UnknownNameError,
)
from kdpipe.rows import Rows, make_rows, write_rows
from kdpipe.store import layout, ledger
from kdpipe.teaching import Options


def rewritten(rows: Rows, **changes: object) -> None:
    """Writes the rows file anew, its second row changed."""
    listed = rows[:]
    listed[1] = replace(listed[1], **changes)
    write_rows(layout.rows_path("photos"), make_rows(rows.card, rows.root, listed))


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


def test_another_precision_is_another_store() -> None:
    make_photos(8)
    teach()

    with pytest.raises(StaleStoreError, match="precision is 'fp32' in the store, expected 'bf16'"):
        teaching.run(TEACHER, "photos", precision="bf16", options=Options(workers=0))
