"""Data sets: one file a family lists its images as rows; the readers here give their frames.

A family is a module of this folder that has `list_rows(card, root) -> Iterator[Row]`. Where its
files are no plain images, it also has `read_image`, `read_truth` or `read_labels`, each
`(rows, row) -> array` of the whole file; what the readers here return is the frame inside it. Its
`read_image` calls `files.check_digest`.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kdpipe.datasets import files
from kdpipe.errors import DataError, UnknownNameError
from kdpipe.store import layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.cards import DataCard
    from kdpipe.rows import Row, Rows
    from kdpipe.types import Depth, Image, Labels

S = TypeVar("S", bound=np.generic)


def load_family(name: str) -> ModuleType:
    """Imports datasets/<name>.py.

    Raises:
        UnknownNameError: no family has this name.
    """
    if name in _modules():  # also keeps a name with a dot or a slash from leaving the folder
        module = importlib.import_module(f"{__name__}.{name}")
        if hasattr(module, "list_rows"):
            return module
    raise UnknownNameError("datasets", name, families())


def families() -> list[str]:
    """Names of all families, sorted."""
    return [
        m for m in _modules() if hasattr(importlib.import_module(f"{__name__}.{m}"), "list_rows")
    ]


def resolve_root(card: DataCard, root: Path | None) -> Path:
    """Finds the folder of a data set: `--root`, the card's root, the variable <DOMAIN>_DIR.

    Rooms are rendered by kdpipe, so theirs needs no naming and may not be there yet.

    Raises:
        DataError: none is given, or it is no folder.
    """
    if root is None and card.root is None and card.domain == "rooms":
        return layout.data_dir(card.name)
    variable = "" if card.domain in ("any", "rooms") else f"{card.domain.upper()}_DIR"
    given = root or card.root or os.environ.get(variable)
    hint = f"pass --root FOLDER or set {variable}" if variable else "pass --root FOLDER"
    if not given:
        raise DataError(f"where the files of {card.name!r} are is not said: {hint}")
    found = Path(given).expanduser()
    if card.domain != "rooms" and not found.is_dir():
        what = "a file" if found.exists() else "not there"
        raise DataError(f"{str(found)!r}, the folder of {card.name!r}, is {what}: {hint}")
    return found


def read_image(rows: Rows, number: int) -> Image:
    """Reads the frame of an image: what a teacher sees.

    Returns:
        RGB (H, W, 3), 0..255, contiguous.

    Raises:
        IndexError: there is no row of this number.
        DataError: the file is missing or torn.
        ChangedImageError: it is another image than `index` listed.
    """
    row: Row = rows[number]
    return _frame(row, read_whole_image(rows, row), row.image)


def read_truth(rows: Rows, number: int) -> Depth:
    """Reads the measured depth of a frame (H, W) [m]; 0 is unknown.

    Raises:
        IndexError: there is no row of this number.
        DataError: the row is unlabelled, or its file is missing, torn or of another size.
    """
    row: Row = rows[number]
    return _frame(row, read_whole_truth(rows, row), str(row.truth))


def read_labels(rows: Rows, number: int) -> Labels:
    """Reads the semantic classes of a frame (H, W): 0 unlabelled, 1..13 of the NYU-13 list.

    Raises:
        IndexError: there is no row of this number.
        DataError: the row has no classes, or their file is missing, torn or of another size.
    """
    row: Row = rows[number]
    return _frame(row, read_whole_labels(rows, row), str(row.labels))


def read_whole_image(rows: Rows, row: Row) -> Image:
    """Reads an image as it is in its file (H, W, 3), upright."""
    image: Image = _reader(rows, "read_image", files.read_image)(rows, row)
    return image


def read_whole_truth(rows: Rows, row: Row) -> Depth:
    """Reads measured depth as it is in its file (H, W) [m]."""
    if row.truth is None:
        raise DataError(f"{rows.name}: {row.id!r} has no measured depth: leave it out, or label it")
    depth: Depth = _reader(rows, "read_truth", files.read_truth)(rows, row)
    return depth


def read_whole_labels(rows: Rows, row: Row) -> Labels:
    """Reads semantic classes as they are in their file (H, W)."""
    if row.labels is None:
        raise DataError(f"{rows.name}: {row.id!r} has no semantic classes: leave it out")
    labels: Labels = _reader(rows, "read_labels", files.read_labels)(rows, row)
    return labels


def _reader(rows: Rows, name: str, plain: Callable[[Rows, Row], Any]) -> Callable[[Rows, Row], Any]:
    reader: Callable[[Rows, Row], Any] = getattr(load_family(rows.card.family), name, plain)
    return reader


def _frame(row: Row, whole: NDArray[S], path: str) -> NDArray[S]:
    if whole.shape[:2] != (row.image_height, row.image_width):
        raise DataError(
            f"{path} is {whole.shape[0]}x{whole.shape[1]} now, {row.image_height}x"
            f"{row.image_width} when it was indexed: put it back, or run `kdpipe index` again"
        )
    frame = whole[row.top : row.top + row.height, row.left : row.left + row.width]
    return np.ascontiguousarray(frame)


@cache
def _modules() -> tuple[str, ...]:
    # Asked once an image: listing the folder each time took a third of reading a small depth map.
    return tuple(sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])))
