"""A store is removed whole, or is still whole: whenever the process dies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr
from tests.unit.store.conftest import MakeStore, info_of, record_of

from kdpipe.errors import ClaimError, StoreError
from kdpipe.store import layout, ledger, open_store
from kdpipe.store.claims import Claim
from kdpipe.store.manifest import manifest_beside, write_manifest
from kdpipe.store.removal import find_removable, remove, remove_shard
from kdpipe.store.verify import verify


@pytest.fixture
def path(make_store: MakeStore) -> Path:
    """A store and its manifest, alone in a folder."""
    path = make_store("alone/store.zarr")
    write_manifest(manifest_beside(path), info_of(), [record_of(info_of(), 0)])
    return path


def test_a_store_goes_with_its_manifest_and_nothing_else(path: Path) -> None:
    (path.parent / "other.json").write_text("{}")
    size = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())

    what = find_removable(path)
    remove(what)

    assert (what.bytes, what.manifest) == (size, manifest_beside(path))
    assert [one.name for one in path.parent.iterdir()] == ["other.json"]


def test_killed_at_any_step_it_is_whole_or_gone_and_the_same_command_ends_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    manifest_beside(path).unlink()
    records = [ledger.read_record(path, shard) for shard in range(3)]
    write_manifest(manifest_beside(path), info_of(), [one for one in records if one])
    copy, steps = tmp_path / "copy", 0
    shutil.copytree(path.parent, copy)
    while True:
        shutil.rmtree(path.parent)
        shutil.copytree(copy, path.parent)
        with monkeypatch.context() as patch:
            die_at(steps, patch)
            try:
                remove(find_removable(path))
                break
            except KeyboardInterrupt:
                pass
        if path.exists():
            assert verify(path).problems == ()
            assert open_store(path).finished.all()
        else:
            assert not manifest_beside(path).exists()
        assert [one for one in path.parent.iterdir() if one.suffix == ".zarr"] in ([], [path])

        remove(find_removable(path))

        assert list(path.parent.iterdir()) == []
        steps += 1
    assert steps >= 6


def die_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """The process dies before its change of the disk of this number."""
    left = iter(range(step))

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **options: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*args, **options)

        return change

    for owner, name in ((Path, "unlink"), (Path, "rename"), (shutil, "rmtree"), (os, "fsync")):
        patch.setattr(owner, name, dying(getattr(owner, name)))


def test_a_store_that_is_being_written_stays(path: Path) -> None:
    claim = Claim.take(path, 1, "other")

    with pytest.raises(ClaimError, match="held by process"):
        find_removable(path)

    claim.release()
    assert find_removable(path).files > 0


def test_a_claim_taken_in_the_last_moment_keeps_the_store(path: Path) -> None:
    what = find_removable(path)
    claim = Claim.take(path, 1, "other")

    with pytest.raises(ClaimError, match="held by process"):
        remove(what)

    claim.release()
    assert verify(path).problems == ()


def test_the_claim_of_a_dead_process_keeps_nothing(path: Path) -> None:
    code = "import sys; from pathlib import Path; from kdpipe.store.claims import Claim; "
    code += "Claim.take(Path(sys.argv[1]), 1, 'dead')"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)

    remove(find_removable(path))

    assert not path.exists()


def test_what_is_no_store_or_holds_more_stays(path: Path, tmp_path: Path) -> None:
    photos, group, link = tmp_path / "photos", tmp_path / "group.zarr", tmp_path / "link.zarr"
    (photos / "ledger").mkdir(parents=True)
    (photos / "ledger" / "0000001.json").write_text("{}")
    (photos / "1.jpg").write_bytes(b"")
    zarr.create_group(group)
    link.symlink_to(path)
    (path / "notes").mkdir()
    (path / "notes" / "mine.txt").write_text("mine")

    for what, message in [
        (photos, "no store of kdpipe"),
        (group, "kdpipe did not write"),
        (link, "is a link to"),
        (tmp_path / "nothing", "no store of kdpipe"),
        (path, r"holds notes/mine\.txt, which kdpipe did not write"),
    ]:
        with pytest.raises(StoreError, match=message):
            find_removable(what)


def test_a_damaged_store_may_go_too_unless_it_holds_more(path: Path) -> None:
    layout.metadata_path(path).write_text("{")
    for mine in (path / "depth" / "mine.txt", path / "claims" / "mine.json"):
        mine.write_text("mine")
        with pytest.raises(StoreError, match=f"holds {mine.parent.name}/mine"):
            find_removable(path)
        mine.unlink()

    remove(find_removable(path))

    assert list(path.parent.iterdir()) == []


def test_a_json_of_someone_else_beside_it_stays(path: Path) -> None:
    manifest_beside(path).write_text('{"mine": 1}')

    remove(find_removable(path))

    assert [one.name for one in path.parent.iterdir()] == ["store.json"]


def test_a_removed_shard_is_unfinished_and_its_record_goes_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        order.append(self.parent.name)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        remove_shard(path, info_of(), 1, "run")

    assert order == ["ledger", "depth", "extent", "codes", "edges"]
    assert ledger.finished(path) == [0, 2]
    assert not list((path / "depth").glob("c.1.*"))
    assert [*(path / "claims").iterdir(), *(path / "work").iterdir()] == []


def test_a_process_that_sleeps_cannot_remove_what_its_successor_wrote(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Claim.hold

    def sleep(self: Claim) -> None:
        real(self)
        shutil.rmtree(path / "work")  # what a successor does before it begins

    monkeypatch.setattr(Claim, "hold", sleep)
    with pytest.raises(ClaimError, match="another process took it over"):
        remove_shard(path, info_of(), 1, "run")

    assert ledger.finished(path) == [0, 1, 2]
    assert verify(path, quick=True).broken == ()
