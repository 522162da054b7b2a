"""Depth that others kept as 16-bit PNG, as a store: rows -> pictures -> codec -> store."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image as Pillow

from kdpipe.cards import load_teacher_card
from kdpipe.datasets.files import read_truth
from kdpipe.errors import CardError, DataError
from kdpipe.params import load_params
from kdpipe.rows import Rows, read_rows
from kdpipe.store import identity as identities
from kdpipe.store import layout
from kdpipe.store.claims import Claim, tidy
from kdpipe.store.consolidated import consolidate
from kdpipe.store.frame import BILINEAR
from kdpipe.store.ledger import Record
from kdpipe.store.manifest import manifest_beside, write_manifest
from kdpipe.store.metadata import StoreInfo, read_info
from kdpipe.store.png import Kind, PngFormat, read_list
from kdpipe.store.removal import remove_shard
from kdpipe.store.verify import verify
from kdpipe.store.writer import open_writer
from kdpipe.teachers import TeacherOutput
from kdpipe.teaching import plan as plans
from kdpipe.teaching.encoding import Encoder
from kdpipe.teaching.measuring import Measure
from kdpipe.teaching.plan import Subject
from kdpipe.teaching.weights import Weights

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard
    from kdpipe.types import Depth

_AT_ONCE = 16
"""Pictures that are decoded and wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What `import_depth` did."""

    path: Path
    """Of the store."""

    written: int
    """Images taken over now."""

    kept: int
    """Images that were there already."""

    bad: Mapping[str, str]
    """Row id -> why it has no depth."""

    unused: int
    """Pictures of the folder that are of no row."""

    quantum: float
    """Metres of one unit of the pictures: their error comes on top of the store's."""


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Those of a data set's rows."""

    rows: Rows
    files: Mapping[int, Path]
    how: PngFormat

    def read(self, number: int) -> Depth | str:
        """Depth (H, W) [m] of a row's frame, or why there is none."""
        file, row = self.files.get(number), self.rows[number]
        if file is None:
            return "no picture of it was imported"
        try:
            scale = self.how.quantum
            as_truth = replace(row, truth=str(file.resolve()), truth_scale=scale, truth_bytes=0)
            return read_truth(self.rows, as_truth)
        except DataError as error:
            return " ".join(str(error).split())


