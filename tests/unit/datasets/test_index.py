"""Index: rows are written, grow, and keep their numbers; only what changed is read again."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from tests.unit.datasets.conftest import Pair, fill

from kdpipe.datasets import files
from kdpipe.datasets.index import index, run
from kdpipe.errors import DataError
from kdpipe.rows import read_rows
from kdpipe.store import layout

if TYPE_CHECKING:
    from kdpipe.cards import DataCard


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
    for name in ("1.png", "2.png"):
        os.utime(root / name, ns=(2, 2))
    assert run(nyu, root).changed == 2
    assert "1 rows changed; `teach` will refuse shards with them" in caplog.text


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
