"""NYU: the folders of BTS and AdaBins, and the official .mat file, which must agree."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from kdpipe.cards import DataCard, load_data
from kdpipe.datasets import read_image, read_labels, read_truth
from kdpipe.datasets.index import index
from kdpipe.datasets.nyu import list_rows
from kdpipe.errors import CardError, ChangedImageError, DataError

Pair = Callable[..., tuple[str, str]]
MAT = DataCard(name="toy", family="nyu", domain="nyu", options={"layout": "mat"})
CAMERA = (518.8579, 519.4696, 325.5824, 253.7362)


def test_the_published_layout_is_found_below_sync_and_official_splits(
    root: Path, pair: Pair
) -> None:
    pair("sync/kitchen_0028b/rgb_00045.png", "sync/kitchen_0028b/sync_depth_00045.png")
    pair("official_splits/test/bath/rgb_1.png", "official_splits/test/bath/sync_depth_1.png")
    (root / "nyudepthv2_train_files_with_gt.txt").write_text(
        "/kitchen_0028b/rgb_00045.png /kitchen_0028b/sync_depth_00045.png 518.8579"
    )
    (root / "nyudepthv2_test_files_with_gt.txt").write_text(
        "bath/rgb_1.png bath/sync_depth_1.png 500.0"
    )

    rows = index(load_data("nyu"), root)

    train, test = rows
    assert (train.id, train.split) == ("sync/kitchen_0028b/rgb_00045", "train")
    assert (test.id, test.split) == ("official_splits/test/bath/rgb_1", "test")
    assert train.truth == "sync/kitchen_0028b/sync_depth_00045.png"
    assert (train.fx, train.fy, train.cx, train.cy) == CAMERA
    assert (test.fx, test.fy) == (500.0, 500.0)
    assert (train.height, train.width, train.top, train.left) == (6, 8, 0, 0)
    assert read_image(rows, 0).shape == (6, 8, 3)
    np.testing.assert_array_equal(read_truth(rows, 0), np.full((6, 8), 2, np.float32))


@pytest.mark.parametrize("line", ["/{image}", "{image} None", "{image} None 500"])
def test_unlabelled_lines_are_rows_without_truth(
    root: Path, pair: Pair, nyu: DataCard, line: str
) -> None:
    image, _ = pair()
    (root / "train.txt").write_text(line.format(image=image))

    rows = index(nyu, root)

    assert rows[0].truth is None
    with pytest.raises(DataError, match="'room/rgb_1' has no measured depth"):
        read_truth(rows, 0)
    with pytest.raises(DataError, match="'room/rgb_1' has no semantic classes"):
        read_labels(rows, 0)


def test_nyu40_labels_beside_the_image_become_the_13(root: Path, pair: Pair) -> None:
    image, depth = pair("rgb_7.png", "d.png")
    forty = np.zeros((6, 8), np.uint8)
    forty[0, :6] = [0, 1, 2, 4, 22, 40]  # unlabelled wall floor bed ceiling otherprop
    Image.fromarray(forty).save(root / "nyu40_7.png")
    (root / "nyu_test.txt").write_text(f"{image} {depth} 518.8579")

    rows = index(load_data("nyu"), root)

    assert rows[0].labels == "nyu40_7.png"
    assert read_labels(rows, 0)[0, :6].tolist() == [0, 12, 5, 1, 3, 7]


def test_an_unknown_option_is_a_card_error(root: Path) -> None:
    card = DataCard(name="toy", family="nyu", domain="nyu", options={"layuot": "mat"})

    with pytest.raises(CardError, match="data/toy: options: unknown key 'layuot'"):
        next(iter(list_rows(card, root)))


def write_mat(root: Path, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """The official layout: axis-reversed arrays. Gives images (N, H, W, 3), depth (N, H, W)."""
    random = np.random.default_rng(3)
    images = random.integers(1, 256, (count, 480, 640, 3), dtype=np.uint8)
    depths = random.uniform(0.7, 9.9, (count, 480, 640)).astype(np.float32)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        file["rawDepths"] = depths.transpose(0, 2, 1)
        file["depths"] = depths.transpose(0, 2, 1) + 1
    scipy.io.savemat(root / "splits.mat", {"trainNdxs": [[3], [1]], "testNdxs": [[2]]})
    return images, depths


def test_the_mat_file_gives_upright_images_and_measured_depth(root: Path) -> None:
    images, depths = write_mat(root)

    rows = index(MAT, root)

    assert [(r.id, r.split) for r in rows] == [
        ("rgb_00002", "train"),
        ("rgb_00000", "train"),
        ("rgb_00001", "test"),
    ]
    image = read_image(rows, 2)
    np.testing.assert_array_equal(image[7:474, 7:632], images[1, 7:474, 7:632])
    assert image[:7].max() == image[474:].max() == image[:, :7].max() == image[:, 632:].max() == 0
    np.testing.assert_allclose(read_truth(rows, 2), depths[1], atol=1.001e-3)
    assert len({r.image_digest for r in rows}) == 3


def test_an_image_that_was_replaced_in_the_mat_file_is_refused(root: Path) -> None:
    write_mat(root)
    rows = index(MAT, root)
    other = root / "other.mat"
    other.write_bytes((root / "nyu_depth_v2_labeled.mat").read_bytes())
    with h5py.File(other, "r+") as file:
        file["images"][1, 0, 320, 240] ^= 1  # one channel of one pixel
    os.utime(other, (1, 1))  # surely at another time
    other.replace(root / "nyu_depth_v2_labeled.mat")

    read_image(rows, 0)
    with pytest.raises(ChangedImageError, match=r"labeled\.mat#1 has changed since"):
        read_image(rows, 2)


def test_the_mat_file_and_the_converter_s_files_have_one_truth(root: Path) -> None:
    _, depths = write_mat(root)
    converted = (depths[0] * np.float32(1000)).astype(np.uint16)  # truncates, as BTS does
    Image.fromarray(converted).save(root / "d.png")
    Image.new("RGB", (640, 480)).save(root / "a.png")
    (root / "nyu_test.txt").write_text("a.png d.png 518.8579")

    of_list = index(load_data("nyu"), root, name="of-list")
    of_mat = index(MAT, root)

    np.testing.assert_array_equal(read_truth(of_list, 0), read_truth(of_mat, 1))


def test_filled_depth_and_the_border_are_options(root: Path) -> None:
    images, depths = write_mat(root)
    options = {"layout": "mat", "depth": "depths", "blank_border": False}

    rows = index(replace(MAT, options=options), root)

    np.testing.assert_array_equal(read_image(rows, 2), images[1])
    np.testing.assert_allclose(read_truth(rows, 2), depths[1] + 1, atol=1.001e-3)


def test_a_root_with_only_the_mat_file_needs_no_other_card(root: Path) -> None:
    write_mat(root)

    assert len(index(load_data("nyu"), root)) == 3


FORK = """
import os
from kdpipe.datasets import read_image
from kdpipe.rows import read_rows
from kdpipe.store import layout

