"""NYU Depth v2: the folders and lists of BTS and AdaBins, or the official labelled .mat file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import numpy as np

from kdpipe.datasets import files, nyu_mat
from kdpipe.datasets.lists import Line, ListedRow, Locator, is_file, read_lists
from kdpipe.strict import build

if TYPE_CHECKING:
    from kdpipe.cards import DataCard
    from kdpipe.rows import Row, Rows
    from kdpipe.types import Depth, Image, Labels

_NYU13 = np.array(
    [
        "0",
        "12",
        "5",
        "6",
        "1",
        "4",
        "9",
        "10",
        "12",
        "13",
        "6",
        "8",
        "6",
        "13",
        "10",
        "6",
        "13",
        "6",
        "7",
        "7",
        "5",
        "7",
        "3",
        "2",
        "6",
        "11",
        "7",
        "7",
        "7",
        "7",
        "7",
        "7",
        "6",
        "7",
        "7",
        "7",
        "7",
        "7",
        "7",
        "6",
        "7",
    ],
    dtype=np.uint8,
)
"""Class of the 13 for each of NYU's 40, by the class13Mapping of the NYU toolbox; 0 unlabelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What this family's card may say under `options`."""

    layout: Literal["auto", "lists", "mat"] = "auto"
    """`auto`: lists, or the .mat file where the root holds that and no list."""

    folders: tuple[str, ...] = ("sync", "official_splits/test", "official_splits/train")
    """Where below the root listed files may lie as well."""

    truth_scale: float = 1e-3
    """Metres of one unit of the depth PNGs."""

    intrinsics: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy [pixels]; a list's focal length wins over fx, and over fy if it differs."""

    labels: str = ""
    """File of NYU-40 classes beside each image, `{number}` being the image's; used if there."""

    mat: str = "nyu_depth_v2_labeled.mat"
    splits: str = "splits.mat"
    depth: Literal["rawDepths", "depths"] = "rawDepths"
    """Of the .mat file: as measured, which BTS and AdaBins are judged on, or filled in."""

    blank_border: bool = True
    """Of the .mat file: black outside rows 7:474, columns 7:632, as in the published test files."""


def list_rows(card: DataCard, root: Path) -> Iterator[Row]:
    """Lists the pairs of the card's lists, or of the .mat file.

    Raises:
        DataError: neither is there, or a line is malformed.
    """
    options = _options(card)
    if options.layout == "mat" or (options.layout == "auto" and _only_mat(card, options, root)):
        yield from nyu_mat.list_images(
            root,
            mat=options.mat,
            splits=options.splits,
            depth=options.depth,
            fxfycxcy=options.intrinsics,
        )
        return
    locate = Locator(root, options.folders)
    for split, line in read_lists(card, root):
        yield _row(split, line, options, locate)


def read_image(rows: Rows, row: Row) -> Image:
    """Reads a file, or an image of the .mat file (H, W, 3)."""
    if "#" not in row.image:
        return files.read_image(rows, row)
    blank = _options(rows.card).blank_border
    image = nyu_mat.read_image(rows.root, row.image, blank_border=blank)
    files.check_digest(rows, row, image.data)
    return image


def read_truth(rows: Rows, row: Row) -> Depth:
    """Reads a file, or a depth map of the .mat file (H, W) [m]."""
    if "#" not in str(row.truth):
        return files.read_truth(rows, row)
    return nyu_mat.read_truth(rows.root, str(row.truth))


def read_labels(rows: Rows, row: Row) -> Labels:
    """Reads a map of NYU-40 classes as the 13 (H, W)."""
    path = str(row.labels)
    forty = files.decode_labels(files.read_bytes(rows.root / path), path, len(_NYU13) - 1)
    thirteen: Labels = _NYU13[forty]
    return thirteen


def _options(card: DataCard) -> Options:
    return build(Options, card.options, f"data/{card.name}: options")


def _only_mat(card: DataCard, options: Options, root: Path) -> bool:
    names = [n.strip() for names in card.lists.values() for n in names.split(" | ")]
    listed = any(
        (root / folder / n).is_file() for n in names for folder in ("", "train_test_inputs")
    )
    return not listed and is_file(root / options.mat)


def _row(split: str, line: Line, options: Options, locate: Locator) -> ListedRow:
    image = locate(line.image)
    fx, fy, cx, cy = options.intrinsics or (None, None, None, None)
    if line.focal is not None and line.focal != fx:
        fx, fy = line.focal, line.focal
    return ListedRow(
        id=image[: -len(PurePosixPath(image).suffix)],
        split=split,
        image=image,
        truth=line.truth and locate(line.truth),
        truth_scale=1.0 if str(line.truth).endswith(".npy") else options.truth_scale,
        labels=_labels(image, options.labels, locate.root),
        image_height=0,  # `index` measures it
        image_width=0,
        height=0,
        width=0,
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
        origin=line.origin,
    )


def _labels(image: str, pattern: str, root: Path) -> str | None:
    path = PurePosixPath(image)
    number = path.stem.rpartition("_")[2]
    beside = path.with_name(pattern.replace("{number}", number)) if pattern else None
    return str(beside) if beside and is_file(root / beside) else None
