from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdpipe.errors import DataError
from kdpipe.metrics.depth import depth_errors_of_valid
from kdpipe.metrics.table import (
    ImageErrors,
    mean_errors,
    read_summary,
    read_table,
    write_summary,
    write_table,
)


def _off_by(metres: float, pixels: int) -> ImageErrors:
    truth = np.full(pixels, 4.0)
    return ImageErrors(row=pixels, id="a", errors=depth_errors_of_valid(truth + metres, truth))


SKIPPED = ImageErrors(row=9, id="b", errors=None, skipped="no truth that counts")


def test_every_image_weighs_the_same_whatever_its_pixels() -> None:
    assert mean_errors([_off_by(1, 10), _off_by(3, 1000)])["rmse"] == pytest.approx(2)


def test_skipped_images_do_not_weigh_at_all() -> None:
    assert mean_errors([_off_by(1, 10), SKIPPED])["rmse"] == pytest.approx(1)


def test_a_set_of_skipped_images_is_an_error_that_says_why() -> None:
    with pytest.raises(DataError, match="no truth that counts"):
        mean_errors([SKIPPED])
    with pytest.raises(DataError, match="there is none"):
        mean_errors([])


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    images = [_off_by(1, 10), SKIPPED]

    write_table(tmp_path / "t.parquet", images)

    assert read_table(tmp_path / "t.parquet") == images
    assert not list(tmp_path.glob("*.tmp"))


def test_a_table_of_skipped_images_only_can_be_read(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [SKIPPED])

    assert read_table(tmp_path / "t.parquet") == [SKIPPED]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]"])
def test_a_torn_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "torn"
    path.write_bytes(content)

    with pytest.raises(DataError, match="torn"):
        read_summary(path)
    with pytest.raises(DataError, match="torn"):
        read_table(path)


def test_a_number_that_json_does_not_know_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no number"):
        write_summary(tmp_path / "s.json", {"abs_rel": float("nan")})
    assert not list(tmp_path.iterdir())
