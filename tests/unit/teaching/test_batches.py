"""Images as a teacher takes them: of one size, in order, read a little ahead."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.toy_teacher import make_photos, photo

from kdpipe.datasets import read_image
from kdpipe.errors import StoreError
from kdpipe.rows import make_rows
from kdpipe.teaching import batches
from kdpipe.teaching.batches import BatchReader, ahead

if TYPE_CHECKING:
    from kdpipe.rows import Rows
    from kdpipe.types import Image


def test_neighbours_of_one_size_come_together_and_in_order() -> None:
    rows = make_photos(7, sizes=((12, 16), (12, 16), (12, 16), (8, 20)))
    bad: dict[int, str] = {}

    read = list(BatchReader(rows, 2).read(1, 7, bad))

    assert [batch.numbers for batch in read] == [[1, 2], [3], [4, 5], [6]]
    assert read[0].images.shape == (2, 12, 16, 3)
    assert np.array_equal(read[1].images[0], photo(3, 8, 20))
    assert bad == {}


def test_an_unreadable_image_is_noted_and_the_rest_goes_on() -> None:
    rows = make_photos(4)
    Path("photos/0002.png").write_bytes(b"no image")
    bad: dict[int, str] = {}

    read = list(BatchReader(rows, 8).read(0, 4, bad))

    assert [batch.numbers for batch in read] == [[0, 1, 3]]
    assert list(bad) == [2]
    assert "0002.png" in bad[2]


def test_a_folder_that_is_gone_is_no_bad_image() -> None:
    rows = make_photos(4)
    Path("photos").rename("unmounted")
    bad: dict[int, str] = {}

    with pytest.raises(StoreError, match=r"photos, where photos's images were, is not there"):
        list(BatchReader(rows, 8).read(0, 4, bad))

    assert bad == {}


def test_a_failing_disk_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_photos(4)

    def fails(rows: Rows, number: int) -> Image:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(batches, "read_image", fails)

    with pytest.raises(StoreError, match=r"cannot be read \(Input/output error\)"):
        list(BatchReader(rows, 8).read(0, 4, {}))


def test_rows_with_and_without_a_focal_length_come_apart() -> None:
    rows = make_photos(4)
    mixed = [replace(row, fx=None if at == 1 else 300.0) for at, row in enumerate(rows[:])]

    read = list(BatchReader(make_rows(rows.card, rows.root, mixed), 8).read(0, 4, {}))

    assert [batch.numbers for batch in read] == [[0], [1], [2, 3]]


def test_a_batch_splits_into_its_first_and_last_images() -> None:
    (batch,) = BatchReader(make_photos(3), 8).read(0, 3, {})

    first, last = batch.halves()

    assert (first.numbers, last.numbers) == ([0], [1, 2])
    assert np.array_equal(last.images, batch.images[1:])


def readers() -> set[threading.Thread]:
    """Threads that read images, of any test."""
    return {one for one in threading.enumerate() if one.name.startswith("read")}


def test_reading_stays_two_batches_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_photos(40)
    before = readers()  # an error's frames may keep another test's alive
    read: list[int] = []

    def noted(rows: Rows, number: int) -> Image:
        read.append(number)
        return read_image(rows, number)

    monkeypatch.setattr(batches, "read_image", noted)

    reading = BatchReader(rows, 3).read(0, 40, {})
    next(reading)
    time.sleep(0.2)

    assert max(read) <= 3 * 3
    reading.close()  # type: ignore[attr-defined]
    assert readers() <= before


def test_the_next_item_is_made_while_this_one_is_in_use() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    coming = ahead(items())

    assert next(coming) == 1
    assert made.wait(60)
    assert list(coming) == [2]


def test_what_goes_wrong_ahead_is_raised_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    coming = ahead(items())

    assert next(coming) == 1
    with pytest.raises(ValueError, match="broken"):
        next(coming)
