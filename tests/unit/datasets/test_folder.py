"""Folders: any images, sorted, whole or refused together."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from kdpipe.cards import load_data
from kdpipe.datasets import read_image, read_truth
from kdpipe.datasets.index import index
from kdpipe.errors import DataError

FOLDER = load_data("folder")


def photo(path: Path, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 50).save(path)


def test_images_of_any_kind_and_size_sorted_by_path(root: Path) -> None:
    photo(root / "b" / "two words.JPG", (30, 20))
    photo(root / "b" / "a.png", (5, 4), "L")
    photo(root / "ä.webp", (9, 7))
    photo(root / "Z.tiff", (3, 3), "CMYK")
    photo(root / ".hidden" / "x.png")
    photo(root / "b" / "._a.png")
    (root / "notes.txt").write_text("no image")

    rows = index(FOLDER, root, name="photos")

    assert [r.image for r in rows] == ["Z.tiff", "b/a.png", "b/two words.JPG", "ä.webp"]
    assert [r.id for r in rows] == ["Z", "b/a", "b/two words", "ä"]
    assert [(r.height, r.width) for r in rows] == [(3, 3), (4, 5), (20, 30), (7, 9)]
    assert {r.split for r in rows} == {"train"}
    assert all(r.truth is None and r.fx is None for r in rows)
    assert [read_image(rows, n).shape for n in range(4)] == [
        (3, 3, 3),
        (4, 5, 3),
        (20, 30, 3),
        (7, 9, 3),
    ]
    with pytest.raises(DataError, match="has no measured depth"):
        read_truth(rows, 0)


def test_sizes_are_those_of_the_upright_image(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(root / "a.jpg", exif=exif)

    rows = index(FOLDER, root)

    assert (rows[0].height, rows[0].width) == (8, 6)
    assert read_image(rows, 0).shape == (8, 6, 3)


def test_sub_folders_can_be_chosen(root: Path) -> None:
    for name in ("in/a.png", "in/deep/b.png", "out/c.png", "d.png"):
        photo(root / name)

    card = replace(FOLDER, options={"folders": ["in"]})
    assert [r.id for r in index(card, root)] == ["in/a", "in/deep/b"]

    listed = replace(card, lists={"train": "l.txt"})
    (root / "l.txt").write_text("out/c.png\nin/a.png")
    assert [r.id for r in index(listed, root, name="listed")] == ["in/a"]

    for wrong, said in (("inn", "is no folder"), ("../x", "leaves the data set's folder")):
        with pytest.raises(DataError, match=said):
            index(replace(FOLDER, options={"folders": [wrong]}), root)


def test_a_list_of_images_with_focal_lengths(root: Path) -> None:
    photo(root / "a.png")
    (root / "l.txt").write_text("a.png None 500")

    (row,) = index(replace(FOLDER, lists={"train": "l.txt"}), root)

    assert (row.fx, row.truth) == (500.0, None)


def test_bad_images_are_named_and_counted_and_nothing_is_written(root: Path) -> None:
    photo(root / "good.png")
    for number in range(7):
        (root / f"bad{number}.jpg").write_bytes(b"no image")

    with pytest.raises(DataError) as caught:
        index(FOLDER, root, name="photos")

    said = str(caught.value)
    assert said.startswith("7 of 8 files are bad: bad0.jpg is no whole image")
    assert "bad4.jpg" in said
    assert "bad5.jpg" not in said
    assert said.endswith("; and 2 more")
    assert not list(Path.cwd().rglob("*"))


def test_two_images_of_one_id_are_refused(root: Path) -> None:
    photo(root / "a.png")
    photo(root / "a.jpg")

    with pytest.raises(DataError, match=r"'a\.png' and 'a\.jpg' have the same id 'a'"):
        index(FOLDER, root)


def test_no_image_is_said(root: Path) -> None:
    (root / "a.heic").write_bytes(b"x")

    with pytest.raises(DataError, match=r"holds no image \(\.bmp .+\) of 'folder'"):
        index(FOLDER, root)


def test_a_pipe_and_a_dead_link_are_no_images(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png is no plain file"):
        index(FOLDER, root)

    (root / "pipe.png").unlink()
    (root / "link.png").symlink_to(root / "gone.png")
    with pytest.raises(DataError, match=r"link\.png is missing"):
        index(FOLDER, root)


def test_a_name_that_is_no_text_is_said(root: Path) -> None:
    try:
        (root / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")

    with pytest.raises(DataError, match="is no UTF-8: rename the file"):
        index(FOLDER, root)
