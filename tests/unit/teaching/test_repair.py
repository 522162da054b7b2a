"""A damaged store becomes the one it was, and only what was damaged is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tests.toy_teacher import TEACHER, ToyTeacher, make_photos

from kdpipe import teaching
from kdpipe.errors import CheckpointError, ClaimError, StaleStoreError, StoreError
from kdpipe.rows import make_rows, write_rows
from kdpipe.store import layout, ledger
from kdpipe.store.claims import Claim
from kdpipe.store.consolidated import known_lines
from kdpipe.store.disk import as_json, read_json
from kdpipe.store.metadata import read_info
from kdpipe.store.verify import verify
from kdpipe.teaching import Options
from kdpipe.teaching.repair import batch_size_of, repair
from kdpipe.teaching.source import Source

STORE = layout.store_path("photos", TEACHER)
MANIFEST = layout.manifest_path("photos", TEACHER)
Damage: TypeAlias = Callable[[Path], None]


def teach(**options: Any) -> None:
    teaching.run(TEACHER, "photos", options=Options(workers=0, **options))


def content() -> dict[str, bytes | str]:
    """Every file, of a record what lasts."""
    files: dict[str, bytes | str] = {
        str(path.relative_to(STORE.parent)): path.read_bytes()
        for path in STORE.parent.rglob("*")
        if path.is_file() and path.parent.name != "ledger"
    }
    for shard in ledger.finished(STORE):
        record = ledger.read_record(STORE, shard)
        assert record is not None
        files[f"ledger {shard}"] = record.digest
    return files


def writings() -> dict[Path, tuple[int, int]]:
    """Tells each file from one written in its place, be it within one tick of the disk's clock."""
    files = {path: path.stat() for path in STORE.rglob("*") if path.is_file()}
    return {path: (one.st_ino, one.st_mtime_ns) for path, one in files.items()}


def flip(path: Path) -> None:
    """Changes the middle byte."""
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


def halve(path: Path) -> None:
    """Cuts the second half off."""
    os.truncate(path, path.stat().st_size // 2)


def foreign(path: Path) -> None:
    """Replaces a record by one of another store."""
    record = ledger.read_record(STORE, int(path.stem))
    assert record is not None
    path.unlink()
    ledger.write_record(STORE, replace(record, store="0123456789ab"))


def shard_file(name: str, shard: int = 1) -> Path:
    return read_info(STORE).file(STORE, name, shard)


@pytest.mark.parametrize("damage", [flip, halve, Path.unlink])
@pytest.mark.parametrize("name", [layout.DEPTH, layout.EXTENT, layout.BIN_CODES, layout.BIN_EDGES])
def test_a_broken_shard_is_taught_again_bit_by_bit_and_no_other(name: str, damage: Damage) -> None:
    make_photos(20)
    teach(batch_size=3)
    expected, before = content(), writings()
    damage(shard_file(name))

    done = repair(STORE)

    touched = {path for path, one in writings().items() if before.get(path) != one}
    assert content() == expected
    assert (done.shards, done.images, done.changed) == ((1,), 8, ())
    assert [one.file for one in done.problems] == [shard_file(name)]
    assert touched == {
        layout.record_path(STORE, 1),
        layout.consolidated_path(STORE),
        *(shard_file(one.name) for one in read_info(STORE).arrays),
    }
    assert verify(STORE).problems == ()


@pytest.mark.parametrize("damage", [flip, halve, Path.unlink, foreign])
def test_a_broken_record_costs_its_shard(damage: Damage) -> None:
    make_photos(20)
    teach()
    expected = content()
    damage(layout.record_path(STORE, 2))

    done = repair(STORE)

    assert content() == expected
    assert (done.shards, done.images) == ((2,), 4)


@pytest.mark.parametrize("damage", [flip, halve, Path.unlink])
@pytest.mark.parametrize("node", ["", "depth", "extent", "bins", "bins/codes", "bins/edges"])
def test_broken_metadata_are_written_again_and_nothing_is_taught(node: str, damage: Damage) -> None:
    make_photos(20)
    teach()
    expected = content()
    damage(layout.metadata_path(STORE, node))

    done = repair(STORE)

    assert content() == expected
    assert done.rewritten == (layout.metadata_path(STORE, node),)
    assert done.shards == ()


def other_licence(attributes: Any) -> None:
    attributes["identity"]["licences"]["data"] = "other"


def other_codec(attributes: Any) -> None:
    attributes["identity"]["codecs"]["depth"]["near"] = 0.5


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda attributes: attributes.update(rows=99), id="more-rows"),
        pytest.param(lambda attributes: attributes.update(rows=1), id="fewer-rows"),
        pytest.param(lambda attributes: attributes.update(arrays=[]), id="no-arrays"),
        pytest.param(lambda attributes: attributes.pop("identity"), id="no-identity"),
        other_licence,
        other_codec,
    ],
)
def test_a_root_that_says_something_else_is_outvoted(change: Callable[[Any], object]) -> None:
    make_photos(20)
    teach()
    expected, root = content(), layout.metadata_path(STORE)
    values: Any = read_json(root)
    change(values["attributes"]["kdpipe"])
    root.write_bytes(as_json(values))

    done = repair(STORE)

    assert content() == expected
    assert (done.rewritten, done.shards) == ((root,), ())


@pytest.mark.parametrize("damage", [flip, halve])
def test_a_broken_manifest_is_written_again(damage: Damage) -> None:
    make_photos(20)
    teach()
    expected = content()
    damage(MANIFEST)

    done = repair(STORE)

    assert content() == expected
    assert (done.rewritten, done.shards) == ((MANIFEST,), ())