rows = read_rows(layout.rows_path("toy"))
expected = read_image(rows, 0)
child = os.fork()
assert (read_image(rows, 0) == expected).all()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_opens_its_own_handle(root: Path) -> None:
    write_mat(root)
    index(MAT, root)

    # In a process of its own: this one has threads, which a fork would lose.
    done = subprocess.run([sys.executable, "-c", FORK], check=False)

    assert done.returncode == 0


def test_a_torn_or_wrong_mat_file_is_said(root: Path) -> None:
    with pytest.raises(DataError, match=r"labeled\.mat is missing: put NYU's labelled"):
        index(MAT, root)

    write_mat(root)
    whole = (root / "nyu_depth_v2_labeled.mat").read_bytes()
    (root / "nyu_depth_v2_labeled.mat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is no whole HDF5 file"):
        index(MAT, root)

    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.zeros((3, 480, 640, 3), np.uint8)
    with pytest.raises(DataError, match=r"found images \(3, 480, 640, 3\) and rawDepths \(\)"):
        index(MAT, root)


def test_wrong_splits_are_said(root: Path) -> None:
    write_mat(root)
    for train in ([[0]], [[4]], [[2]], [[1], [1]]):
        scipy.io.savemat(root / "splits.mat", {"trainNdxs": train, "testNdxs": [[2]]})
        with pytest.raises(DataError, match=r"numbers are not different ones of 1\.\.3"):
            index(MAT, root)
    (root / "splits.mat").write_bytes(b"MATLAB")
    with pytest.raises(DataError, match=r"is no splits\.mat with trainNdxs"):
        index(MAT, root)
    (root / "splits.mat").unlink()
    with pytest.raises(DataError, match=r"put NYU's official splits\.mat beside"):
        index(MAT, root)
