"""Index: every bad file is said in one line, with its list and line number."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.datasets.conftest import Pair, fill

from kdpipe.cards import DataCard, load_data
from kdpipe.datasets import load_family, read_truth
from kdpipe.datasets.index import index
from kdpipe.errors import DataError
from kdpipe.store import layout

NOBODY = 65534


def test_a_changed_depth_file_is_checked_again(root: Path, pair: Pair, nyu: DataCard) -> None:
    fill(root, pair, range(2))
    index(nyu, root)
    Image.new("L", (8, 6), 3).save(root / "d1.png")
    os.utime(root / "d1.png", ns=(1, 1))

    with pytest.raises(DataError, match=r"train\.txt line 2: d1\.png is a 8-bit picture"):
        index(nyu, root)


def break_truth_size(root: Path) -> None:
    Image.fromarray(np.full((5, 8), 9, np.uint16)).save(root / "d1.png")


def break_truth_zero(root: Path) -> None:
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(root / "d1.png")


def break_truth_scale(root: Path) -> None:
    Image.fromarray(np.full((6, 8), 60000, np.uint16)).save(root / "d1.png")


def break_truth_bits(root: Path) -> None:
    Image.new("L", (8, 6), 9).save(root / "d1.png")


def break_image(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "1.png")
    whole = (root / "1.png").read_bytes()
    (root / "1.png").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (break_truth_size, "d1.png is 5x8, its image 1.png is 6x8: both must have one size"),
        (break_truth_zero, "d1.png has no measured pixel (all 0): write None in its place"),
        (break_truth_scale, "d1.png holds 60..60 m, nothing between the 0.001 and 10 m"),
        (break_truth_bits, "d1.png is a 8-bit picture: depth needs a 16-bit grey PNG"),
        (break_image, "1.png is no whole image ("),
        (lambda root: (root / "1.png").unlink(), "1.png is missing: put it there, or take it out"),
        (lambda root: (root / "d1.png").unlink(), "d1.png is missing: put it there"),
        (lambda root: (root / "1.png").write_bytes(b""), "1.png is empty (0 bytes): fetch it"),
    ],
)
def test_a_bad_file_is_one_line_with_list_and_line_number(
    root: Path, pair: Pair, nyu: DataCard, harm: Callable[[Path], object], said: str
) -> None:
    fill(root, pair, range(3))
    harm(root)

    with pytest.raises(DataError) as caught:
        index(nyu, root)

    assert str(caught.value).startswith(f"{root / 'train.txt'} line 2: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not layout.rows_path("toy").exists()


def test_an_npy_truth_with_nan_is_refused(root: Path, pair: Pair, nyu: DataCard) -> None:
    image, _ = pair("a.png", "d.png")
    depth = np.full((6, 8), 2.5, np.float32)
    np.save(root / "d.npy", depth)
    (root / "train.txt").write_text(f"{image} d.npy 5")
    rows = index(nyu, root)
    assert rows[0].truth_scale == 1.0

    depth[2, 2] = np.nan
    np.save(root / "d.npy", depth)
    os.utime(root / "d.npy", ns=(1, 1))
    with pytest.raises(DataError, match=r"line 1: d\.npy holds 1 negative or not finite values"):
        index(nyu, root)


def test_one_image_listed_twice_names_both_lines(root: Path, pair: Pair, nyu: DataCard) -> None:
    fill(root, pair, range(2))
    fill(root, pair, range(1, 3), "test.txt")

    with pytest.raises(DataError, match=r"test\.txt line 1: '1\.png' and .*train\.txt line 2: "):
        index(nyu, root)


@contextmanager
def as_another_user() -> Iterator[None]:
    """Root reads every file, so the test proves nothing as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_row_listed_again_after_its_like_of_last_time_names_both(
    root: Path, pair: Pair, nyu: DataCard
) -> None:
    fill(root, pair, range(3))
    index(nyu, root)
    lines = (root / "train.txt").read_text()
    (root / "train.txt").write_text(f"{lines}\n1.png d1.png 5")

    with pytest.raises(DataError, match=r"line 4: '1\.png' and '1\.png' have the same id '1'"):
        index(nyu, root)


@pytest.mark.parametrize("what", ["1.png", "d1.png", "train.txt", "."])
def test_what_this_user_may_not_read_is_said(
    nyu: DataCard, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        root.chmod(0o755)
        monkeypatch.chdir(root)
        for number in range(2):
            Image.new("RGB", (8, 6)).save(root / f"{number}.png")
            Image.fromarray(np.full((6, 8), 900, np.uint16)).save(root / f"d{number}.png")
        (root / "train.txt").write_text("0.png d0.png 5\n1.png d1.png 5")
        index(nyu, root, name="warm")  # the other user may not read Python's own files either
        sub = root / "sub"
        sub.mkdir()
        (sub / "x.png").write_bytes(b"x")
        card = nyu
        if what == ".":
            sub.chmod(0)
            card = load_data("folder")
            load_family(card.family)
        else:
            (root / what).chmod(0)

        with as_another_user():
            if not os.access(root, os.R_OK | os.X_OK, effective_ids=True):
                pytest.skip("another user cannot reach the temporary folder")
            with pytest.raises(DataError, match="cannot be read") as caught:
                index(card, root)

        monkeypatch.undo()
    assert "Permission denied" in str(caught.value)
    assert ("sub" if what == "." else what) in str(caught.value)


def test_depth_that_changed_its_size_since_is_not_read_as_a_frame(
    root: Path, pair: Pair, nyu: DataCard
) -> None:
    fill(root, pair, range(1))
    rows = index(nyu, root)
    Image.fromarray(np.ones((6, 9), np.uint16)).save(root / "d0.png")

    with pytest.raises(DataError, match=r"d0\.png is 6x9 now, 6x8 when it was indexed"):
        read_truth(rows, 0)
