"""A student on any image: depth as 16-bit PNG and as float NPY, and a coloured picture of it."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from kdpipe import __version__
from kdpipe.datasets.files import IMAGE_SUFFIXES, decode_image, read_bytes, walk_images
from kdpipe.errors import DataError
from kdpipe.params import load_params
from kdpipe.store.disk import as_json, write_atomically
from kdpipe.store.layout import find_student
from kdpipe.students import load_student
from kdpipe.training.outcome import warn_if_unfinished
from kdpipe.training.pictures import colours

if TYPE_CHECKING:
    from kdpipe.students import Student
    from kdpipe.types import Depth, Image

logger = logging.getLogger(__name__)

SUMMARY = "predict.json"
DEPTH_PNG, DEPTH_NPY, COLOUR_PNG = "_depth.png", "_depth.npy", "_colour.png"
"""What follows an image's name."""

_MAKER = "kdpipe predict"
_UNITS = (1000, 256, 100, 10, 1)
"""Of a metre, the finest first: millimetres, then KITTI's convention."""

_LARGEST = 65535
_COMPRESSION = 1
"""Five times faster than zlib's default, and a fifth larger."""

_OF_ONE_FILE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT)
"""What the disk may have against one file and not against the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What `run` did."""

    folder: Path
    names: Mapping[str, str]
    """Image -> what its files in the folder are called, without the ending."""

    failed: Mapping[str, str]
    """Image -> why it has no depth."""

    units_per_metre: int
    """Of the 16-bit PNG files."""

    colour_max: float
    """Far end of the colour scale [m]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How every image of one call is treated."""

    student: Student
    mirror: bool
    units: int
    colour_max: float
    folder: Path


