"""What breaks while it is taught, or since then: it costs its own shard; a later run mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.toy_teacher import ToyTeacher, make_photos
from tests.unit.teaching.conftest import MANIFEST, STORE, digests, teach

from kdpipe.errors import (
    ClaimError,
    KdpipeError,
    StoreError,
)
from kdpipe.store import layout, ledger, open_store
from kdpipe.store.claims import Claim
from kdpipe.store.metadata import read_info


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


def test_an_image_too_large_for_the_device_fails_its_shard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos(3)
    monkeypatch.setattr(ToyTeacher, "fits", 0)

    with pytest.raises(KdpipeError, match="an image of 12x16 pixels does not fit into the memory"):
        teach()

    assert ledger.finished(STORE) == []
