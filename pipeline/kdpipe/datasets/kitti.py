"""KITTI: raw recordings with annotated depth, by the Eigen lists or any of their form."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

from kdpipe.datasets.lists import ListedRow, Locator, is_file, read_lists
from kdpipe.errors import DataError
from kdpipe.strict import build

if TYPE_CHECKING:
    from kdpipe.cards import DataCard
    from kdpipe.rows import Row

Intrinsics: TypeAlias = tuple[float, float, float, float]
"""fx, fy, cx, cy [pixels]."""

_DATE = re.compile(r"\d{4}_\d\d_\d\d")
_CAMERA = re.compile(r"image_0(\d)")
_LEVEL = re.compile(r"^(train|val)/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What this family's card may say under `options`."""

    image_folders: tuple[str, ...] = ("raw", "input", "train", "val")
    """Where below the root listed images may lie as well."""

    truth_folders: tuple[str, ...] = ("train", "val", "data_depth_annotated", "gt_depth", "raw")
    """Where below the root listed depth may lie as well, each also with a train or val level."""

    truth_scale: float = 1 / 256
    """Metres of one unit of the depth PNGs."""


def list_rows(card: DataCard, root: Path) -> Iterator[Row]:
    """Lists the lines of the card's lists; `None` instead of depth: an unlabelled row.

    The principal point, and the focal length where a line gives none, is that of P_rect in
    `calib_cam_to_cam.txt`, where that lies in the folder of the date or of the drive.

    Raises:
        DataError: no list is there, or a line or a calibration is malformed.
    """
    options = build(Options, card.options, f"data/{card.name}: options")
    image_at = Locator(root, options.image_folders)
    levels = ("", "train", "val")
    truth_at = Locator(
        root, [f"{f}/{v}".rstrip("/") for f in options.truth_folders for v in levels]
    )
    calibration = cache(_read_calibration)  # for this listing only: files may change
    for split, line in read_lists(card, root):
        image = image_at(line.image)
        fx, fy, cx, cy = _intrinsics(root, image, calibration)
        yield ListedRow(
            id=image[: -len(PurePosixPath(image).suffix)],
            split=split,
            image=image,
            truth=None if line.truth is None else _locate_truth(truth_at, line.truth),
            truth_scale=1.0 if str(line.truth).endswith(".npy") else options.truth_scale,
            image_height=0,  # `index` measures it, and places the crop
            image_width=0,
            height=0,
            width=0,
            fx=line.focal or fx,
            fy=line.focal or fy,
            cx=cx,
            cy=cy,
            origin=line.origin,
        )


def _locate_truth(locate: Locator, path: str) -> str:
    """The archive's train/ and val/ levels may be on the disk, in the list, in both or in none."""
    found = locate(path)
    if not is_file(locate.root / found) and _LEVEL.match(path):
        bare = locate(_LEVEL.sub("", path))
        return bare if is_file(locate.root / bare) else found
    return found


def _intrinsics(
    root: Path, image: str, calibration: Callable[[Path, str], Intrinsics | None]
) -> Intrinsics | tuple[None, None, None, None]:
    """fx, fy, cx, cy [pixels] of the whole image."""
    folders = PurePosixPath(image).parts[:-1]
    dates = [n for n, part in enumerate(folders, 1) if _DATE.match(part)]
    camera = _CAMERA.search(image)
    for depth in reversed(dates):  # the drive's folder, then the date's
        folder = root.joinpath(*folders[:depth])
        found = calibration(folder, camera[1] if camera else "2")
        if found:
            return found
    return (None, None, None, None)


def _read_calibration(folder: Path, camera: str) -> Intrinsics | None:
    key = f"P_rect_0{camera}"
    for name in ("calib_cam_to_cam.txt", f"calib_cam_to_cam_{key}.txt"):
        path = folder / name
        if not is_file(path):
            continue
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(f"{key}:"):
                return _parse_projection(path, line.partition(":")[2])
    return None


def _parse_projection(path: Path, text: str) -> Intrinsics:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = []
    if (
        len(numbers) != 12
        or not all(map(math.isfinite, numbers))
        or min(numbers[0], numbers[5]) <= 0
    ):
        raise DataError(f"{path}: found P_rect {text.strip()!r}, expected the 12 numbers of a 3x4")
    return numbers[0], numbers[5], numbers[2], numbers[6]
