"""A tiny labelled data set, its unlabelled sibling, and a teacher's store over each."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image as Pillow

from kdpipe.cards import DataCard, TeacherCard, load_teacher_card
from kdpipe.codecs import Companded, Log16, LogBinomial
from kdpipe.datasets.files import digest_of
from kdpipe.rows import Row, Rows, make_rows, write_rows
from kdpipe.store import Store, layout, open_store
from kdpipe.store.claims import Claim
from kdpipe.store.frame import BILINEAR, native_line
from kdpipe.store.identity import identity_of
from kdpipe.store.ledger import Record
from kdpipe.store.metadata import StoreInfo, formats, write_info
from kdpipe.store.writer import ShardWriter, open_writer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tests.s3_server import Server

    from kdpipe.types import Depth, Image

HEIGHT, WIDTH = 48, 64
BINS = 24
"""Of a tiny store that keeps free ones: up to about 12 m."""

_scenes: dict[str, int] = {}
"""Digest of an image -> number of its scene."""

# Before any test loads torch, as the command line does: spinning threads starve each other.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# What this machine has downloaded is no part of a test; the hub's client reads this when imported.
NO_CACHE = Path(tempfile.gettempdir()) / f"kdpipe-tests-{os.getpid()}-no-cache"
os.environ["KDPIPE_HOME"] = os.environ["HF_HOME"] = str(NO_CACHE)
# A script's background job ignores Ctrl-C, and its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples each time, and no deadline: a slow machine is no wrong answer.
settings.load_profile("ci")

MakeRows: TypeAlias = Callable[..., Rows]
MakeStore: TypeAlias = Callable[..., Store]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what tests/golden asks for."""
    parser.addoption("--regold", action="store_true", help="write tests/golden anew, then compare")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test draws without a seed of its own does not depend on which tests ran before."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


def scene(number: int, height: int = HEIGHT, width: int = WIDTH) -> tuple[Image, Depth]:
    """A tilted wall whose brightness follows its depth, so that a network can learn it."""
    rng = np.random.default_rng(number)
    start, right, down = rng.uniform([1.5, -1, -1], [6, 2, 2])
    y, x = np.mgrid[0:height, 0:width]
    depth = (start + right * x / width + down * y / height).clip(0.5, 9.5).astype(np.float32)
    shade = 255 * np.exp(-depth / 5)[..., None] * rng.uniform(0.9, 1, 3)
    return shade.astype(np.uint8), depth


@pytest.fixture
def make_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRows:
    """Writes a data set of PNG files and its rows file; the working folder becomes tmp_path."""
    monkeypatch.chdir(tmp_path)

    def make(
        name: str = "tiny", *, train: int = 6, val: int = 2, labelled: bool = True, first: int = 0
    ) -> Rows:
        card = DataCard(name=name, family="folder", domain="nyu", root=name)
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for number, split in enumerate(["train"] * train + ["val"] * val):
            image, depth = scene(first + number)
            file = folder / f"{number}.png"
            Pillow.fromarray(image).save(file)
            digest = digest_of(file.read_bytes())
            _scenes[digest] = first + number
            Pillow.fromarray((depth * 1000).round().astype(np.uint16)).save(
                folder / f"{number}_depth.png"
            )
            row = Row(
                id=str(number),
                split=split,
                image=f"{number}.png",
                truth=f"{number}_depth.png" if labelled else None,
                truth_scale=1e-3,
                image_height=HEIGHT,
                image_width=WIDTH,
                height=HEIGHT,
                width=WIDTH,
                fx=60.0,
                fy=60.0,
                cx=31.5,
                cy=23.5,
                image_digest=digest,
            )
            rows.append(row)
        made = make_rows(card, folder, rows)
        write_rows(layout.rows_path(name), made)
        return made

    return make


