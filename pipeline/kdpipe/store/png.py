"""Depth in the frame as 16-bit PNG: in TIE-KD's layout and scale, or in millimetres with a CSV.

tie-kd: gt_kd_<family>/<path of the image, its slashes as _>.png; a unit is 10 m or, on KITTI, 80 m
over 65535; metres are truncated to it, deeper ones are the largest number.
mm: depth/<row>.png in millimetres, rounded; depth.csv names the file of each id, none for an
image without depth. What is deeper than 65.535 m is unknown there.

Both: 0 is unknown.

Reference:
    Choi and Kim, TIE-KD, https://github.com/HPC-Lab-KOREATECH/TIE-KD: teacher maps of its recipes.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
from PIL import Image as Pillow

from kdpipe.cards import load_data
from kdpipe.errors import DataError, StoreError, UnknownNameError
from kdpipe.rows import check_inside, read_rows
from kdpipe.store import layout
from kdpipe.store.disk import disk_errors
from kdpipe.store.reader import Store, open_store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.types import Depth

Kind: TypeAlias = Literal["tie-kd", "mm"]

_LARGEST = 65535
_LONGEST_NAME = 255
_COMPRESSION = 1
"""Five times faster than zlib's default, and a fifth larger."""

_DATE = re.compile(r"\d{4}_\d\d_\d\d")
_NYU_FOLDERS = re.compile(r"^(sync|official_splits/(train|test))/")
_COLUMNS = ["id", "file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PngFormat:
    """How metres become numbers, and rows become names."""

    kind: Kind
    full_scale: float
    """Metres of the number 65535."""

    family: str
    """Of the teacher: TIE-KD names a folder so."""

    domain: str
    """Of the data set."""

    @classmethod
    def of(cls, kind: Kind, family: str, domain: str, max_depth: float) -> PngFormat:
        """The format for a teacher over a data set.

        Args:
            kind: of the format.
            family: of the teacher.
            domain: of the data set; TIE-KD knows `kitti` and `nyu`.
            max_depth: of the teacher [m], which decides where the domain does not.
        """
        if kind == "mm":
            full_scale = _LARGEST / 1000
        elif domain in ("kitti", "nyu"):
            full_scale = 80.0 if domain == "kitti" else 10.0
        else:
            full_scale = 80.0 if max_depth > 10 else 10.0
        return cls(kind=kind, full_scale=full_scale, family=family, domain=domain)

    @property
    def quantum(self) -> float:
        """Metres of one unit."""
        return self.full_scale / _LARGEST

    @property
    def folder(self) -> str:
        """Of the pictures."""
        return "depth" if self.kind == "mm" else f"gt_kd_{self.family}"

    def encode(self, depth: Depth) -> NDArray[np.uint16]:
        """Turns depth (H, W) [m] into numbers; 0 stays unknown, so does what is not positive.

        Cubic resampling of a map beside a steep edge may go below zero.
        """
        depth = np.maximum(depth, 0)
        if self.kind == "mm":
            units = np.rint(depth.astype(np.float64) / self.quantum)
            return np.where(units > _LARGEST, 0, units).astype(np.uint16)
        metres = np.minimum(depth.astype(np.float64), self.full_scale)
        return np.floor(metres * _LARGEST / self.full_scale).astype(np.uint16)

    def file(self, number: int, row_id: str) -> str:
        """Path of a row's picture below the folder of an export.

        Raises:
            StoreError: the name is longer than a file's may be.
        """
        name = f"{number:07d}.png" if self.kind == "mm" else f"{self._flat(row_id)}.png"
        if len(name.encode()) > _LONGEST_NAME:
            raise StoreError(f"{row_id!r} is too long for a flat file name: export it as mm")
        return f"{self.folder}/{name}"

    def _flat(self, row_id: str) -> str:
        path = row_id
        date = _DATE.search(path) if self.domain == "kitti" else None
        if date is not None:
            path = path[path.rfind("/", 0, date.start()) + 1 :]
        elif self.domain == "nyu":
            path = _NYU_FOLDERS.sub("", path)
        return path.replace("/", "_").replace("\\", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What `export` wrote."""

    path: Path
    """Folder of the pictures."""

    images: int
    bad: int
    """Rows without depth: they have no picture."""

    removed: int
    """Pictures of these rows that were there, from when they had depth."""

    beyond: int
    """Pixels deeper than the format can say."""

    quantum: float
    """[m]"""


def export(
    path: Path,
    out: Path,
    kind: Kind,
    *,
    manifests: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Writes the depth of a complete store as pictures; those of the same name are replaced.

    The picture of a row that has no depth any more is removed.

    Args:
        path: of the store.
        out: folder, made if it is not there.
        kind: of the format.
        manifests: folder of the cards.
        workers: threads; None: a few.
        progress: called with the number of rows done, and of all.

    Raises:
        StoreError: there is no store, it is not complete, its bytes changed, two rows would have
            one name, or the disk refuses.
    """
    store = open_store(path)
    if not store.info.is_metric:
        raise StoreError(
            f"{path} holds a disparity without unit, PNG of metres can be made of metres only: "
            "export a metric teacher's store"
        )
    teacher = cast("dict[str, Any]", store.info.identity["teacher"])
    domain = _domain(store.info.data, manifests)
    how = PngFormat.of(kind, teacher["family"], domain, float(teacher["max_depth"]))
    files = _files(store, how)
    with disk_errors(out):
        (out / how.folder).mkdir(parents=True, exist_ok=True)
        seen: Counter[str] = Counter()
        with ThreadPoolExecutor(workers) as threads:
            written = threads.map(lambda number: _write(store, number, out, files, how), files)
            for done, one in enumerate(written, 1):
                seen.update(one)
                if progress is not None:
                    progress(done, len(store))
        if kind == "mm":
            _write_list(out / "depth.csv", store, files)
    return Exported(
        path=out / how.folder,
        images=seen["images"],
        bad=len(store) - seen["images"],
        removed=seen["removed"],
        beyond=seen["beyond"],
        quantum=how.quantum,
    )


def read_list(folder: Path) -> dict[str, str]:
    """Reads depth.csv: id -> file below the folder, empty for an image without depth.

    Raises:
        DataError: it is missing or malformed, or a path leaves the folder.
    """
    path = folder / "depth.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *lines = list(csv.reader(file))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: give the folder that holds it") from error
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise DataError(f"{path} is no CSV of id,file ({error}): make it again") from error
    wrong = next((n for n, line in enumerate(lines, 2) if len(line) != len(_COLUMNS)), None)
    if head != _COLUMNS or wrong is not None:
        found = f"line {wrong}" if head == _COLUMNS else f"the head {','.join(head)!r}"
        raise DataError(f"{path}: found {found}, expected id,file: make it again")
    for _, name in lines:
        check_inside(name)
    return dict(cast("Sequence[tuple[str, str]]", lines))


def _domain(data: str, manifests: Path | None) -> str:
    try:
        return read_rows(layout.rows_path(data)).card.domain
    except DataError:
        pass
    try:
        return load_data(data, manifests).domain
    except UnknownNameError:
        return "any"


def _files(store: Store, how: PngFormat) -> dict[int, str]:
    done = int(store.finished.sum())
    if done < len(store):
        raise StoreError(
            f"{store.path}: {done} of {len(store)} rows are finished: run `kdpipe teach --teacher "
            f"{store.info.teacher} --data {store.info.data}` to go on, then export"
        )
    files: dict[int, str] = {}
    taken: dict[str, str | None] = {}
    for number, row_id in enumerate(store.ids):
        files[number] = name = how.file(number, str(row_id))
        if name in taken:
            raise StoreError(
                f"{taken[name]!r} and {row_id!r} would both be {name}: export them as mm"
            )
        taken[name] = row_id
    return files


def _write(
    store: Store, number: int, out: Path, files: dict[int, str], how: PngFormat
) -> dict[str, int]:
    """What to count: images, pixels beyond the format, pictures removed."""
    file = out / files[number]
    if not store.known(number):
        removed = file.exists()
        file.unlink(missing_ok=True)
        return {"removed": removed}
    depth = store.depth(number)
    half = file.with_name(f".{number}.tmp")
    try:
        picture = Pillow.fromarray(how.encode(depth))
        picture.save(half, "PNG", compress_level=_COMPRESSION)
        half.replace(file)
    finally:
        half.unlink(missing_ok=True)
    beyond = int(np.count_nonzero(depth > how.full_scale + how.quantum / 2))
    return {"images": 1, "beyond": beyond}


def _write_list(path: Path, store: Store, files: dict[int, str]) -> None:
    half = path.with_name(f".{path.name}.tmp")
    with half.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(_COLUMNS)
        for number, name in files.items():
            lines.writerow([store.ids[number], name if store.known(number) else ""])
    half.replace(path)
