"""nyu_depth_v2_labeled.mat: 1449 images with depth in one HDF5 file, split by splits.mat."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import scipy.io

from kdpipe.datasets.lists import ListedRow
from kdpipe.errors import DataError

if TYPE_CHECKING:
    from kdpipe.rows import Row
    from kdpipe.types import Depth, Image

_BORDER = (slice(7, 474), slice(7, 632))
"""What the published test images show: the rest is black."""

_handles: dict[tuple[int, str, int], h5py.File] = {}
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)  # another thread may have held it


def list_images(
    root: Path,
    *,
    mat: str,
    splits: str,
    depth: str,
    fxfycxcy: tuple[float, float, float, float] | None,
) -> Iterator[Row]:
    """Lists train, then test; `FILE#17` is image 17 counted from 0, the number in BTS's file names.

    Args:
        root: folder of both files.
        mat: name of the HDF5 file, whose arrays are axis-reversed: images (N, 3, W, H).
        splits: name of the MATLAB 5 file with trainNdxs and testNdxs, counted from 1.
        depth: the array of the HDF5 file to take, rawDepths or depths (N, W, H) [m].
        fxfycxcy: focal lengths and principal point [pixels].

    Raises:
        DataError: a file is missing, torn, or of another layout.
    """
    count, height, width = _shape(root / mat, depth)
    fx, fy, cx, cy = fxfycxcy or (None, None, None, None)
    for split, numbers in _read_splits(root / splits, count).items():
        for number in numbers:
            yield ListedRow(
                id=f"rgb_{number:05d}",
                split=split,
                image=f"{mat}#{number}",
                truth=f"{mat}#{depth}/{number}",
                image_height=height,
                image_width=width,
                height=height,
                width=width,
                fx=fx,
                fy=fy,
                cx=cx,
                cy=cy,
                origin=f"{root / mat} image {number}",
            )


def read_image(root: Path, reference: str, *, blank_border: bool) -> Image:
    """Reads `FILE#17` (H, W, 3).

    Raises:
        DataError: the file is missing or torn.
    """
    path, _, number = reference.partition("#")
    reverse = _read(root / path, "images", int(number))
    image: Image = np.ascontiguousarray(reverse.transpose(2, 1, 0), dtype=np.uint8)
    if blank_border:
        bordered = np.zeros_like(image)
        bordered[_BORDER] = image[_BORDER]
        return bordered
    return image


def read_truth(root: Path, reference: str) -> Depth:
    """Reads `FILE#rawDepths/17` (H, W) [m], cut to whole millimetres.

    So it is in the 16-bit PNGs that BTS's converter makes, and both layouts give the same truth.

    Raises:
        DataError: the file is missing or torn, or the map holds what is no depth.
    """
    path, _, inner = reference.partition("#")
    array, _, number = inner.partition("/")
    metres = _read(root / path, array, int(number)).T
    if not np.isfinite(metres).all() or (metres < 0).any() or (metres > 65).any():
        raise DataError(f"{reference} holds what is no depth [m]: fetch the file again")
    depth: Depth = (np.trunc(metres * np.float32(1000)) / 1000).astype(np.float32)
    return depth


def _shape(path: Path, depth: str) -> tuple[int, int, int]:
    with _lock:
        file = _open(path)
        shapes = [tuple(file[k].shape) if k in file else () for k in ("images", depth)]
    images, depths = shapes
    if len(images) != 4 or images[1] != 3 or depths != (images[0], *images[2:]):
        raise DataError(
            f"{path}: found images {images} and {depth} {depths}, expected (N, 3, W, H) and "
            "(N, W, H): is it nyu_depth_v2_labeled.mat?"
        )
    return images[0], images[3], images[2]


def _read_splits(path: Path, count: int) -> dict[str, list[int]]:
    try:
        path.stat()  # loadmat calls a missing file something else
        found = scipy.io.loadmat(path, variable_names=["trainNdxs", "testNdxs"])
        numbers = {s: [int(i) - 1 for i in found[f"{s}Ndxs"].ravel()] for s in ("train", "test")}
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing: put NYU's official splits.mat beside the labelled .mat file"
        ) from error
    except Exception as error:  # scipy raises almost anything on a torn file
        raise DataError(
            f"{path} is no splits.mat with trainNdxs and testNdxs ({error}): fetch it again"
        ) from error
    listed = numbers["train"] + numbers["test"]
    if not listed or min(listed) < 0 or max(listed) >= count or len(set(listed)) < len(listed):
        raise DataError(
            f"{path}: its {len(listed)} numbers are not different ones of 1..{count}: "
            "it belongs to another file; fetch both again"
        )
    return numbers


def _read(path: Path, name: str, number: int) -> Any:
    with _lock:
        try:
            return _open(path)[name][number]
        except (OSError, KeyError, ValueError, IndexError) as error:
            raise DataError(
                f"{path}: {name}[{number}] cannot be read ({error}): fetch the file again"
            ) from error


def _open(path: Path) -> h5py.File:
    """One handle a process: HDF5 does not survive a fork, so a child opens its own."""
    try:
        key = (os.getpid(), str(path.absolute()), path.stat().st_mtime_ns)
        if key not in _handles:
            _handles[key] = h5py.File(path, "r")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: put NYU's labelled .mat file there") from error
    except OSError as error:
        raise DataError(f"{path} is no whole HDF5 file ({error}): fetch it again") from error
    return _handles[key]
