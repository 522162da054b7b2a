"""Plain files: images of every usual kind to RGB8, 16-bit PNG and NPY to metres."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from kdpipe.errors import ChangedImageError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.rows import Row, Rows
    from kdpipe.types import Depth, Image, Labels

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""Of files that count as images, in lower case."""

TRUTH_SUFFIXES = frozenset((".npy", ".png"))
CLASSES = 13
_FLOAT32 = float(np.finfo(np.float32).max)


def walk_images(folder: Path) -> Iterator[Path]:
    """The image files below a folder, in no order.

    Hidden files and folders are passed over, and folders that are symbolic links.

    Raises:
        DataError: a folder cannot be read.
    """
    for here, names in walk_folders(folder):
        yield from (Path(here, name) for name in names)


def walk_folders(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The same, a folder at a time with its images' names: a path each costs more than its file."""
    for here, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [f for f in folders if not f.startswith(".")]
        suffixes = (posixpath.splitext(name)[1].lower() for name in names)
        pairs = zip(names, suffixes, strict=True)
        yield here, [n for n, s in pairs if s in IMAGE_SUFFIXES and not n.startswith(".")]


def read_image(rows: Rows, row: Row) -> Image:
    """Reads the whole image of a row (H, W, 3), upright.

    Raises:
        DataError: it is missing, unreadable or torn.
        ChangedImageError: it is another one than `index` listed.
    """
    data = read_bytes(rows.root / row.image)
    image = decode_image(data, row.image)  # first: of a torn file this says more
    check_digest(rows, row, data)
    return image


def read_truth(rows: Rows, row: Row) -> Depth:
    """Reads the whole measured depth of a row (H, W) [m]; 0 is unknown.

    Raises:
        DataError: it is missing, unreadable, torn, of 8 bits, negative or not finite, or has other
            bytes than `index` counted.
    """
    path = str(row.truth)
    is_npy = PurePosixPath(path).suffix.lower() == ".npy"
    decode = _decode_npy if is_npy else _decode_depth_png
    data = read_bytes(rows.root / path)
    units = decode(data, path)  # first: of a torn file this says more
    if row.truth_bytes and len(data) != row.truth_bytes:
        raise DataError(
            f"{rows.root / path} has {len(data)} bytes, {row.truth_bytes} when it was indexed: put "
            f"the old file back, or run `kdpipe index --data {rows.name}` again"
        )
    return (units * row.truth_scale).astype(np.float32)


def read_labels(rows: Rows, row: Row) -> Labels:
    """Reads a map of the 13 classes (H, W), 0 unlabelled.

    Raises:
        DataError: it is missing, unreadable, torn, or no 8-bit map of 0..13.
    """
    return decode_labels(read_bytes(rows.root / str(row.labels)), str(row.labels), CLASSES)


def read_bytes(path: Path) -> bytes:
    """Reads a file.

    Raises:
        DataError: it is missing, empty, a folder, or not ours to read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: put it there, or take it out of the list") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): make it readable for this user"
        ) from error
    if not data:
        raise DataError(f"{path} is empty (0 bytes): fetch it again")
    return data


def digest_of(data: bytes | memoryview) -> str:
    """SHA-256, 16 hex digits."""
    return hashlib.sha256(data).hexdigest()[:16]


def check_digest(rows: Rows, row: Row, data: bytes | memoryview) -> None:
    """Refuses an image that was replaced since `index`: its depth would go by the old one's digest.

    Costs 2 % of decoding a JPEG of 480x640.

    Args:
        rows: of the data set.
        row: of the image; while it is being indexed it has no digest yet, and nothing is checked.
        data: what the digest is of: the file's bytes, or the pixels of one image of many.

    Raises:
        ChangedImageError: they differ.
    """
    if row.image_digest and digest_of(data) != row.image_digest:
        raise ChangedImageError(
            f"{rows.root / row.image} has changed since `kdpipe index`: put the old image back, or "
            f"run `kdpipe index --data {rows.name}` again"
        )


def decode_image(data: bytes, path: str) -> Image:
    """Decodes an image file wholly: EXIF orientation applied, grey, CMYK, 16 bits brought to RGB8.

    Transparency is dropped, as in other training code; 16-bit values keep their high byte.

    Args:
        data: the file's bytes.
        path: for the message.

    Returns:
        RGB (H, W, 3), 0..255.

    Raises:
        DataError: the bytes are no whole image, or their range is unknown (float, 32 bits).
    """
    picture = _decode(data, path)
    if picture.mode.startswith("I;16") or picture.mode == "I":
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"{path} holds 32-bit numbers: an image of 8 or 16 bits is expected")
        grey = (values >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode == "F":
        raise DataError(f"{path} holds floating point: an image of 8 or 16 bits is expected")
    picture.info.pop("transparency", None)  # it is dropped; of a palette's, Pillow would warn
    try:
        return np.array(picture.convert("RGB"), dtype=np.uint8)
    except ValueError as error:
        raise DataError(
            f"{path} has colours that cannot be shown ({error}): save it as RGB"
        ) from error


def decode_labels(data: bytes, path: str, largest: int) -> Labels:
    """Decodes an 8-bit map of classes (H, W), 0..largest.

    Raises:
        DataError: it is torn, or no such map.
    """
    picture = _decode(data, path)
    labels = np.array(picture, dtype=np.uint8) if picture.mode in ("L", "P") else None
    if labels is None or labels.max() > largest:
        found = f"mode {picture.mode}" if labels is None else f"class {labels.max()}"
        raise DataError(f"{path}: found {found}, expected an 8-bit map of classes 0..{largest}")
    return labels


def _refuse(error: OSError) -> None:
    raise DataError(f"folder {error.filename} cannot be read ({error.strerror}): make it readable")


def _decode_depth_png(data: bytes, path: str) -> NDArray[np.float64]:
    picture = _decode(data, path)
    if not picture.mode.startswith("I;16"):
        bits = "8-bit" if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else picture.mode
        raise DataError(
            f"{path} is a {bits} picture: depth needs a 16-bit grey PNG, in steps that the card "
            "knows (8 bits are coarser than any teacher); export it with 16 bits"
        )
    return np.asarray(picture).astype(np.float64)


def _decode_npy(data: bytes, path: str) -> NDArray[np.float64]:
    if data.startswith(b"PK"):
        raise DataError(f"{path} is an archive of arrays, expected one: save it with numpy.save")
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise DataError(
            f"{path} is no whole NPY file of numbers ({error}): make it again"
        ) from error
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise DataError(
            f"{path}: found shape {values.shape} of {values.dtype}, expected (H, W) numbers [m]"
        )
    depth: NDArray[np.float64] = values.astype(np.float64)
    wrong = int((~(depth <= _FLOAT32) | (depth < 0)).sum())
    if wrong:
        raise DataError(
            f"{path} holds {wrong} negative or not finite values: unknown depth is 0; write 0 there"
        )
    return depth


def _decode(data: bytes, path: str) -> Pillow.Image:
    """Decodes all pixels: a torn file shows only then."""
    try:
        with Pillow.open(io.BytesIO(data)) as opened:
            opened.load()
            return ImageOps.exif_transpose(opened)
    except Pillow.DecompressionBombError as error:
        raise DataError(
            f"{path} says that it has more pixels than any camera's ({error}): make it smaller, or "
            "take it out"
        ) from error
    except Exception as error:  # Pillow's plug-ins raise almost anything on torn or hostile files
        reason = str(error).replace("<_io.BytesIO object", "").split(" at 0x")[0] or repr(error)
        raise DataError(
            f"{path} is no whole image ({reason}; {len(data)} bytes): fetch it again or take it out"
        ) from error