def import_depth(
    folder: Path,
    kind: Kind,
    teacher: str,
    data: str,
    *,
    manifests: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Makes a store of pictures, which says so in its identity; killed, the same command goes on.

    Args:
        folder: of an export, or the folder of the pictures itself.
        kind: of the format.
        teacher: the card of what made them.
        data: a data set that was indexed; a picture is of the row whose path it bears.
        manifests: folder of the cards.
        progress: called with the number of shards done, and of all.

    Raises:
        CardError: the card's depth is not metric.
        DataError: no picture is of a row, or one has another size than its frame.
        StaleStoreError: the store that is there is of other pictures, or of a teacher.
        StoreError: the disk refuses.
    """
    card, rows = load_teacher_card(teacher, manifests), read_rows(layout.rows_path(data))
    if not card.is_metric:
        raise CardError(f"{card.name} is affine-invariant, a store holds metres: name a metric one")
    how = PngFormat.of(kind, card.family, rows.card.domain, card.max_depth)
    files, unused = _find(folder, how, rows)
    _check_sizes(rows, files)
    path = layout.store_path(data, card.name)
    info = _open(path, card, rows, how, folder.resolve().name, files)
    run, pictures = secrets.token_hex(4), _Pictures(rows, files, how)
    try:
        for shard in verify(path).broken:
            remove_shard(path, info, shard, run)
        plan = plans.make_plan(path, info, rows)
        lines = list(plan.kept)
        for done, shard in enumerate(plan.missing, 1):
            lines.append(_take(path, info, shard, pictures, run).line)
            if progress is not None:
                progress(done, len(plan.missing))
    finally:
        tidy(path, run)
    lines.sort(key=lambda one: one.shard)
    consolidate(path)
    write_manifest(manifest_beside(path), info, lines)
    return Imported(
        path=path,
        written=plan.images,
        kept=len(rows) - plan.images,
        bad={row: why for one in lines for row, why in one.bad_ids.items()},
        unused=unused,
        quantum=how.quantum,
    )


def _find(folder: Path, how: PngFormat, rows: Rows) -> tuple[dict[int, Path], int]:
    """Row number -> its picture, where there is one; and how many pictures are of no row."""
    base = folder / how.folder if (folder / how.folder).is_dir() else folder
    if how.kind == "mm":
        listed = read_list(folder)
        wanted = {n: folder / listed[row.id] for n, row in enumerate(rows) if listed.get(row.id)}
    else:
        wanted = {n: base / Path(how.file(n, row.id)).name for n, row in enumerate(rows)}
    there = set(base.glob("*.png"))
    files = {number: path for number, path in wanted.items() if path in there or path.is_file()}
    if not files:
        example = how.file(0, rows[0].id) if len(rows) else how.folder
        raise DataError(
            f"{folder} holds no picture of the {len(rows)} rows of {rows.name}, e.g. {example}: "
            "give the folder of an export, and its --format and --data"
        )
    return files, len(there - set(files.values()))


def _check_sizes(rows: Rows, files: Mapping[int, Path]) -> None:
    """Looks at the pictures' heads before a store is made; a torn one is seen when it is read."""
    for number, file in files.items():
        with contextlib.suppress(OSError, SyntaxError), Pillow.open(file) as picture:
            row, (width, height) = rows[number], picture.size
            if (height, width) != (row.height, row.width):
                raise DataError(
                    f"{file} is {height}x{width}, the frame of {row.id!r} is {row.height}x"
                    f"{row.width}: import pictures of the frames of {rows.name}"
                )


def _open(
    path: Path, card: TeacherCard, rows: Rows, how: PngFormat, name: str, files: Mapping[int, Path]
) -> StoreInfo:
    """The store that is there, if it is of the same pictures; else a new one."""
    weights = Weights(path=path, sha256=_digest(rows, files), source=f"imported from {name}")
    params = replace(load_params().store, bins=False)
    subject = Subject(card=card, rows=rows, weights=weights, params=params)
    found = read_info(path) if layout.metadata_path(path).exists() else None
    identity = subject.identity(BILINEAR, None if found is None else found.shard_rows)
    identity["precision"] = "unknown"
    identity["imported"] = {"format": how.kind, "full_scale": how.full_scale}
    if found is not None:
        identities.compare(path, found.identity, identity)
        return found
    native = (max(row.height for row in rows), max(row.width for row in rows))
    seen = Measure(native=native, bins=None, rule=BILINEAR)
    return plans.establish(path, plans.draft(identity, len(rows), seen))


def _digest(rows: Rows, files: Mapping[int, Path]) -> str:
    """Of all pictures, in the order of their rows."""
    whole = hashlib.sha256()
    with ThreadPoolExecutor() as threads:
        for number, digest in zip(files, threads.map(_sha256, files.values()), strict=True):
            whole.update(f"{rows[number].id}\0{digest}\n".encode())
    return whole.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _take(path: Path, info: StoreInfo, shard: int, pictures: _Pictures, run: str) -> Record:
    """Writes one shard, from its claim to its record."""
    (start, stop), began = info.rows_of(shard), time.perf_counter()
    rows, bad = pictures.rows, dict[int, str]()
    claim = Claim.take(path, shard, run)
    try:
        with open_writer(info, claim) as writer, ThreadPoolExecutor() as threads:
            encoder = Encoder(info, writer)
            for first in range(start, stop, _AT_ONCE):
                claim.hold()
                numbers = range(first, min(first + _AT_ONCE, stop))
                for number, depth in zip(numbers, threads.map(pictures.read, numbers), strict=True):
                    if isinstance(depth, str):
                        bad[number] = depth
                    else:
                        out = TeacherOutput(torch.from_numpy(depth)[None])
                        encoder.put([(number, rows[number])], out)
            for number in bad:
                encoder.put_bad(number, rows[number])
            return writer.commit(
                Record(
                    store=info.digest,
                    shard=shard,
                    start=start,
                    stop=stop,
                    row_digest=rows.digest(start, stop),
                    ids=tuple(one.id for one in rows[start:stop]),
                    arrays={},
                    statistics=encoder.statistics(),
                    bad={str(number): why for number, why in bad.items()},
                    environment={
                        "run": run,
                        "host": socket.gethostname(),
                        "seconds": round(time.perf_counter() - began, 3),
                        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    },
                )
            )
    finally:
        claim.release()