def test_a_sound_store_is_left_alone_without_card_weights_or_rows() -> None:
    make_photos(20)
    teach(shards=(0, 2))
    before = writings()
    shutil.rmtree("artifacts/teachers")
    shutil.rmtree("artifacts/rows")

    done = repair(STORE)

    assert (done.problems, done.rewritten, done.shards) == ((), (), ())
    assert writings() == before
    assert not MANIFEST.exists()


def test_a_lost_root_and_what_it_hid_are_mended_in_one_go() -> None:
    make_photos(20)
    teach()
    expected, root = content(), layout.metadata_path(STORE)
    broken = shard_file(layout.DEPTH)
    flip(broken)
    root.unlink()

    done = repair(STORE)

    assert [one.file for one in done.problems] == [root, broken]
    assert (done.rewritten, done.shards) == ((root,), (1,))
    assert content() == expected


def test_a_lost_root_that_cannot_be_proved_is_one_line() -> None:
    make_photos(20)
    teach()
    (layout.teacher_dir("photos", TEACHER) / "other.pt").write_bytes(b"other")
    layout.metadata_path(STORE).unlink()
    other = Source(checkpoint=layout.teacher_dir("photos", TEACHER) / "other.pt")

    with pytest.raises(StoreError, match=r"zarr\.json is lost.*have another identity") as caught:
        repair(STORE, source=other)

    assert "\n" not in str(caught.value)
    layout.metadata_path(STORE, "depth").unlink()
    with pytest.raises(StoreError, match=r"zarr\.json is lost.*restore it from a copy"):
        repair(STORE)


def test_what_is_not_the_same_teacher_or_rows_removes_nothing() -> None:
    rows = make_photos(20)
    teach()
    halve(shard_file(layout.DEPTH))
    damaged = content()
    model = layout.teacher_dir("photos", TEACHER) / "model.pt"

    write_rows(
        layout.rows_path("photos"),
        make_rows(rows.card, rows.root, [replace(one, fx=1.0) for one in rows[:]]),
    )
    with pytest.raises(StaleStoreError, match=r"rows 8\.\.15 are not those that were taught"):
        repair(STORE)
    write_rows(layout.rows_path("photos"), rows)
    image = Path("photos/0009.png").rename("elsewhere.png")
    others = (b"", image.read_bytes()[:99], Path("photos/0008.png").read_bytes())
    for other in (None, *others):  # missing, empty, torn, replaced
        if other is not None:
            Path("photos/0009.png").write_bytes(other)
        with pytest.raises(StoreError, match=r"shard 1 had depth of an image .*0009\.png"):
            repair(STORE)
    image.replace("photos/0009.png")
    model.with_name("other.pt").write_bytes(b"other")
    with pytest.raises(StaleStoreError, match=r"weights\.sha256"):
        repair(STORE, source=Source(checkpoint=model.with_name("other.pt")))
    shutil.rmtree(model.parent)
    with pytest.raises(CheckpointError):
        repair(STORE)
    assert content() == damaged


def test_a_shard_that_another_process_holds_is_left_to_it() -> None:
    make_photos(20)
    teach()
    halve(shard_file(layout.DEPTH))
    damaged = content()
    claim = Claim.take(STORE, 1, "other")

    with pytest.raises(ClaimError, match="held by process"):
        repair(STORE)

    claim.release()
    assert content() == damaged


def test_killed_while_it_teaches_it_goes_on_and_nothing_broken_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos(20)
    teach()
    expected = content()
    for shard in (0, 2):
        flip(shard_file(layout.DEPTH, shard))
    with monkeypatch.context() as patch:
        patch.setattr(ToyTeacher, "look", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            repair(STORE)
    left = ledger.finished(STORE)

    done = repair(STORE)

    assert left == [1]
    assert (content(), done.shards) == (expected, (0, 2))


def test_other_bytes_than_before_are_said_and_the_manifest_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos(20)
    teach()
    before = MANIFEST.read_bytes()
    halve(shard_file(layout.DEPTH))
    real = ToyTeacher.look

    def nearly(self: ToyTeacher, rgb: Any, focal: Any) -> Any:
        said = real(self, rgb, focal)
        return replace(said, depth=said.depth * 1.01)

    monkeypatch.setattr(ToyTeacher, "look", nearly)
    done = repair(STORE)

    assert (done.shards, done.changed) == ((1,), (1,))
    assert done.rewritten == (MANIFEST,)
    assert MANIFEST.read_bytes() != before
    assert verify(STORE).problems == ()


def test_batches_are_as_they_were_unless_asked_for() -> None:
    make_photos(20)
    teach(batch_size=3)
    halve(shard_file(layout.DEPTH))

    repair(STORE)

    record = ledger.read_record(STORE, 1)
    assert record is not None
    assert record.environment["batch_size"] == 3
    assert batch_size_of(STORE) == 3


def test_files_of_someone_else_stay() -> None:
    make_photos(20)
    teach()
    (STORE / "notes.txt").write_text("mine")

    done = repair(STORE)

    assert [one.file.name for one in done.left] == ["notes.txt"]
    assert (STORE / "notes.txt").read_text() == "mine"
    assert done.shards == ()


def test_a_torn_ledger_of_all_shards_is_written_again_and_nothing_is_taught() -> None:
    make_photos(20)
    teach()
    file, expected = layout.consolidated_path(STORE), known_lines(STORE)
    flip(file)

    done = repair(STORE)

    assert (done.rewritten, done.shards, done.left) == ((file,), (), ())
    assert len(expected) == 3
    assert known_lines(STORE) == expected
    assert verify(STORE).problems == ()
