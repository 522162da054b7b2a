"""Pictures become a store that says so, and its depth is theirs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image as Pillow
from tests.toy_teacher import TEACHER, make_photos

from kdpipe import teaching
from kdpipe.cards import load_teacher_card
from kdpipe.errors import CardError, DataError, StaleStoreError, StoreError
from kdpipe.store import layout, open_store
from kdpipe.store.metadata import read_info
from kdpipe.store.png import export
from kdpipe.store.removal import find_removable, remove
from kdpipe.store.verify import verify
from kdpipe.teaching import Options
from kdpipe.teaching.importing import Imported, import_depth
from kdpipe.teaching.repair import repair

STORE = layout.store_path("photos", TEACHER)
MANIFEST = layout.manifest_path("photos", TEACHER)
OUT = Path("out")
SIZES = ((12, 16), (8, 20))


def take(kind: Literal["tie-kd", "mm"] = "mm", folder: Path = OUT) -> Imported:
    return import_depth(folder, kind, TEACHER, "photos")


def export_and_remove(kind: Literal["tie-kd", "mm"]) -> dict[int, np.ndarray]:
    """Teaches, exports and removes a store; gives the depth it had, in the frame."""
    teaching.run(TEACHER, "photos", options=Options(workers=0))
    export(STORE, OUT, kind)
    store = open_store(STORE)
    depth = {number: store.depth(number) for number in range(len(store))}
    remove(find_removable(STORE))
    return depth


@pytest.mark.parametrize("kind", ["tie-kd", "mm"])
def test_there_and_back_is_within_a_quantum_and_the_bound(kind: Literal["tie-kd", "mm"]) -> None:
    rows = make_photos(20, sizes=SIZES)
    before = export_and_remove(kind)

    done = take(kind)

    store = open_store(STORE, card=load_teacher_card(TEACHER))
    assert (done.written, done.kept, done.unused, dict(done.bad)) == (20, 0, 0, {})
    assert store.ids == [row.id for row in rows]
    for number, depth in before.items():
        bound = done.quantum + depth * 1.001e-3
        assert (np.abs(store.depth(number) - depth) <= bound).all()
        assert store.frame(number) == depth.shape == store.extent(number)
    assert verify(STORE).problems == ()
    assert MANIFEST.exists()


def test_the_store_says_that_it_was_imported_and_no_teacher_adds_to_it() -> None:
    make_photos(20)
    export_and_remove("mm")

    take()

    identity = read_info(STORE).identity
    assert identity["imported"] == {"format": "mm", "full_scale": 65.535}
    assert identity["precision"] == "unknown"
    weights = identity["weights"]
    assert isinstance(weights, dict)
    assert weights["source"] == "imported from out"
    assert len(weights["sha256"]) == 64
    with pytest.raises(StaleStoreError, match=r"imported\.format is 'mm' in the store"):
        teaching.run(TEACHER, "photos", options=Options(workers=0))


def test_a_second_import_keeps_everything_and_mends_what_broke() -> None:
    make_photos(20)
    export_and_remove("mm")
    take()
    manifest, file = MANIFEST.read_bytes(), read_info(STORE).file(STORE, layout.DEPTH, 1)
    content = file.read_bytes()

    again = take()
    file.write_bytes(content[:-1] + b"x")
    with pytest.raises(StoreError, match="run `kdpipe store import` again"):
        repair(STORE)
    mended = take()

    assert (again.written, again.kept) == (0, 20)
    assert (mended.written, mended.kept) == (8, 12)
    assert file.read_bytes() == content
    assert MANIFEST.read_bytes() == manifest
    assert verify(STORE).problems == ()


def test_a_missing_or_torn_picture_is_counted_with_its_reason() -> None:
    make_photos(10)
    export_and_remove("tie-kd")
    (OUT / "gt_kd_adabins/0003.png").unlink()
    torn = OUT / "gt_kd_adabins/0004.png"
    torn.write_bytes(torn.read_bytes()[:60])
    shutil.copy(OUT / "gt_kd_adabins/0000.png", OUT / "gt_kd_adabins/elsewhere.png")

    done = take("tie-kd", OUT / "gt_kd_adabins")  # the pictures' own folder will do too

    assert list(done.bad) == ["0003", "0004"]
    assert done.bad["0003"] == "no picture of it was imported"
    assert "no whole image" in done.bad["0004"]
    assert (done.written, done.unused) == (10, 1)
    assert [open_store(STORE).known(number) for number in (2, 3, 4)] == [True, False, False]


def test_other_pictures_are_another_store() -> None:
    make_photos(10)
    export_and_remove("mm")
    take()
    Pillow.fromarray(np.full((12, 16), 7, np.uint16)).save(OUT / "depth/0000001.png")

    with pytest.raises(StaleStoreError, match=r"weights\.sha256 is"):
        take()


def test_what_cannot_be_imported_is_one_line() -> None:
    make_photos(10)
    OUT.mkdir()

    with pytest.raises(DataError, match=r"depth\.csv is missing"):
        take()
    with pytest.raises(DataError, match=r"no picture of the 10 rows of photos, e\.g\. gt_kd_ada"):
        take("tie-kd")
    with pytest.raises(CardError, match="affine-invariant"):
        import_depth(OUT, "mm", "depth-anything-v2-small", "photos")
    Pillow.fromarray(np.ones((6, 8), np.uint16)).save(OUT / "0001.png")
    with pytest.raises(DataError, match=r"0001\.png is 6x8, the frame of '0001' is 12x16"):
        take("tie-kd")
    assert not STORE.exists()
    assert not MANIFEST.exists()