def run(
    images: Sequence[Path],
    *,
    run: str,
    output: Path,
    mirror: bool | None = None,
    colour_max: float | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Writes the depth of images, each at its own size, by the rule of `Student.predict`.

    Of an image `a.jpg` there are a_depth.png (16 bits; its text says the unit), a_depth.npy
    (float32 [m]) and a_colour.png; sub-folders are kept. predict.json lists this call.

    Args:
        images: files, and folders that are searched for images; pictures that this function wrote
            are passed over there.
        run: name of a run of `distill`, or its folder.
        output: folder; made if missing.
        mirror: average with the mirrored image; None: params.yaml's, as in `evaluate`.
        colour_max: far end of the colour scale [m]; None: the student's range.
        device: of the student; `auto`: CUDA where there is one.
        progress: called with the number of images done, and of all.

    Returns:
        What was written, and which images could not be read, and why.

    Raises:
        UnknownNameError: no such run.
        CheckpointError: the run has no finished student.
        DataError: a folder holds no image, or the output is no folder.
        OSError: the disk is full or refuses; no file is half-written.
    """
    names = name_outputs(find_images(images))
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file, a folder is expected: choose another output")
    mirror = load_params().evaluate.mirror if mirror is None else mirror
    trained = find_student(run)
    student = load_student(trained, device=device)
    warn_if_unfinished(trained)
    far = student.bins.far
    way = _Way(
        student=student,
        mirror=mirror,
        units=units_per_metre(far),
        colour_max=far if colour_max is None else colour_max,
        folder=output,
    )
    is_new = _make(output)
    seen: dict[str, Mapping[str, object]] = {}
    failed: dict[str, str] = {}
    for count, (path, name) in enumerate(names.items(), 1):
        try:
            seen[str(path)] = {"name": name, **_predict(path, name, way)}
        except DataError as error:
            failed[str(path)] = str(error)
        if progress is not None:
            progress(count, len(names))
    if is_new and not seen:
        with contextlib.suppress(OSError):  # a sub-folder is in it
            output.rmdir()
    if seen:
        write_atomically(output / SUMMARY, as_json(_summary(run, way, seen, failed)))
    return Predicted(
        folder=output,
        names={image: str(one["name"]) for image, one in seen.items()},
        failed=failed,
        units_per_metre=way.units,
        colour_max=way.colour_max,
    )


def _make(output: Path) -> bool:
    """Before the first image: a folder that cannot be made is no image's fault.

    Returns:
        Whether it was not there.

    Raises:
        DataError: it cannot be made.
    """
    if output.is_dir():
        return False
    try:
        output.mkdir(parents=True)
    except OSError as error:
        raise DataError(
            f"folder {output} cannot be made ({error.strerror}): choose another output"
        ) from error
    return True


def find_images(given: Sequence[Path]) -> dict[Path, Path]:
    """Lists files as they are given, and the images below folders, sorted.

    Returns:
        Each image once, and the folder that it counts from: the given one, or the file's own.

    Raises:
        DataError: a folder holds no image, or cannot be read.
    """
    found: dict[Path, Path] = {}
    for one in given:
        if not one.is_dir():
            place = one.parent.resolve()
            found.setdefault(place / one.name, place)
            continue
        folder = one.resolve()
        images = sorted(path for path in walk_images(folder) if not _is_ours(path))
        if not images:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"{one} holds no image ({kinds}): name another folder, or files")
        for path in images:
            found.setdefault(path, folder)
    return found


def name_outputs(found: Mapping[Path, Path]) -> dict[Path, str]:
    """Gives each image a name of its own: its path below the folder that all have in common.

    Where two would have one name (a.jpg, a.png) they keep their endings.
    """
    if not found:
        return {}
    base = Path(os.path.commonpath([*found.values()]))
    whole = {path: path.relative_to(base).as_posix() for path in found}
    names = {path: Path(name).with_suffix("").as_posix() for path, name in whole.items()}
    while True:
        # Some file systems take A for a.
        counts = Counter(name.casefold() for name in names.values())
        twice = [path for path, name in names.items() if counts[name.casefold()] > 1]
        if all(names[path] == whole[path] for path in twice):
            return names
        names |= {path: whole[path] for path in twice}


def units_per_metre(far: float) -> int:
    """The finest scale of a 16-bit PNG that reaches `far` [m]."""
    return next((units for units in _UNITS if far * units <= _LARGEST), _UNITS[-1])


def _predict(path: Path, name: str, way: _Way) -> Mapping[str, object]:
    """Writes an image's files and says what is in them.

    Raises:
        DataError: the image is unreadable, or its files cannot have their names.
    """
    image = decode_image(read_bytes(path), str(path))
    try:
        _check_free(path, name, way.folder)
        depth: Depth = np.asarray(way.student.predict(image[None], mirror=way.mirror))[0]
        if not np.isfinite(depth).all():
            raise DataError(f"{path}: the student gives no number: its training has failed")
        for ending, content in _files(depth, way):
            write_atomically(way.folder / f"{name}{ending}", content)
    except OSError as error:
        if error.errno not in _OF_ONE_FILE:
            raise
        raise DataError(
            f"{path}: {name}{DEPTH_PNG} cannot be written to {way.folder} ({error.strerror}): "
            "rename the image, or choose another output"
        ) from error
    return {
        "height": depth.shape[0],
        "width": depth.shape[1],
        "min": float(depth.min()),
        "median": float(np.median(depth)),
        "max": float(depth.max()),
    }


def _files(depth: Depth, way: _Way) -> Iterator[tuple[str, bytes]]:
    """The 16-bit PNG is first: it shows that the others are ours as well."""
    units = np.rint(depth.astype(np.float64) * way.units)
    numbers = np.clip(units, 1, _LARGEST).astype(np.uint16)  # 0 would be unknown
    yield DEPTH_PNG, _png(numbers, f"depth: metres = value / {way.units}; 0 is unknown")
    array = io.BytesIO()
    np.save(array, depth.astype(np.float32))
    yield DEPTH_NPY, array.getvalue()
    scale = f"depth: {_colour_scale(way.colour_max)}"
    yield COLOUR_PNG, _png(colours(depth, way.colour_max), scale)


def _png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]] | Image, says: str) -> bytes:
    text = PngInfo()
    text.add_text("Software", f"{_MAKER} {__version__}")
    text.add_text("Description", says)
    content = io.BytesIO()
    Pillow.fromarray(pixels).save(content, "PNG", pnginfo=text, compress_level=_COMPRESSION)
    return content.getvalue()


def _check_free(path: Path, name: str, folder: Path) -> None:
    """Sees that nobody else's file is overwritten, such as a data set's own a_depth.png."""
    first = folder / f"{name}{DEPTH_PNG}"
    if _is_ours(first):
        return
    for ending in (DEPTH_PNG, DEPTH_NPY, COLOUR_PNG):
        if (folder / f"{name}{ending}").exists():
            raise DataError(
                f"{path}: {folder / (name + ending)} is there and not from kdpipe predict: "
                "choose another output"
            )


def _is_ours(path: Path) -> bool:
    if path.suffix != ".png":
        return False
    try:
        with Pillow.open(path) as opened:
            return str(opened.info.get("Software", "")).startswith(_MAKER)
    except Exception:  # Pillow's plug-ins raise almost anything; who decodes it will say it
        return False


def _colour_scale(far: float) -> str:
    return f"matplotlib's magma_r, evenly from 0 m (bright) to {far:g} m (dark)"


def _summary(
    run: str,
    way: _Way,
    seen: Mapping[str, Mapping[str, object]],
    failed: Mapping[str, str],
) -> Mapping[str, object]:
    return {
        "run": run,
        "student": way.student.card.name,
        "student_sees": way.student.size,
        "mirror": way.mirror,
        "files": {
            DEPTH_PNG: f"16-bit PNG: metres = value / {way.units}",
            DEPTH_NPY: "float32 (H, W) in metres",
            COLOUR_PNG: _colour_scale(way.colour_max),
        },
        "near": way.student.bins.near,
        "far": way.student.bins.far,
        "images": seen,
        "failed": failed,
    }
