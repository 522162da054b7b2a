"""List files: `<image> [<depth> | None [<focal length>]]`, one image a line."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kdpipe.datasets.files import IMAGE_SUFFIXES, TRUTH_SUFFIXES
from kdpipe.errors import DataError, UnknownNameError
from kdpipe.rows import Row, check_inside

if TYPE_CHECKING:
    from kdpipe.cards import DataCard

_LOG = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRow(Row):
    """A row that knows the line it comes from, until it is checked."""

    origin: str = ""
    """List file and line, for messages."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a list."""

    origin: str
    """List file and line number, for messages."""

    image: str
    """Relative, with forward slashes, without the leading one."""

    truth: str | None
    """Likewise; None: unlabelled."""

    focal: float | None
    """[pixels]"""


def read_lists(card: DataCard, root: Path) -> Iterator[tuple[str, Line]]:
    """Reads a card's lists, split by split.

    A card names each split's file, or several that it may be called, with ` | ` between them; it
    lies in `root` or in `root/train_test_inputs`, the folder that BTS and AdaBins publish.

    Yields:
        Split and line, in the order of the lists.

    Raises:
        DataError: no list is there, or a line is not what it should be: file and line are named.
    """
    for split in card.lists:
        if split not in SPLITS:
            raise UnknownNameError(f"the split names of data/{card.name}", split, SPLITS)
    found = {split: _find(names, root) for split, names in card.lists.items()}
    if not any(found.values()):
        names = ", ".join(dict.fromkeys(names.split(" | ")[0] for names in card.lists.values()))
        raise DataError(
            f"{root} has no list of {card.name!r} ({names} …): pass the --root that holds it, or "
            f"name your list in lists: of manifests/data/{card.name}.yaml"
        )
    for split, path in found.items():
        if path is not None:
            yield from ((split, line) for line in read_list(path))
        elif split != "val":
            _LOG.warning("%s: no list for split %r in %s; it stays empty", card.name, split, root)


def read_list(path: Path) -> list[Line]:
    """Reads one list; every line has as many columns as most of its lines.

    Raises:
        DataError: it cannot be read, holds no line, or a line is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list ({error}): mend or remove it") from error
    lines = [
        (f"{path} line {n}", s.split()) for n, s in enumerate(text.split("\n"), 1) if s.strip()
    ]
    if not lines:
        raise DataError(f"{path} lists no image: its split would be empty; fill or remove it")
    counts = Counter(len(columns) for _, columns in lines)
    expected = max(counts, key=lambda columns: (counts[columns], columns))
    return [_parse(origin, columns, expected) for origin, columns in lines]


def _parse(origin: str, columns: Sequence[str], expected: int) -> Line:
    if len(columns) != expected:
        raise DataError(
            f"{origin}: found {len(columns)} columns ({' '.join(columns)!r}), expected {expected} "
            "as on the other lines; is the file cut off?"
        )
    if expected not in (1, 2, 3, 5):  # 5: the right camera's image and depth follow; not used
        raise DataError(f"{origin}: found {expected} columns, expected image, depth, focal length")
    image = _path(origin, columns[0], IMAGE_SUFFIXES)
    truth = None
    if expected > 1 and columns[1] != "None":
        truth = _path(origin, columns[1], TRUTH_SUFFIXES)
    return Line(origin, image, truth, _focal(origin, columns[2]) if expected > 2 else None)


def _path(origin: str, text: str, suffixes: frozenset[str]) -> str:
    """NYU's train list has a leading slash that means the root of the set; one is taken away."""
    try:
        check_inside(text.removeprefix("/"))
    except DataError as error:
        raise DataError(f"{origin}: {error}; mend the line") from error
    path = PurePosixPath(text.removeprefix("/"))
    if path.suffix.lower() not in suffixes or not text.isprintable():
        raise DataError(
            f"{origin}: found {text!r}, expected a path that ends in one of "
            f"{' '.join(sorted(suffixes))}; is the line cut off?"
        )
    return str(path)


def _focal(origin: str, text: str) -> float:
    try:
        focal = float(text)
    except ValueError:
        focal = math.nan
    if not 0 < focal < math.inf:
        raise DataError(f"{origin}: found focal length {text!r}, expected pixels > 0")
    return focal


def _find(names: str, root: Path) -> Path | None:
    places = [root / n.strip() for n in names.split(" | ")]
    places += [root / "train_test_inputs" / n.strip() for n in names.split(" | ")]
    return next((p for p in places if is_file(p)), None)


def is_file(path: Path) -> bool:
    """Whether a file is there; one that may not be looked at is not."""
    try:
        return path.is_file()
    except OSError:
        return False


class Locator:
    """Finds listed files below one of several folders; remembers which, folder by folder.

    Published lists say `<scene>/rgb_1.jpg` where the files are unpacked as `sync/<scene>/…`.
    """

    def __init__(self, root: Path, prefixes: Sequence[str]) -> None:
        self.root = root
        self.prefixes = ("", *prefixes)
        self._known: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        """The path that is there, relative to the root; `path` itself if there is none."""
        folder = str(PurePosixPath(path).parent)
        known = self._known.get(folder)
        for prefix in self.prefixes if known is None else (known, *self.prefixes):
            found = str(PurePosixPath(prefix, path))
            if is_file(self.root / found):
                self._known[folder] = prefix
                return found
        return path
