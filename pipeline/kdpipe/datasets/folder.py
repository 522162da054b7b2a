"""Any folder of images of any sizes, without labels: what a teacher may be run over as well."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from kdpipe.datasets.files import IMAGE_SUFFIXES, walk_folders
from kdpipe.datasets.lists import ListedRow, read_lists
from kdpipe.errors import DataError
from kdpipe.rows import Row, check_inside
from kdpipe.strict import build

if TYPE_CHECKING:
    from kdpipe.cards import DataCard

SPLIT = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What this family's card may say under `options`."""

    folders: tuple[str, ...] = ()
    """Only these sub-folders, relative to the root; none: all of it."""


def list_rows(card: DataCard, root: Path) -> Iterator[Row]:
    """Lists the images below `root` by path, sorted, or those of the card's lists, in their order.

    Hidden files and folders are passed over, and folders that are symbolic links.

    Raises:
        DataError: there is no image, or a folder cannot be read.
    """
    options = build(Options, card.options, f"data/{card.name}: options")
    if card.lists:
        wanted = tuple(f"{PurePath(f).as_posix()}/" for f in options.folders)
        for split, line in read_lists(card, root):
            if not wanted or line.image.startswith(wanted):
                yield _row(line.image, split, line.origin, line.focal)
        return
    images = [path for f in options.folders or ("",) for path in _walk(root, f)]
    if not images:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{root} holds no image ({kinds}) of {card.name!r}: pass another --root")
    for path in sorted(set(images)):
        yield _row(path, SPLIT, "")


def _row(image: str, split: str, origin: str, focal: float | None = None) -> ListedRow:
    return ListedRow(
        id=posixpath.splitext(image)[0],
        split=split,
        image=image,
        image_height=0,  # `index` measures it
        image_width=0,
        height=0,
        width=0,
        fx=focal,
        fy=focal,
        origin=origin,
    )


def _walk(root: Path, folder: str) -> Iterator[str]:
    check_inside(folder)
    if not (root / folder).is_dir():
        raise DataError(f"{root / folder}, named in options.folders, is no folder: take it out")
    for here, names in walk_folders(root / folder):
        inside = Path(here).relative_to(root).as_posix()
        yield from (_text(name if inside == "." else f"{inside}/{name}") for name in names)


def _text(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError as error:  # Parquet holds UTF-8 only
        raise DataError(f"file name {path!r} is no UTF-8: rename the file") from error
    return path