@pytest.fixture
def make_tiny_store() -> MakeStore:
    """Writes what a perfect teacher, at half the frame's size, would say of a tiny data set."""

    def make(
        rows: Rows,
        *,
        teacher: str = "adabins-small",
        taught: int | None = None,
        bad: tuple[int, ...] = (),
        rule: str = BILINEAR,
        bins: Companded | LogBinomial | None = None,
        factor: float = 1.0,
    ) -> Store:
        card: TeacherCard = load_teacher_card(teacher)
        native = (HEIGHT // 2, WIDTH // 2)
        path = layout.store_path(rows.name, teacher)
        codec = Log16(near=0.1, far=10.0)
        identity = identity_of(
            card,
            rows.card,
            weights={"sha256": "0" * 64, "source": "perfect"},
            rule=rule,
            codecs={"depth": codec} if bins is None else {"depth": codec, "bins": bins},
            shard_rows=2,
        )
        kind = BINS if isinstance(bins, Companded) else bins
        info = StoreInfo(identity=identity, rows=len(rows), arrays=formats(native, kind))
        write_info(path, info)
        for shard in range(info.shards):
            start, stop = info.rows_of(shard)
            if taught is not None and stop > taught:
                break
            claim = Claim.take(path, shard, "test")
            with open_writer(info, claim) as writer:
                for number in range(start, stop):
                    known = number not in bad
                    put(writer, rows, number, codec, known=known, rule=rule, factor=factor)
                writer.commit(
                    Record(
                        store=info.digest,
                        shard=shard,
                        start=start,
                        stop=stop,
                        row_digest=rows.digest(start, stop),
                        ids=tuple(rows[n].id for n in range(start, stop)),
                        arrays={},
                        bad={str(n): "torn" for n in range(start, stop) if n in bad},
                    )
                )
            claim.release()
        return open_store(path)

    return make


def put(
    writer: ShardWriter,
    rows: Rows,
    number: int,
    codec: Log16,
    *,
    known: bool,
    rule: str,
    factor: float = 1.0,
) -> None:
    """Writes one row of a store, by a teacher who is wrong by a factor, or knows no unit."""
    row: Row = rows[number]
    depth = np.float32(factor) * scene(_scenes[row.image_digest])[1]
    if not writer.info.is_metric:
        depth = 3 / depth + np.float32(0.5)
    height, width = HEIGHT // 2, WIDTH // 2
    y, x = (
        (np.arange(native) - offset) / scale
        for native, (scale, offset) in (
            (height, native_line(height, HEIGHT, rule)),
            (width, native_line(width, WIDTH, rule)),
        )
    )
    rows_at = np.abs(np.round(y)).astype(int)
    columns_at = np.abs(np.round(x)).astype(int)
    rows_at = np.minimum(rows_at, 2 * (HEIGHT - 1) - rows_at)
    columns_at = np.minimum(columns_at, 2 * (WIDTH - 1) - columns_at)
    native = depth[rows_at][:, columns_at]
    size = (height, width) if known else (0, 0)
    extent = np.array([*size, HEIGHT, WIDTH, 0, 0, 60.0], np.float64)
    values: dict[str, NDArray[Any]] = {layout.EXTENT: extent}
    if known:
        values[layout.DEPTH] = codec.encode(native)
    if known and writer.info.has_bins:
        values |= bins_values(writer.info.codec("bins"), native, number)
    writer.put(number, values)


def bins_values(codec: object, depth: Depth, number: int) -> dict[str, NDArray[Any]]:
    """Bins whose mean is the depth: exactly in free ones, roughly in two-parameter ones."""
    if isinstance(codec, LogBinomial):
        share = ((depth - 0.5) / 9.5).clip(1e-3, 1 - 1e-3)
        centers = np.linspace(0.5, 10, codec.bins, dtype=np.float32)
        seeds, *maps = codec.shapes((depth.shape[0], depth.shape[1]))
        away = [np.full(shape, 1e6, np.float32) for shape in maps]
        points = codec.encode_points(np.broadcast_to(centers[:, None, None], seeds), away)
        pair = codec.encode(share, np.full_like(share, 0.2))
        return {layout.BIN_PAIR: pair, layout.BIN_POINTS: points}
    assert isinstance(codec, Companded)
    rng = np.random.default_rng(number)
    edges = np.concatenate(([0.0], rng.uniform(0.3, 0.7, BINS).cumsum())).astype(np.float32)
    centers = 0.5 * (edges[1:] + edges[:-1])
    above = np.searchsorted(centers, depth).clip(1, BINS - 1)
    part = (depth - centers[above - 1]) / (centers[above] - centers[above - 1])
    probabilities = np.zeros((BINS, *depth.shape), np.float32)
    np.put_along_axis(probabilities, above[None] - 1, 1 - part[None], 0)
    np.put_along_axis(probabilities, above[None], part[None], 0)
    return {layout.BIN_CODES: codec.encode(probabilities), layout.BIN_EDGES: edges}


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[Server]:
    from tests.s3_server import Server

    server = Server()
    yield server
    server.close()


@pytest.fixture
def s3_server(_s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An empty bucket; see tests/s3_server.py."""
    _s3_server.serve(monkeypatch)
    return _s3_server
