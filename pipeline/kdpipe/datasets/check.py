"""What `index` asks of each file: sizes, all pixels, depth that can be depth, and its digest."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.datasets import files, read_whole_image, read_whole_labels, read_whole_truth
from kdpipe.errors import DataError
from kdpipe.rows import Row, Rows

if TYPE_CHECKING:
    from kdpipe.cards import DataCard
    from kdpipe.types import Depth

_FIELDS = tuple(one.name for one in fields(Row))
_BENCHMARK = (352, 1216)
"""The KB crop (H, W): the bottom rows, the middle columns."""


def check_row(rows: Rows, row: Row) -> Row:
    """Reads all that a row names.

    Raises:
        DataError: the first thing that is wrong.
    """
    stamped = stamp(rows, row)
    image = read_whole_image(rows, row)
    if "#" in row.image:  # one of many in a large file: its pixels stand for its bytes
        digest = files.digest_of(image.data)
    else:
        digest = files.digest_of(files.read_bytes(rows.root / row.image))
    height, width = image.shape[:2]
    placed = replace(place(rows.card, stamped, height, width), image_digest=digest)
    if row.truth is not None:
        depth = read_whole_truth(rows, row)
        _check_size(row.truth, depth.shape, placed)
        _check_range(row.truth, depth, rows.card)
    if row.labels is not None:
        _check_size(row.labels, read_whole_labels(rows, row).shape, placed)
    return placed


def place(card: DataCard, row: Row, height: int, width: int) -> Row:
    """Puts the frame into an image of this size; a family that knows it has done so itself.

    Raises:
        DataError: the image has another size than the family says, or is too small for the crop.
    """
    known = {name: getattr(row, name) for name in _FIELDS}
    if row.image_height or row.image_width:
        if (row.image_height, row.image_width) != (height, width):
            raise DataError(
                f"{row.image} is {height}x{width}, expected {row.image_height}x{row.image_width}"
            )
        return Row(**known)
    top, left, frame = 0, 0, (height, width)
    if card.crop == "kitti-benchmark":
        top, left, frame = height - _BENCHMARK[0], int((width - _BENCHMARK[1]) / 2), _BENCHMARK
        if top < 0 or width < _BENCHMARK[1]:
            raise DataError(
                f"{row.image} is {height}x{width}: too small for the crop 352x1216 of "
                f"data/{card.name}; is it KITTI? Else set crop: none"
            )
    known |= {"image_height": height, "image_width": width, "top": top, "left": left}
    known |= {"height": frame[0], "width": frame[1]}
    known["cx"] = None if row.cx is None else row.cx - left
    known["cy"] = None if row.cy is None else row.cy - top
    return Row(**known)


def stamp(rows: Rows, row: Row) -> Row:
    """Puts sizes and times of change of a row's files into it.

    Raises:
        DataError: a file is missing, out of reach, or no plain file.
    """
    size, changed, truth_size, truth_changed = stamps_of(rows, row)
    return replace(
        row,
        bytes=size,
        mtime_ns=changed,
        truth_bytes=truth_size,
        truth_mtime_ns=truth_changed,
    )


def stamps_of(rows: Rows, row: Row) -> tuple[int, int, int, int]:
    """Size and time of change of a row's image, and of its depth file; 0 where it has none.

    Raises:
        DataError: a file is missing, out of reach, or no plain file.
    """
    size, changed = _stat(rows.root, row.image.partition("#")[0])
    if row.truth is None:
        return size, changed, 0, 0
    return size, changed, *_stat(rows.root, row.truth.partition("#")[0])


def _stat(root: Path, name: str) -> tuple[int, int]:
    try:
        # A Path for each of a million files takes longer than the question.
        found = os.stat(f"{root}/{name}")  # noqa: PTH116
        if stat.S_ISREG(found.st_mode):
            return found.st_size, found.st_mtime_ns
    except FileNotFoundError as error:
        raise DataError(
            f"{root / name} is missing: put it there, or take it out of the list"
        ) from error
    except OSError as error:
        raise DataError(
            f"{root / name} cannot be read ({error.strerror}): make it readable for this user"
        ) from error
    raise DataError(f"{root / name} is no plain file: an image or a depth map is expected")


def _check_size(path: str, shape: Sequence[int], row: Row) -> None:
    if tuple(shape) != (row.image_height, row.image_width):
        raise DataError(
            f"{path} is {shape[0]}x{shape[1]}, its image {row.image} is {row.image_height}x"
            f"{row.image_width}: both must have one size; pair them anew"
        )


def _check_range(path: str, depth: Depth, card: DataCard) -> None:
    known = depth[depth > 0]
    if not known.size:
        raise DataError(
            f"{path} has no measured pixel (all 0): write None in its place, or mend it"
        )
    if not ((known > card.min_depth) & (known < card.max_depth)).any():
        raise DataError(
            f"{path} holds {known.min():.4g}..{known.max():.4g} m, nothing between the "
            f"{card.min_depth:g} and {card.max_depth:g} m of data/{card.name}: is its scale right?"
        )
