"""`rooms`: the same files for any number of processes, disjoint rooms, honest rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from kdpipe.cards import DataCard, load_data
from kdpipe.datasets import rooms
from kdpipe.errors import CardError, DataError

SMALL = rooms.Options(train=5, val=4, test=4, pool=4, height=48, width=64)


def _card(**options: object) -> DataCard:
    sizes = {"train": 2, "val": 0, "test": 1, "pool": 0, "height": 32, "width": 48}
    return DataCard(name="tiny", family="rooms", domain="rooms", options={**sizes, **options})


def _digests(root: Path) -> dict[str, str]:
    files = (p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_one_and_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    rooms.render_missing(SMALL, tmp_path / "one", processes=1)
    rooms.render_missing(SMALL, tmp_path / "two", processes=2)

    one = _digests(tmp_path / "one")
    assert one == _digests(tmp_path / "two")
    assert len(one) == 4 * (4 * 3 + 1) + (4 + 1)  # the pool's scene has no depth and no labels


def test_no_two_images_are_the_same_in_any_two_splits(tmp_path: Path) -> None:
    rooms.render_missing(SMALL, tmp_path, processes=1)

    digests = [d for name, d in _digests(tmp_path).items() if name.endswith(".jpg")]
    assert len(set(digests)) == len(digests)


def test_rooms_of_two_splits_differ_and_a_split_grows_without_changing() -> None:
    def first(part: str, **changes: int) -> bytes:
        options = replace(SMALL, **changes)
        return next(rooms.render_views(options, part, 0)).depth.tobytes()

    assert first("train") == first("train", train=400)
    seen = [first(part) for part in ("train", "val", "test", "pool")] + [first("train", seed=1)]
    assert len(set(seen)) == 5


def test_rows_name_the_files_and_their_size(tmp_path: Path) -> None:
    rows = list(rooms.list_rows(_card(pool=3), tmp_path))

    assert [(r.id, r.split) for r in rows] == [
        ("train/00000_0", "train"),
        ("train/00000_1", "train"),
        ("test/00000_0", "test"),
        ("pool/00000_0", "train"),
        ("pool/00000_1", "train"),
        ("pool/00000_2", "train"),
    ]
    assert [r.truth is None for r in rows] == [False, False, False, True, True, True]
    for row in rows:
        with PillowImage.open(tmp_path / row.image) as image:
            assert image.size == (row.width, row.height) == (48, 32)


def test_depth_files_hold_the_rendered_depth_to_a_tenth_of_a_millimetre(tmp_path: Path) -> None:
    row = next(rooms.list_rows(_card(), tmp_path))
    options = rooms.Options(train=2, val=0, test=1, height=32, width=48)
    seen = next(rooms.render_views(options, "train", 0))

    assert row.truth is not None
    assert row.labels is not None
    with PillowImage.open(tmp_path / row.truth) as file:
        depth = np.asarray(file).astype(np.float64) * row.truth_scale
    with PillowImage.open(tmp_path / row.labels) as file:
        labels = np.asarray(file)

    assert np.abs(depth - seen.depth).max() <= 0.5001 * rooms.UNIT
    np.testing.assert_array_equal(labels, seen.labels)
    assert row.fx == seen.camera.fx


def test_what_is_complete_is_kept_and_what_is_missing_comes_back(tmp_path: Path) -> None:
    options = replace(SMALL, val=0, test=0, pool=0, train=8)
    rooms.render_missing(options, tmp_path, processes=1)
    before = _digests(tmp_path)

    (tmp_path / "train/00001_2_depth.png").unlink()
    again = rooms.render_missing(options, tmp_path, processes=1)

    assert again == 1
    assert _digests(tmp_path) == before
    assert rooms.render_missing(options, tmp_path) == 0


def test_another_recipe_is_rendered_anew(tmp_path: Path) -> None:
    options = replace(SMALL, val=0, test=0, pool=0, train=4)
    rooms.render_missing(options, tmp_path, processes=1)

    assert rooms.render_missing(replace(options, seed=3), tmp_path, processes=1) == 1
    marker = json.loads((tmp_path / "train/00000.json").read_text())
    assert marker["recipe"] == replace(options, seed=3).recipe


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"trian": 3}, "unknown key 'trian'", id="unknown-key"),
        pytest.param({"train": "many"}, "expected a whole number", id="wrong-type"),
        pytest.param({"train": -1}, "counts must be", id="negative"),
        pytest.param({"train": 0, "test": 0}, "not all 0", id="empty"),
        pytest.param({"height": 8}, "height and width", id="too-small"),
        pytest.param({"seed": -1}, "seed must be", id="seed"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(CardError, match=said):
        list(rooms.list_rows(_card(**options), tmp_path))


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("in the way")

    with pytest.raises(DataError, match="cannot write rooms below"):
        list(rooms.list_rows(_card(), tmp_path))


def test_the_shipped_cards_are_of_this_family() -> None:
    labelled, pool = load_data("rooms"), load_data("rooms-pool")

    assert labelled.family == pool.family == "rooms"
    assert pool.options["pool"]
    assert not pool.options["train"]


@pytest.mark.parametrize("scene", range(4))
def test_rooms_are_furnished_and_in_range(scene: int) -> None:
    for seen in rooms.render_views(SMALL, "train", scene):
        assert seen.depth.min() > 0.1
        assert seen.depth.max() < 10
        assert seen.labels.min() >= 1
        assert seen.labels.max() <= 13
        assert len(np.unique(seen.labels)) >= 3
        assert 25 < seen.image.mean() < 230
        assert seen.image.std() > 15


def test_the_pictures_change_only_with_the_revision() -> None:
    options = rooms.Options(height=48, width=64)
    views = list(rooms.render_views(options, "train", 0))

    assert rooms.REVISION == 2, "the pictures changed: write down the new figures below"
    depths = [float(v.depth.mean(dtype=np.float64)) for v in views]
    levels = [float(v.image.mean()) for v in views]
    np.testing.assert_allclose(depths, [3.1414, 3.5483, 3.3357, 3.0295], atol=2e-3)
    np.testing.assert_allclose(levels, [102.89, 105.34, 107.92, 119.93], atol=0.2)
