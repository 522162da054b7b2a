"""Whatever changes in a store is named, by its file; a byte that changed is never read as depth."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.store.conftest import ROWS, MakeStore, info_of, write_shard

from kdpipe.errors import StoreError
from kdpipe.store import Store, inspection, layout, ledger, open_store
from kdpipe.store.claims import Claim
from kdpipe.store.consolidated import consolidate
from kdpipe.store.disk import as_json, read_json
from kdpipe.store.manifest import manifest_beside, write_manifest
from kdpipe.store.metadata import read_info, write_info
from kdpipe.store.verify import verify

KINDS = {
    "root": "zarr.json",
    "group": "bins/zarr.json",
    "depth metadata": "depth/zarr.json",
    "codes metadata": "bins/codes/zarr.json",
    "depth": "depth/c.1.0.0",
    "extent": "extent/c.1.0",
    "codes": "bins/codes/c.1.0.0.0",
    "edges": "bins/edges/c.1.0",
    "record": "ledger/0000001.json",
    "consolidated": "ledger/consolidated.parquet",
    "manifest": "../store.json",
}
"""One file of every kind, of shard 1 where it is a shard's."""

UNASKED = ("consolidated", "manifest")
"""A store without them is whole."""

SHARDS = ("depth", "extent", "codes", "edges", "record")


@pytest.fixture
def path(make_store: MakeStore) -> Path:
    """A complete store with its manifest and its records in one file."""
    path = make_store()
    records = [ledger.read_record(path, shard) for shard in ledger.finished(path)]
    write_manifest(manifest_beside(path), read_info(path), [one for one in records if one])
    consolidate(path)
    return path


def said(store: Store, number: int) -> tuple[object, ...]:
    """All that a reader gives of a row."""
    if not store.known(number):
        return store.ids[number], store.depth(number).tobytes()
    bins, depth = store.bins(number), store.depth(number)
    return store.ids[number], depth.tobytes(), bins.codes.tobytes(), bins.centers().tobytes()


def readable(path: Path, rows: Iterable[int]) -> Iterator[tuple[int, tuple[object, ...]]]:
    """Of these rows, those that a reader gives rather than refuses."""
    try:
        store = open_store(path)
    except StoreError:
        return
    for number in rows:
        try:
            yield number, said(store, number)
        except (StoreError, IndexError):
            continue


def flip_and_look(path: Path, kind: str, count: int) -> None:
    """Changes single bytes of a file of this kind, each back again."""
    file, rng = path / KINDS[kind], np.random.default_rng(len(kind))
    rows = range(4, 8) if kind in SHARDS else (0, 5, 9)
    good, content = dict(readable(path, rows)), file.read_bytes()
    for at in rng.integers(0, len(content), count):
        damaged = bytearray(content)
        damaged[at] ^= int(rng.choice([1 << rng.integers(8), rng.integers(1, 256)]))
        file.write_bytes(damaged)

        seen = verify(path)

        assert [one.file.resolve() for one in seen.problems] == [file.resolve()], damaged
        assert seen.broken == ((1,) if kind in SHARDS else ())
        assert dict(readable(path, rows)).items() <= good.items(), damaged
    file.write_bytes(content)
    assert verify(path).problems == ()


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_byte_is_named_and_none_becomes_depth(kind: str, path: Path) -> None:
    flip_and_look(path, kind, 32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_flipped_bytes_are_named_and_none_becomes_depth(kind: str, path: Path) -> None:
    flip_and_look(path, kind, 250)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("length", [0, 1, 0.5, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_named_also_at_a_glance(
    kind: str, length: float, quick: bool, path: Path
) -> None:
    file = path / KINDS[kind]
    good, size = dict(readable(path, range(ROWS))), file.stat().st_size
    os.truncate(file, size - 1 if length == -1 else int(size * length) if length < 1 else 1)

    seen = verify(path, quick=quick)

    if kind == "manifest" and quick and length == -1:
        return  # its last line break: no byte that says anything
    assert [one.file.resolve() for one in seen.problems] == [file.resolve()]
    assert seen.broken == ((1,) if kind in SHARDS else ())
    assert dict(readable(path, range(ROWS))).items() <= good.items()


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNASKED])
def test_a_missing_file_is_named_also_at_a_glance(kind: str, quick: bool, path: Path) -> None:
    file = path / KINDS[kind]
    good = dict(readable(path, range(ROWS)))
    file.unlink()

    seen = verify(path, quick=quick)

    assert [one.file for one in seen.problems] == [file]
    assert "found no " in str(seen.problems[0])
    assert seen.broken == ((1,) if kind in SHARDS else ())
    assert dict(readable(path, range(ROWS))).items() <= good.items()


def test_a_sound_store_has_no_problem_and_nothing_is_written(path: Path) -> None:
    before = {one: one.stat().st_mtime_ns for one in path.parent.rglob("*")}
    steps: list[tuple[int, int]] = []

    full = verify(path, workers=2, progress=lambda *step: steps.append(step))
    quick = verify(path, quick=True)

    records = [ledger.read_record(path, shard) for shard in range(3)]
    assert full.bytes == sum(one.bytes for one in records if one is not None)
    assert (full.problems, full.shards, full.finished) == ((), 3, 3)
    assert (quick.problems, quick.bytes, quick.finished) == ((), 0, 3)
    assert steps == [(3, 3)]
    assert {one: one.stat().st_mtime_ns for one in path.parent.rglob("*")} == before
    json.dumps(asdict(full), default=str)


def test_what_is_not_finished_is_no_problem(make_store: MakeStore) -> None:
    path = make_store(shards=(0, 2))
    info, claim = info_of(), Claim.take(path, 1, "other")
    layout.work_dir(path, 1, "token").mkdir(parents=True)
    (layout.work_dir(path, 1, "token") / "depth").write_bytes(b"half")
    info.file(path, layout.DEPTH, 1).write_bytes(b"killed before its record")
    (path / "ledger" / ".0000001.json.0a1b2c3d.tmp").write_bytes(b"half")

    seen = verify(path)

    claim.release()
    assert (seen.problems, seen.shards, seen.finished) == ((), 3, 2)


def test_a_shard_that_is_taught_again_meanwhile_is_no_problem(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest_beside(path).unlink()

    def replaced(file: Path, *_: object) -> tuple[str, str] | None:
        if file.name == "c.1.0.0":
            layout.record_path(path, 1).unlink(missing_ok=True)
            return "other bytes", "these"
        return None

    monkeypatch.setattr(inspection, "_difference", replaced)

    assert verify(path).problems == ()


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "depth/c.3.0.0", "depth/c.1.0.0~", "ledger/0000003.json", "ledger/1.json"),
        *("a/b", "claims/notes.json", "claims/0000001.json", "claims/a/b.json", "work/mine.txt"),
    ],
)
@pytest.mark.parametrize("quick", [True, False])
def test_a_file_of_someone_else_is_named(name: str, quick: bool, path: Path) -> None:
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(b"{}")

    seen = verify(path, quick=quick)

    assert [(one.kind, one.file) for one in seen.problems] == [("stranger", path / name)]
    assert open_store(path).known(0)


