"""Depth as 16-bit PNG: scale, names, and what cannot be said in one."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from tests.unit.store.conftest import BAD, ROWS, MakeStore, info_of, put, record_of

from kdpipe.errors import DataError, StoreError
from kdpipe.store import open_store
from kdpipe.store.claims import Claim
from kdpipe.store.manifest import manifest_beside
from kdpipe.store.metadata import write_info
from kdpipe.store.png import PngFormat, export, read_list
from kdpipe.store.writer import ShardWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

KITTI = PngFormat.of("tie-kd", "adabins", "kitti", 80)
NYU = PngFormat.of("tie-kd", "adabins", "nyu", 10)
MM = PngFormat.of("mm", "adabins", "kitti", 80)


def read(path: Path) -> NDArray[np.uint16]:
    with Pillow.open(path) as picture:
        assert picture.mode == "I;16"
        return np.asarray(picture)


@pytest.mark.parametrize("how", [KITTI, NYU, MM], ids=["kitti", "nyu", "mm"])
@given(metres=st.floats(0.00390625, 65.5, width=32))
def test_a_depth_comes_back_within_a_quantum(how: PngFormat, metres: float) -> None:
    metres = min(metres, how.full_scale)
    error = metres - how.encode(np.full((1, 1), metres, np.float32))[0, 0] * how.quantum

    slack = 1e-6 * how.full_scale
    if how.kind == "mm":
        assert abs(error) <= how.quantum / 2 + slack
    else:
        assert -slack <= error <= how.quantum + slack, "truncated, as TIE-KD does"


@pytest.mark.parametrize(
    ("how", "metres", "expected"),
    [
        pytest.param(KITTI, 0.0, 0, id="unknown"),
        pytest.param(KITTI, 80.0, 65535, id="kitti-full-scale"),
        pytest.param(KITTI, 81.0, 65535, id="kitti-beyond-is-the-largest"),
        pytest.param(KITTI, 40.0, 32767, id="kitti-half-is-truncated"),
        pytest.param(NYU, 10.0, 65535, id="nyu-full-scale"),
        pytest.param(NYU, 5.0, 32767, id="nyu-half"),
        pytest.param(MM, 1.2346, 1235, id="mm-is-rounded"),
        pytest.param(MM, 65.535, 65535, id="mm-full-scale"),
        pytest.param(MM, 66.0, 0, id="mm-beyond-is-unknown"),
    ],
)
def test_edges(how: PngFormat, metres: float, expected: int) -> None:
    assert how.encode(np.full((1, 1), metres, np.float32)).item() == expected


@pytest.mark.parametrize(
    ("domain", "max_depth", "expected"),
    [("kitti", 10, 80), ("nyu", 80, 10), ("rooms", 10, 10), ("any", 80, 80), ("any", 10, 10)],
)
def test_the_domain_decides_the_scale_else_the_teacher(
    domain: str, max_depth: float, expected: float
) -> None:
    assert PngFormat.of("tie-kd", "bts", domain, max_depth).full_scale == expected


DRIVE = "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000005"


@pytest.mark.parametrize(
    ("how", "row_id", "expected"),
    [
        (KITTI, DRIVE, f"gt_kd_adabins/{DRIVE.replace('/', '_')}.png"),
        (KITTI, f"raw/{DRIVE}", f"gt_kd_adabins/{DRIVE.replace('/', '_')}.png"),
        (NYU, "kitchen_0028b/rgb_00045", "gt_kd_adabins/kitchen_0028b_rgb_00045.png"),
        (NYU, "sync/kitchen_0028b/rgb_00045", "gt_kd_adabins/kitchen_0028b_rgb_00045.png"),
        (NYU, "official_splits/test/bathroom/rgb_00045", "gt_kd_adabins/bathroom_rgb_00045.png"),
        (NYU, "../../etc/passwd", "gt_kd_adabins/.._.._etc_passwd.png"),
        (MM, DRIVE, "depth/0000007.png"),
    ],
)
def test_names_are_those_of_the_published_maps(how: PngFormat, row_id: str, expected: str) -> None:
    assert how.file(7, row_id) == expected


def test_a_name_longer_than_a_file_may_have_is_refused() -> None:
    with pytest.raises(StoreError, match="too long"):
        NYU.file(0, "a" * 300)


@pytest.mark.parametrize("kind", ["tie-kd", "mm"])
def test_the_pictures_hold_the_depth_in_the_frame(
    kind: Literal["tie-kd", "mm"], make_store: MakeStore, tmp_path: Path
) -> None:
    path, out = make_store(), tmp_path / "a new folder"
    steps: list[tuple[int, int]] = []
    how = PngFormat.of(kind, "adabins", "any", 10)
    before = out / how.file(BAD, f"{BAD:04d}")
    before.parent.mkdir(parents=True)
    before.write_bytes(b"of when this row had depth")

    done = export(path, out, kind, progress=lambda *step: steps.append(step))

    store = open_store(path)
    assert (done.images, done.bad, done.removed, done.beyond) == (ROWS - 1, 1, 1, 0)
    assert export(path, out, kind).removed == 0
    assert done.path == out / how.folder
    assert steps[-1] == (ROWS, ROWS)
    for number in range(ROWS):
        file = out / how.file(number, f"{number:04d}")
        assert file.exists() == (number != BAD)
        if number != BAD:
            depth = store.depth(number)
            units = read(file)
            assert units.shape == store.frame(number)
            assert ((units == 0) == (depth == 0)).all()
            assert np.abs(units * done.quantum - depth).max() <= done.quantum
    names = {one.name for one in out.rglob("*") if one.is_file()}
    assert len(names) == ROWS - 1 + (kind == "mm")


def test_the_list_of_millimetre_files_has_every_row(make_store: MakeStore, tmp_path: Path) -> None:
    export(make_store(), tmp_path, "mm")

    with (tmp_path / "depth.csv").open(newline="") as file:
        lines = list(csv.reader(file))

    assert lines[0] == ["id", "file"]
    assert lines[1] == ["0000", "depth/0000000.png"]
    assert lines[1 + BAD] == [f"{BAD:04d}", ""]
    assert len(lines) == 1 + ROWS
    assert read_list(tmp_path)["0009"] == "depth/0000009.png"


def test_a_store_that_is_not_complete_is_not_exported(
    make_store: MakeStore, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="8 of 10 rows are finished: run `kdpipe teach --teacher"):
        export(make_store(shards=(0, 1)), tmp_path / "out", "mm")

    assert not (tmp_path / "out").exists()


def test_two_rows_of_one_name_are_refused(tmp_path: Path) -> None:
    path, info = tmp_path / "store.zarr", info_of(4)
    write_info(path, info)
    claim = Claim.take(path, 0, "test")
    with ShardWriter(info, claim) as writer:
        for number in range(4):
            put(writer, number)
        writer.commit(replace(record_of(info, 0), ids=("a/b_c", "a_b/c", "d", "e")))
    claim.release()

    with pytest.raises(StoreError, match=r"'a/b_c' and 'a_b/c' would both be .* as mm"):
        export(path, tmp_path / "out", "tie-kd")
    assert export(path, tmp_path / "out", "mm").images == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"depth\.csv is missing"),
        ("", "no CSV"),
        ("a,b\n", "found the head 'a,b'"),
        ("id,file\n0\n", "found line 2"),
        ("id,file\n0,../../secret.png\n", "leaves the data set's folder"),
        ("id,file\n0,/etc/passwd\n", "leaves the data set's folder"),
    ],
)
def test_a_malformed_list_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "depth.csv").write_text(content)

    with pytest.raises(DataError, match=message):
        read_list(tmp_path)


@pytest.mark.parametrize("how", [KITTI, MM], ids=["kitti", "mm"])
def test_what_cubic_resampling_takes_below_zero_is_unknown_not_far(how: PngFormat) -> None:
    assert how.encode(np.array([[-4.0, -0.001]], np.float32)).tolist() == [[0, 0]]


def test_a_copy_of_a_store_does_not_share_its_manifest() -> None:
    assert manifest_beside(Path("stores/nyu/T.zarr")) == Path("stores/nyu/T.json")
    assert manifest_beside(Path("stores/nyu/T.bak")) == Path("stores/nyu/T.bak.json")
