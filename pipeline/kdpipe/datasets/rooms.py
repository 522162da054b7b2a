"""Furnished rooms, rendered here: colour, exact depth, 13 classes, intrinsics.

Files lie below the card's root as <part>/<scene>_<view>.jpg with _depth.png and _labels.png beside
it, and <part>/<scene>.json, written last, which says that the scene's views are complete. The parts
train, val, test and pool draw from streams of random numbers that never meet, so no two share a
room; the pool has no depth and no labels, and is called split `train` of its own data set.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PillowImage

from kdpipe.datasets.render import view, viewpoint
from kdpipe.datasets.render.room import make_scene
from kdpipe.datasets.render.shade import Shader
from kdpipe.errors import CardError, DataError
from kdpipe.rows import Row
from kdpipe.strict import build, digest_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.cards import DataCard
    from kdpipe.datasets.render.view import View

REVISION = 2
"""Raise it when the pictures change: what was rendered before is rendered again."""

VIEWS = 4
"""Of one scene."""

UNIT = 0.0002
"""Metres of one unit of a depth file: 0.1 mm of error at most, 13.1 m of range."""

_PARTS = ("train", "val", "test", "pool")
_FEW = 3
"""So few scenes are rendered in this process: starting others takes longer."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The `options` of a data card of this family."""

    train: int = 480
    """Labelled images for training."""

    val: int = 48
    test: int = 96
    pool: int = 0
    """Unlabelled images, of other rooms."""

    height: int = 144
    """[pixels]"""

    width: int = 192
    seed: int = 0

    def __post_init__(self) -> None:
        counts = [getattr(self, part) for part in _PARTS]
        if min(counts) < 0 or sum(counts) == 0:
            raise CardError(f"rooms: counts must be >= 0 and not all 0, got {counts}")
        if not (16 <= self.height <= 4096 and 16 <= self.width <= 4096):
            raise CardError(
                f"rooms: height and width must be in [16, 4096], got {self.height}, {self.width}"
            )
        if self.seed < 0:
            raise CardError(f"rooms: seed must be >= 0, got {self.seed}")

    @property
    def recipe(self) -> str:
        """Identity of the pictures; not of how many there are."""
        return digest_of([REVISION, VIEWS, UNIT, self.height, self.width, self.seed])


def list_rows(card: DataCard, root: Path) -> Iterator[Row]:
    """Renders what is missing below `root`, then lists all images in order.

    Raises:
        CardError: the card's options are wrong.
        DataError: the files cannot be written.
    """
    options = build(Options, card.options, f"data/{card.name}: options")
    render_missing(options, root)
    for part in _PARTS:
        count = getattr(options, part)
        for scene in range(-(-count // VIEWS)):
            about = json.loads(_marker(root, part, scene).read_text(encoding="utf-8"))
            for number in range(min(VIEWS, count - scene * VIEWS)):
                yield _row(options, part, scene, number, about["intrinsics"][number])


def render_missing(options: Options, root: Path, processes: int | None = None) -> int:
    """Renders the scenes that are not complete below `root`.

    Args:
        options: what there shall be.
        root: where; it is made.
        processes: None: one a core. The files are the same for any number.

    Returns:
        How many scenes were rendered.

    Raises:
        DataError: a file cannot be written.
    """
    try:
        return _render_missing(options, root, processes)
    except OSError as error:
        raise DataError(
            f"cannot write rooms below {root} ({error}): make room or choose another --root"
        ) from error


def _render_missing(options: Options, root: Path, processes: int | None) -> int:
    wanted = [
        (part, scene)
        for part in _PARTS
        for scene in range(-(-getattr(options, part) // VIEWS))
        if not _is_complete(options, root, part, scene)
    ]
    if not wanted:
        return 0
    count = min(processes or os.cpu_count() or 1, len(wanted))
    _log.info("rendering %d rooms below %s with %d processes", len(wanted), root, count)
    for part in {part for part, _ in wanted}:
        (root / part).mkdir(parents=True, exist_ok=True)
    if count == 1 or (processes is None and len(wanted) <= _FEW):
        for done, (part, scene) in enumerate(wanted, 1):
            _render_scene(options, root, part, scene)
            _say(done, len(wanted))
    else:
        _render_all(options, root, wanted, count)
    return len(wanted)


def render_views(options: Options, part: str, scene: int, count: int = VIEWS) -> Iterator[View]:
    """Renders the views of one room, in memory."""
    seed = np.random.SeedSequence([options.seed, _PARTS.index(part), scene])
    room, *cameras = (np.random.Generator(np.random.PCG64(s)) for s in seed.spawn(1 + count))
    made = make_scene(room)
    shader = Shader(made)
    for rng in cameras:
        camera = viewpoint.choose(made, rng, options.height, options.width)
        yield view.render(made, shader, camera, options.height, options.width, rng)


def _render_all(options: Options, root: Path, wanted: list[tuple[str, int]], count: int) -> None:
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_render_scene, options, root, *one) for one in wanted]
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                job.result()
                _say(done, len(wanted))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _say(done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        _log.info("%d of %d rooms rendered", done, total)


def _render_scene(options: Options, root: Path, part: str, scene: int) -> None:
    """Writes the views of one room; the marker goes first and comes back last."""
    marker = _marker(root, part, scene)
    marker.unlink(missing_ok=True)
    intrinsics = []
    for number, seen in enumerate(render_views(options, part, scene)):
        image, truth, labels = (root / name for name in _names(part, scene, number))
        _write(image, _encode(seen.image, "JPEG", quality=95, subsampling=0))
        if part != "pool":
            codes = np.rint(seen.depth / UNIT).astype(np.uint16)
            _write(truth, _encode(codes, "PNG", compress_level=3))
            _write(labels, _encode(seen.labels, "PNG", compress_level=3))
        camera = seen.camera
        intrinsics.append([camera.fx, camera.fy, camera.cx, camera.cy])
    about = json.dumps({"recipe": options.recipe, "intrinsics": intrinsics})
    _write(marker, about.encode())


def _encode(picture: NDArray[np.uint8] | NDArray[np.uint16], kind: str, **settings: int) -> bytes:
    buffer = BytesIO()
    PillowImage.fromarray(picture).save(buffer, kind, **settings)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, also when two processes write the same file."""
    half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        half.write_bytes(content)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def _is_complete(options: Options, root: Path, part: str, scene: int) -> bool:
    try:
        about = json.loads(_marker(root, part, scene).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    kept = 1 if part == "pool" else 3
    files = (root / name for n in range(VIEWS) for name in _names(part, scene, n)[:kept])
    return about.get("recipe") == options.recipe and all(file.is_file() for file in files)


def _marker(root: Path, part: str, scene: int) -> Path:
    return root / part / f"{scene:05d}.json"


def _names(part: str, scene: int, number: int) -> tuple[str, str, str]:
    """Image, depth and labels of a view, relative to the root."""
    stem = f"{part}/{scene:05d}_{number}"
    return f"{stem}.jpg", f"{stem}_depth.png", f"{stem}_labels.png"


def _row(options: Options, part: str, scene: int, number: int, intrinsics: list[float]) -> Row:
    image, truth, labels = _names(part, scene, number)
    is_labelled = part != "pool"
    fx, fy, cx, cy = intrinsics
    return Row(
        id=image.removesuffix(".jpg"),
        split=part if is_labelled else "train",
        image=image,
        truth=truth if is_labelled else None,
        truth_scale=UNIT,
        labels=labels if is_labelled else None,
        image_height=options.height,
        image_width=options.width,
        height=options.height,
        width=options.width,
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
    )