@pytest.mark.parametrize("quick", [True, False])
def test_a_folder_in_the_place_of_a_file_is_named(quick: bool, path: Path) -> None:
    places = (
        layout.record_path(path, 1),
        layout.consolidated_path(path),
        info_of().file(path, layout.DEPTH, 0),
    )
    for place in places:
        place.unlink(missing_ok=True)
        place.mkdir()

    seen = verify(path, quick=quick)

    assert {one.shard for one in seen.problems} == {0, 1}
    with pytest.raises(StoreError, match=r"0000001\.json is no file"):
        open_store(path).depth(5)
    layout.metadata_path(path).unlink()
    layout.metadata_path(path).mkdir()
    assert verify(path, quick=quick).problems[0].file == layout.metadata_path(path)


def test_a_record_of_another_store_is_named(path: Path) -> None:
    record = ledger.read_record(path, 1)
    assert record is not None
    layout.record_path(path, 1).unlink()
    ledger.write_record(path, replace(record, store="0123456789ab"))

    for quick in (True, False):
        seen = verify(path, quick=quick)

        assert seen.broken == (1,)
        assert str(seen.problems[0]) == (
            f"{layout.record_path(path, 1)}: found a record of a store with identity 0123456789ab, "
            f"expected {read_info(path).digest}"
        )


def test_a_ledger_of_another_store_is_named_shard_by_shard(
    path: Path, make_store: MakeStore, tmp_path: Path
) -> None:
    other, info = tmp_path / "other.zarr", info_of(licence="another")
    write_info(other, info)
    for shard in range(3):
        write_shard(other, info, shard)
    shutil.rmtree(other / "ledger")
    shutil.copytree(path / "ledger", other / "ledger")

    seen = verify(other)

    # Three records say one thing and the root another: which of them is wrong needs a manifest.
    assert [one.file for one in seen.problems] == [layout.metadata_path(other)]
    shutil.copy(manifest_beside(path), manifest_beside(other))
    assert [one.file for one in verify(other).problems] == [layout.metadata_path(other)]
    write_manifest(manifest_beside(other), info, [])
    shutil.rmtree(other / "ledger")
    write_shard(other, info, 0)
    shutil.copy(path / "ledger" / "0000001.json", other / "ledger")
    assert verify(other).broken == (1,)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda said: said.update(rows=11), id="more-rows"),
        pytest.param(lambda said: said.update(rows=3), id="fewer-rows"),
        pytest.param(lambda said: said.update(arrays=[]), id="no-arrays"),
        pytest.param(lambda said: said.update(identity={"format": 1}), id="no-identity"),
        pytest.param(lambda said: said["identity"].update(data="other"), id="other-data"),
        pytest.param(lambda said: said["identity"].update(shard_rows=3), id="other-shards"),
        pytest.param(
            lambda said: said["identity"]["codecs"]["depth"].update(near=0.2), id="other-codec"
        ),
    ],
)
def test_a_root_that_was_edited_is_named_and_nothing_else(
    change: Callable[[Any], None], path: Path
) -> None:
    root, good = layout.metadata_path(path), dict(readable(path, range(ROWS)))
    values: Any = read_json(root)
    change(values["attributes"][layout.ATTRIBUTES])
    root.write_bytes(as_json(values))

    seen = verify(path)

    assert [one.file for one in seen.problems] == [root]
    assert dict(readable(path, range(ROWS))).items() <= good.items()


def test_without_a_store_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no store of kdpipe"):
        verify(tmp_path)
