"""The real mini sets index without a change, where KDPIPE_REAL_DATA names their folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from kdpipe.cards import load_data
from kdpipe.datasets import read_image, read_labels, read_truth
from kdpipe.datasets.index import run


@pytest.fixture(scope="module")
def real() -> Path:
    folder = os.environ.get("KDPIPE_REAL_DATA")
    if not folder:
        pytest.skip("the mini sets are not there: KDPIPE_REAL_DATA is not set")
    return Path(folder)


@pytest.mark.parametrize(
    ("card", "folder", "splits", "labelled"),
    [
        ("nyu", "nyu_mini", {"train": 240, "val": 40, "test": 60}, 340),
        ("kitti", "kitti_mini", {"train": 48, "val": 8, "test": 2}, 58),
        ("folder", "unlabeled_mini", {"train": 232}, 0),
        ("folder", "unlabeled_mini/indoor_nyu", {"train": 70}, 0),
    ],
)
def test_the_mini_sets_index(
    real: Path, card: str, folder: str, splits: dict[str, int], labelled: int
) -> None:
    done = run(load_data(card), real / folder)

    assert (done.counts(), done.labelled()) == (splits, labelled)
    assert len(set(done.rows.table["image_digest"].to_pylist())) == len(done.rows)


def test_kitti_frames_of_both_native_sizes(real: Path) -> None:
    rows = run(load_data("kitti"), real / "kitti_mini").rows

    corners = {(r.image_height, r.image_width): (r.top, r.left) for r in rows}
    assert corners == {(375, 1242): (23, 13), (370, 1224): (18, 4)}
    for number in rows.of_split("test"):
        truth = read_truth(rows, number)
        assert truth.shape == read_image(rows, number).shape[:2] == (352, 1216)
        assert 0.02 < (truth > 0).mean() < 0.06  # one LiDAR scan
        assert rows[number].cx == pytest.approx(608, abs=20)


def test_nyu_has_classes_and_dense_depth(real: Path) -> None:
    rows = run(load_data("nyu"), real / "nyu_mini", limit=3).rows

    for number in range(len(rows)):
        assert (read_truth(rows, number) > 0.7).all()
        assert set(np.unique(read_labels(rows, number))) <= set(range(14))
