"""Rows: what is written is read, and what could harm is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from kdpipe.cards import DataCard
from kdpipe.errors import DataError
from kdpipe.rows import Row, json_of, make_rows, read_rows, write_rows

CARD = DataCard(name="toy", family="folder", domain="any")


def row(number: int, split: str = "train") -> Row:
    return Row(
        id=f"a/{number}",
        split=split,
        image=f"a/{number}.png",
        image_height=4,
        image_width=6,
        height=4,
        width=6,
        image_digest=f"{number:016x}",
    )


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = make_rows(CARD, Path("some where"), [row(0), replace(row(1, "test"), truth="t.png")])

    write_rows(tmp_path / "toy.parquet", rows)
    back = read_rows(tmp_path / "toy.parquet")

    assert list(back) == list(rows)
    assert (back.card, back.root, back.name) == (CARD, Path("some where"), "toy")
    assert back.of_split("test") == [1]
    assert not list(tmp_path.glob("*.tmp"))


def test_an_empty_split_is_an_error_that_names_the_others() -> None:
    with pytest.raises(DataError, match=r"no row of split 'val'\. Splits: train"):
        make_rows(CARD, Path(), [row(0)]).of_split("val")


def test_two_rows_with_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="two rows have the id 'a/0'"):
        make_rows(CARD, Path(), [row(0), row(0)])


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.png", "a/../../b.png"])
def test_a_path_that_leaves_the_root_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="leaves the data set's folder"):
        make_rows(CARD, Path(), [replace(row(0), image=path)])


def test_the_digest_follows_identity_and_not_the_clock() -> None:
    rows = make_rows(CARD, Path(), [row(0), row(1)])
    touched = make_rows(CARD, Path(), [replace(row(0), mtime_ns=7), row(1)])
    edited = make_rows(CARD, Path(), [replace(row(0), image_digest="f"), row(1)])
    swapped = make_rows(CARD, Path(), [row(1), row(0)])

    assert rows.digest(0, 2) == touched.digest(0, 2)
    assert rows.digest(0, 2) not in (edited.digest(0, 2), swapped.digest(0, 2))
    assert rows.digest(1, 2) == edited.digest(1, 2)


def test_a_torn_footer_is_said(tmp_path: Path) -> None:
    path = tmp_path / "toy.parquet"
    write_rows(path, make_rows(CARD, Path(), [row(0)]))
    whole = path.read_bytes()

    for at in range(len(whole) - 400, len(whole) - 8, 5):
        path.write_bytes(whole[:at] + bytes(5) + whole[at + 5 :])
        with contextlib.suppress(DataError):  # some bytes are without effect, none a traceback
            read_rows(path)


def test_a_missing_or_wrong_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run `kdpipe index --data toy` first"):
        read_rows(tmp_path / "toy.parquet")
    (tmp_path / "toy.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="is not a rows file of kdpipe"):
        read_rows(tmp_path / "toy.parquet")


ODD = ["plain", 'quo"te', "back\\slash", "tab\t", "snowman ☃", "", "\x7f", None]
NUMBERS = [None, 0.0, -0.0, 1e16, 1e-7, 518.8579, 50.0, float("nan")]


def test_the_text_of_a_table_is_that_of_the_standard_library() -> None:
    table = pa.table(
        {
            "id": pa.array(ODD, pa.string()),
            "fx": pa.array(NUMBERS, pa.float64()),
            "top": pa.array([None, *range(7)], pa.int32()),
            "plain": pa.array([*"abcdefg", None], pa.string()),
        }
    )

    for part in (table, table.slice(2, 3), table.slice(0, 0)):
        expected = json.dumps(part.to_pylist(), sort_keys=True)
        assert b"".join(json_of(part)).decode() == expected


def test_a_long_table_is_text_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdpipe.rows._AT_ONCE", 3)
    table = make_rows(CARD, Path(), [row(number) for number in range(7)]).table

    assert b"".join(json_of(table)).decode() == json.dumps(table.to_pylist(), sort_keys=True)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 2), (1, 7), (2, 6), (3, 4), (6, 7), (4, 4), (3, 3)]
)
def test_the_digest_is_of_the_json_wherever_it_is_cut(
    start: int, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdpipe.rows._AT_ONCE", 3)
    rows = make_rows(CARD, Path(), [row(number) for number in range(7)])
    names = ("id", "image_digest", "fx", "top", "left", "height", "width")
    part = rows.table.slice(start, stop - start).select(names).to_pylist()

    text = json.dumps(part, sort_keys=True)

    assert rows.digest(start, stop) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert pickle.loads(pickle.dumps(rows)).digest(start, stop) == rows.digest(start, stop)
