"""Index: every bad file is said in one line, and rows keep their numbers."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdpipe.cards import DataCard, load_data
from kdpipe.datasets import files, load_family, read_truth, resolve_root
from kdpipe.datasets.index import find_data, index, run
from kdpipe.errors import DataError, UnknownNameError
from kdpipe.rows import read_rows
from kdpipe.store import layout

Pair = Callable[..., tuple[str, str]]
NOBODY = 65534


def fill(root: Path, pair: Pair, numbers: range, name: str = "train.txt") -> None:
    lines = [" ".join(pair(f"{n}.png", f"d{n}.png", units=1000 + n)) + " 5" for n in numbers]
    (root / name).write_text("\n".join(lines))


@contextmanager
def counted_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    seen: set[str] = set()
    plain = files.read_bytes

    def read(path: Path) -> bytes:
        seen.add(path.name)
        return plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "read_bytes", read)
        yield seen


def test_rows_are_written_and_read_back(root: Path, pair: Pair, nyu: DataCard) -> None:
    fill(root, pair, range(3))
    fill(root, pair, range(3, 5), "test.txt")

    rows = index(nyu, root)

    back = read_rows(layout.rows_path("toy"))
    assert list(back) == list(rows)
    assert (back.root, back.card) == (root, nyu)
    assert rows.of_split("test") == [3, 4]
    assert rows[0].image_digest == files.digest_of((root / "0.png").read_bytes())
    assert rows[0].truth_bytes == (root / "d0.png").stat().st_size


def test_a_second_run_reads_only_what_is_new_or_changed(
    root: Path, pair: Pair, nyu: DataCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, pair, range(3))
    first = index(nyu, root)
    fill_time = layout.rows_path("toy").stat().st_mtime_ns

    with counted_reads(monkeypatch) as seen:
        again = run(nyu, root)
    assert (again.new, again.changed, again.kept, seen) == (0, 0, 3, set())
    assert layout.rows_path("toy").stat().st_mtime_ns == fill_time

    pair("1.png", "d1.png", units=9)  # in the same bytes perhaps, but not at the same time
    os.utime(root / "1.png", ns=(1, 1))
    pair("9.png", "d9.png")
    (root / "train.txt").write_text(
        "9.png d9.png 5\n" + "\n".join(f"{n}.png d{n}.png 5" for n in range(3))
    )
    with counted_reads(monkeypatch) as seen:
        grown = run(nyu, root)
    assert (grown.new, grown.changed, grown.kept) == (1, 1, 2)
    assert seen == {"1.png", "d1.png", "9.png", "d9.png"}
    assert [r.id for r in grown.rows] == ["0", "1", "2", "9"]  # new rows come at the end
    assert grown.rows[0] == first[0]
    assert grown.rows[1].image_digest != first[1].image_digest


def test_only_another_image_is_said_to_be_refused_not_a_touched_file(
    root: Path, pair: Pair, nyu: DataCard, caplog: pytest.LogCaptureFixture
) -> None:
    fill(root, pair, range(3))
    index(nyu, root)

    os.utime(root / "0.png", ns=(1, 1))
    touched = run(nyu, root)
    assert touched.changed == 1
    assert "refuse" not in caplog.text

    Image.new("RGB", (8, 6), "red").save(root / "1.png")
    os.utime(root / "2.png", ns=(1, 1))
    assert run(nyu, root).changed == 2
    assert "1 rows changed; `teach` will refuse shards with them" in caplog.text


def test_a_changed_depth_file_is_checked_again(root: Path, pair: Pair, nyu: DataCard) -> None:
    fill(root, pair, range(2))
    index(nyu, root)
    Image.new("L", (8, 6), 3).save(root / "d1.png")

    with pytest.raises(DataError, match=r"train\.txt line 2: d1\.png is a 8-bit picture"):
        index(nyu, root)


def test_a_changed_card_moves_the_frame_without_a_new_number(
    root: Path, pair: Pair, nyu: DataCard
) -> None:
    pair("a.png", "d.png", size=(360, 1220))
    (root / "train.txt").write_text("a.png d.png 5")
    index(nyu, root)

    done = run(replace(nyu, crop="kitti-benchmark"), root)

    assert (done.new, done.changed) == (0, 1)
    assert (done.rows[0].top, done.rows[0].left) == (8, 2)
    assert done.rows[0].cx is None
    assert read_rows(layout.rows_path("toy")).card.crop == "kitti-benchmark"


def test_rows_that_are_gone_are_an_error_that_says_what_to_do(
    root: Path, pair: Pair, nyu: DataCard
) -> None:
    fill(root, pair, range(3))
    index(nyu, root)
    before = layout.rows_path("toy").read_bytes()
    (root / "train.txt").write_text("0.png d0.png 5\n2.png d2.png 5")

    with pytest.raises(DataError, match=r"has 1 rows that are not listed any more \(first: '1'\)"):
        index(nyu, root)
    assert layout.rows_path("toy").read_bytes() == before


def test_the_limit_counts_each_split_and_can_grow(root: Path, pair: Pair, nyu: DataCard) -> None:
    fill(root, pair, range(4))
    fill(root, pair, range(4, 8), "test.txt")

    assert [r.id for r in index(nyu, root, limit=2)] == ["0", "1", "4", "5"]
    assert [r.id for r in index(nyu, root)] == ["0", "1", "4", "5", "2", "3", "6", "7"]
    with pytest.raises(DataError, match="or the longer --limit back"):
        index(nyu, root, limit=1)


def test_the_limit_spares_missing_files_behind_it(root: Path, pair: Pair, nyu: DataCard) -> None:
    fill(root, pair, range(3))
    (root / "2.png").unlink()

    assert len(index(nyu, root, limit=2)) == 2


def test_an_interrupted_or_failed_index_keeps_what_was_there(
    root: Path, pair: Pair, nyu: DataCard
) -> None:
    fill(root, pair, range(3))

    def interrupt(done: int, total: int) -> None:
        assert (done, total) == (1, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(nyu, root, progress=interrupt)
    assert not list(Path.cwd().rglob("*.*"))


def test_a_full_disk_leaves_the_rows_of_last_time(
    root: Path, pair: Pair, nyu: DataCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, pair, range(1))
    index(nyu, root)
    before = layout.rows_path("toy").read_bytes()

    def fill_up(_table: object, half: Path) -> None:
        half.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", fill_up)
    fill(root, pair, range(2))
    with pytest.raises(OSError, match="No space left"):
        index(nyu, root)

    (only,) = layout.rows_path("toy").parent.iterdir()
    assert only.read_bytes() == before


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


def test_an_order_that_changed_leaves_all_numbers_as_they_were(
    root: Path, pair: Pair, nyu: DataCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdpipe.datasets.changes._BATCH", 2)
    fill(root, pair, range(5))
    first = index(nyu, root)
    lines = (root / "train.txt").read_text().splitlines()
    (root / "train.txt").write_text("\n".join([*reversed(lines)]))
    os.utime(root / "3.png", ns=(1, 1))

    with counted_reads(monkeypatch) as seen:
        again = run(nyu, root)

    assert (again.new, again.changed, again.kept, seen) == (0, 1, 4, {"3.png", "d3.png"})
    assert [one.id for one in again.rows] == [one.id for one in first]
    assert again.rows[3].mtime_ns == 1


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


def test_the_folder_comes_from_the_flag_the_card_the_environment_or_last_time(
    root: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card = load_data("nyu")
    with pytest.raises(DataError, match="'nyu' are is not said: pass --root FOLDER or set NYU_DIR"):
        resolve_root(card, None)
    with pytest.raises(DataError, match="gone', the folder of 'nyu', is not there: pass --root"):
        resolve_root(card, tmp_path / "gone")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        resolve_root(card, tmp_path / "file")

    monkeypatch.setenv("NYU_DIR", str(root))
    assert resolve_root(card, None) == root
    assert resolve_root(replace(card, root="."), None) == Path()
    assert resolve_root(replace(card, root="."), root) == root

    monkeypatch.delenv("NYU_DIR")
    fill(root, pair, range(1), "nyu_test.txt")
    index(card, root)
    assert find_data("nyu") == (card, root)


def test_a_named_folder_is_found_again_by_its_name(root: Path, pair: Pair) -> None:
    pair("a.png", "b.png")
    card, folder = find_data("folder", root=root, name="photos")
    index(card, folder)

    assert card.name == "photos"
    assert find_data("photos") == (card, root)
    with pytest.raises(UnknownNameError, match="'photo'"):
        find_data("photo")


def test_a_name_cannot_leave_the_folder_or_take_another_set_s_place(
    root: Path, pair: Pair, nyu: DataCard
) -> None:
    fill(root, pair, range(1))
    for name in ("../x", "a/b", "a+b", "a,b", "", ".x", "a b"):
        with pytest.raises(DataError, match="found the name"):
            index(nyu, root, name=name or "/")
    index(nyu, root)
    with pytest.raises(DataError, match="holds a set of family 'nyu', this one is 'folder'"):
        index(load_data("folder"), root, name="toy")


def test_depth_that_changed_its_size_since_is_not_read_as_a_frame(
    root: Path, pair: Pair, nyu: DataCard
) -> None:
    fill(root, pair, range(1))
    rows = index(nyu, root)
    Image.fromarray(np.ones((6, 9), np.uint16)).save(root / "d0.png")

    with pytest.raises(DataError, match=r"d0\.png is 6x9 now, 6x8 when it was indexed"):
        read_truth(rows, 0)


@pytest.mark.parametrize("name", ["my photos", "fotos-ü", "../x", "none", "", "x" * 101])
def test_a_name_that_no_path_or_run_could_carry_is_refused(root: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"found the name .*, expected 1 to 100") as said:
        find_data("folder", root=root, name=name)

    assert len(str(said.value)) < 300


@pytest.mark.parametrize("name", ["nyuu", "files", "index", "../nyu", "nyu.x", ""])
def test_an_unknown_family_is_answered_with_the_known(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"Known: .*folder, kitti, nyu"):
        load_family(name)
