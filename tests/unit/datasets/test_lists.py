"""Lists: every published form is read, every malformed line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdpipe.cards import DataCard
from kdpipe.datasets.lists import Line, read_list, read_lists
from kdpipe.errors import DataError, UnknownNameError


def listed(folder: Path, text: str) -> list[Line]:
    (folder / "l.txt").write_text(text, encoding="utf-8")
    return read_list(folder / "l.txt")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/a/b.jpg /a/d.png 518.8", ("a/b.jpg", "a/d.png", 518.8)),
        ("a/b.jpg a/d.png 518.8", ("a/b.jpg", "a/d.png", 518.8)),
        ("a/b.png None 721.5", ("a/b.png", None, 721.5)),
        ("a/b.jpg a/d.npy", ("a/b.jpg", "a/d.npy", None)),
        ("a/b.jpg None", ("a/b.jpg", None, None)),
        ("./a//b.JPG", ("a/b.JPG", None, None)),
        ("a/b.png a/d.png 7 a/right.png a/d2.png", ("a/b.png", "a/d.png", 7.0)),
    ],
)
def test_every_published_form_of_a_line(
    tmp_path: Path, line: str, expected: tuple[str, str | None, float | None]
) -> None:
    (one,) = listed(tmp_path, line)

    assert (one.image, one.truth, one.focal) == expected


def test_byte_order_mark_windows_ends_blank_lines_and_no_last_newline(tmp_path: Path) -> None:
    lines = listed(tmp_path, "\ufeffa.jpg d.png 5\r\n\r\nb.jpg e.png 6")

    assert [(x.image, x.focal) for x in lines] == [("a.jpg", 5.0), ("b.jpg", 6.0)]
    assert lines[1].origin.endswith("l.txt line 3")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("b.jpg e.png", "found 2 columns ('b.jpg e.png'), expected 3"),
        ("b.jpg", "found 1 columns"),
        ("2011/b.png 2011/groundtruth/im", "found 2 columns"),  # as TIE-KD's last line
        ("b.jpg sub/groundtruth/im 5", "expected a path that ends in one of .npy .png"),
        ("b.txt e.png 5", "expected a path that ends in one of .bmp"),
        ("../b.jpg e.png 5", "leaves the data set's folder"),
        ("b.jpg x/../../e.png 5", "leaves the data set's folder"),
        ("//etc/b.jpg e.png 5", "leaves the data set's folder"),
        ("b\0.jpg e.png 5", "expected a path that ends"),
        ("b.jpg e.png five", "found focal length 'five', expected pixels > 0"),
        ("b.jpg e.png -5", "expected pixels > 0"),
        ("b.jpg e.png nan", "expected pixels > 0"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, bad: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        listed(tmp_path, f"a.jpg d.png 5\n{bad}\nc.jpg f.png 5\n")

    assert f"{tmp_path / 'l.txt'} line 2: " in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_list_is_an_empty_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lists no image: its split would be empty"):
        listed(tmp_path, "\n \n")


def test_a_binary_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00a.jpg")

    with pytest.raises(DataError, match="cannot be read as a list"):
        read_list(tmp_path / "l.txt")


def test_lists_have_several_names_and_a_missing_val_is_fine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"train": "one.txt | two.txt", "val": "val.txt", "test": "test.txt"}
    card = DataCard(name="toy", family="nyu", domain="nyu", lists=names)
    (tmp_path / "two.txt").write_text("a.jpg d.png 5")
    (tmp_path / "train_test_inputs").mkdir()
    (tmp_path / "train_test_inputs" / "test.txt").write_text("b.jpg e.png 5")

    found = [(split, line.image) for split, line in read_lists(card, tmp_path)]

    assert found == [("train", "a.jpg"), ("test", "b.jpg")]
    assert not caplog.records
    (tmp_path / "two.txt").unlink()
    list(read_lists(card, tmp_path))
    assert "no list for split 'train'" in caplog.text


def test_no_list_at_all_and_a_wrong_split_are_errors(tmp_path: Path) -> None:
    card = DataCard(name="toy", family="nyu", domain="nyu", lists={"train": "one.txt | two.txt"})
    with pytest.raises(DataError, match=r"has no list of 'toy' \(one\.txt …\): pass the --root"):
        list(read_lists(card, tmp_path))

    card = DataCard(name="toy", family="nyu", domain="nyu", lists={"valid": "one.txt"})
    with pytest.raises(UnknownNameError, match=r"'valid'\. Known: test, train, val"):
        list(read_lists(card, tmp_path))
