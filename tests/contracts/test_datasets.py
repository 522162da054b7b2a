"""Every data set family does the same: rows in a fixed order, frames, metres, intrinsics.

A new family needs a builder here that writes a small set of it; without one its test fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdpipe.cards import DataCard, load_data
from kdpipe.datasets import families, load_family, read_image, read_labels, read_truth, resolve_root
from kdpipe.datasets.index import index, run
from kdpipe.errors import ChangedImageError, DataError
from kdpipe.rows import Rows, read_rows
from kdpipe.store import layout


def write_pair(root: Path, image: str, truth: str | None, size: tuple[int, int]) -> None:
    random = np.random.default_rng(len(image))
    (root / image).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / image)
    if truth is not None:
        (root / truth).parent.mkdir(parents=True, exist_ok=True)
        depth = random.integers(300, 3000, size).astype(np.uint16)
        Image.fromarray(depth).save(root / truth)


def build_nyu(root: Path) -> DataCard:
    for split in ("train", "test"):
        write_pair(root, f"{split}/rgb_1.png", f"{split}/sync_depth_1.png", (48, 64))
        (root / f"nyu_{split}.txt").write_text(f"{split}/rgb_1.png {split}/sync_depth_1.png 518.8")
    return load_data("nyu")


def build_kitti(root: Path) -> DataCard:
    image, truth = "2011_09_26/d_sync/image_02/data/1.png", "d_sync/proj_depth/1.png"
    write_pair(root, image, truth, (375, 1242))
    (root / "kitti_eigen_train.txt").write_text(f"{image} {truth} 721.5377")
    return load_data("kitti")


def build_folder(root: Path) -> DataCard:
    write_pair(root, "a.png", None, (30, 20))
    write_pair(root, "b/c.png", None, (20, 30))
    return load_data("folder")


def build_rooms(root: Path) -> DataCard:
    sizes = {"train": 2, "val": 1, "test": 1, "pool": 0, "height": 48, "width": 64, "seed": 0}
    return DataCard(name="rooms", family="rooms", domain="rooms", options=sizes)


BUILDERS: Mapping[str, Callable[[Path], DataCard]] = {
    "nyu": build_nyu,
    "kitti": build_kitti,
    "folder": build_folder,
    "rooms": build_rooms,
}


@pytest.fixture(params=families())
def rows(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rows:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    card = BUILDERS[request.param](tmp_path / "files")
    given = None if card.domain == "rooms" else tmp_path / "files"
    return index(card, resolve_root(card, given))


def test_rows_are_listed_twice_alike(rows: Rows) -> None:
    family = load_family(rows.card.family)

    first, second = (list(family.list_rows(rows.card, rows.root)) for _ in range(2))

    assert first == second
    assert [r.id for r in first] == [r.id for r in rows]


def test_rows_are_named_by_path_and_split(rows: Rows) -> None:
    for row in rows:
        assert row.split in ("train", "val", "test")
        assert row.id
        assert not row.id.startswith("/")
        assert len(row.image_digest) == 16
        assert (row.bytes, row.mtime_ns) > (0, 0)
    assert len({r.id for r in rows}) == len(rows)


def test_the_frame_lies_in_the_image_and_so_do_the_intrinsics(rows: Rows) -> None:
    for row in rows:
        assert 0 <= row.top <= row.top + row.height <= row.image_height
        assert 0 <= row.left <= row.left + row.width <= row.image_width
        assert (row.fx is None) == (row.fy is None)
        assert row.fx is None or row.fx > 0


def test_images_are_rgb8_frames(rows: Rows) -> None:
    for number, row in enumerate(rows):
        image = read_image(rows, number)
        assert image.shape == (row.height, row.width, 3)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert image.std() > 0


def test_an_image_that_was_replaced_since_it_was_indexed_is_refused(rows: Rows) -> None:
    row = rows[0]
    other = np.full((row.image_height, row.image_width, 3), 7, np.uint8)  # of the same size
    Image.fromarray(other).save(rows.root / row.image)

    with pytest.raises(ChangedImageError, match=r"has changed since `kdpipe index`: put the old"):
        read_image(rows, 0)


def test_truth_is_metres_of_the_frame_where_there_is_any(rows: Rows) -> None:
    for number, row in enumerate(rows):
        if row.truth is None:
            with pytest.raises(DataError, match="has no measured depth"):
                read_truth(rows, number)
            continue
        truth = read_truth(rows, number)
        assert truth.shape == (row.height, row.width)
        assert truth.dtype == np.float32
        assert np.isfinite(truth).all()
        assert truth.min() >= 0
        assert rows.card.min_depth < truth[truth > 0].mean() < rows.card.max_depth


def test_labels_are_the_thirteen_classes_where_there_are_any(rows: Rows) -> None:
    for number, row in enumerate(rows):
        if row.labels is None:
            with pytest.raises(DataError, match="has no semantic classes"):
                read_labels(rows, number)
            continue
        labels = read_labels(rows, number)
        assert labels.shape == (row.height, row.width)
        assert labels.dtype == np.uint8
        assert labels.max() <= 13


def test_a_second_index_reads_nothing_and_writes_nothing(rows: Rows) -> None:
    path = layout.rows_path(rows.name)
    before = path.read_bytes(), path.stat().st_mtime_ns

    again = run(rows.card, rows.root)

    assert (again.new, again.changed, again.kept) == (0, 0, len(rows))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert list(read_rows(path)) == list(rows)


def test_rows_beyond_the_end_are_an_index_error(rows: Rows) -> None:
    with pytest.raises(IndexError):
        read_image(rows, len(rows))
