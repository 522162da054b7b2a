"""KITTI: Eigen lists, the archive's levels, the benchmark crop, intrinsics in the frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdpipe.cards import load_data
from kdpipe.datasets import read_image, read_truth
from kdpipe.datasets.index import index
from kdpipe.errors import DataError

Pair = Callable[..., tuple[str, str]]
DATE = "2011_09_26"
DRIVE = f"{DATE}_drive_0057_sync"
IMAGE = f"{DATE}/{DRIVE}/image_02/data/0000000116.png"
TRUTH = f"{DRIVE}/proj_depth/groundtruth/image_02/0000000116.png"
SIZE = (375, 1242)
PROJECTION = (
    "P_rect_02: 7.215377e+02 0 6.095593e+02 4.485728e+01 0 7.215377e+02 1.728540e+02 "
    "2.163791e-01 0 0 1 2.745884e-03"
)


@pytest.mark.parametrize("image_level", ["", "raw/", "input/"])
@pytest.mark.parametrize(
    ("on_disk", "in_list"),
    [("", ""), ("train/", ""), ("val/", ""), ("", "train/"), ("val/", "val/")]
    + [(f, "") for f in ("data_depth_annotated/", "data_depth_annotated/val/", "gt_depth/")],
)
def test_the_archive_s_levels_may_be_there_or_not(
    root: Path, pair: Pair, image_level: str, on_disk: str, in_list: str
) -> None:
    pair(image_level + IMAGE, on_disk + TRUTH, size=SIZE)
    (root / "eigen_train_files_with_gt.txt").write_text(f"{IMAGE} {in_list}{TRUTH} 721.5377")

    (row,) = index(load_data("kitti"), root)

    assert (row.image, row.truth) == (image_level + IMAGE, on_disk + TRUTH)
    assert row.id == (image_level + IMAGE).removesuffix(".png")


def test_the_frame_is_the_benchmark_crop_and_intrinsics_move_with_it(
    root: Path, pair: Pair
) -> None:
    pair(IMAGE, TRUTH, size=SIZE)
    depth = np.zeros(SIZE, np.uint16)
    depth[23, 13], depth[374, 1228], depth[22, 13] = 256, 512, 768
    Image.fromarray(depth).save(root / TRUTH)
    (root / DATE / "calib_cam_to_cam.txt").write_text(f"calib_time: 09-Jan\n{PROJECTION}\n")
    (root / "kitti_test_files_with_gt.txt").write_text(f"{IMAGE} {TRUTH} 721.5377")

    rows = index(load_data("kitti"), root)

    row = rows[0]
    assert (row.image_height, row.image_width) == SIZE
    assert (row.top, row.left, row.height, row.width) == (23, 13, 352, 1216)
    assert (row.fx, row.fy) == (721.5377, 721.5377)
    assert (row.cx, row.cy) == pytest.approx((609.5593 - 13, 172.854 - 23))
    truth = read_truth(rows, 0)
    assert truth.shape == (352, 1216)
    assert (truth[0, 0], truth[-1, -1], truth.sum()) == (1.0, 2.0, 3.0)
    whole = np.asarray(Image.open(root / IMAGE))
    np.testing.assert_array_equal(read_image(rows, 0), whole[23:375, 13:1229])
    assert read_image(rows, 0).flags.c_contiguous


@pytest.mark.parametrize(
    ("size", "corner"),
    [
        ((370, 1224), (18, 4)),
        ((376, 1241), (24, 12)),
        ((374, 1238), (22, 11)),
        ((352, 1216), (0, 0)),
    ],
)
def test_the_crop_of_each_native_size(
    root: Path, pair: Pair, size: tuple[int, int], corner: tuple[int, int]
) -> None:
    pair(IMAGE, TRUTH, size=size)
    (root / "kitti_eigen_train.txt").write_text(f"{IMAGE} {TRUTH} 707.0493")

    (row,) = index(load_data("kitti"), root)

    assert (row.top, row.left) == corner
    assert row.cx is None  # no calibration there


def test_a_line_with_none_is_a_row_without_truth(root: Path, pair: Pair) -> None:
    pair(IMAGE, TRUTH, size=SIZE)
    other = IMAGE.replace("116", "117")
    pair(other, TRUTH, size=SIZE)
    (root / "eigen_test_files_with_gt.txt").write_text(
        f"{IMAGE} {TRUTH} 721.5377\n{other} None 721.5377"
    )

    rows = index(load_data("kitti"), root)

    assert [r.truth for r in rows] == [TRUTH, None]
    assert rows[1].fx == 721.5377


def test_without_a_focal_length_in_the_line_the_calibration_s_counts(
    root: Path, pair: Pair
) -> None:
    pair(IMAGE, TRUTH, size=SIZE)
    folder = root / DATE / DRIVE
    (folder / "calib_cam_to_cam_P_rect_02.txt").write_text(PROJECTION)
    (root / "kitti_val_files_with_gt.txt").write_text(f"{IMAGE} {TRUTH}")

    (row,) = index(load_data("kitti"), root)

    assert (row.split, row.fx, row.fy) == ("val", 721.5377, 721.5377)


def test_a_torn_calibration_and_a_too_small_image_are_said(root: Path, pair: Pair) -> None:
    pair(IMAGE, TRUTH, size=(300, 1242))
    (root / "kitti_eigen_train.txt").write_text(f"{IMAGE} {TRUTH} 721.5377")
    with pytest.raises(DataError, match=r"line 1: .+ is 300x1242: too small for the crop 352x1216"):
        index(load_data("kitti"), root)

    (root / DATE / "calib_cam_to_cam.txt").write_text(PROJECTION[:60])
    with pytest.raises(DataError, match="expected the 12 numbers of a 3x4"):
        index(load_data("kitti"), root)
