"""A small store with every array: rows of two sizes, one of them bad, the last shard partial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest

from kdpipe.cards import DataCard, load_teacher_card
from kdpipe.codecs import Companded, Log16
from kdpipe.store import layout
from kdpipe.store.claims import Claim
from kdpipe.store.identity import identity_of
from kdpipe.store.ledger import Record
from kdpipe.store.metadata import StoreInfo, create_info, formats, write_info
from kdpipe.store.writer import open_writer

if TYPE_CHECKING:
    from tests.s3_server import Server

    from kdpipe.store.writer import ShardWriter
    from kdpipe.types import Depth

CODEC = Log16(near=0.1, far=10.0)
NATIVE, BINS, ROWS, SHARD_ROWS, BAD = (6, 8), 5, 10, 4, 2
MakeStore: TypeAlias = Callable[..., Path]


@dataclass(frozen=True)
class Row:
    """What was put."""

    depth: Depth
    probabilities: Depth
    edges: Depth


def row_of(number: int) -> Row:
    """Random, but for an unknown corner; odd rows are smaller."""
    rng = np.random.default_rng(number)
    height, width = NATIVE if number % 2 == 0 else (4, 5)
    depth = rng.uniform(0.2, 9, (height, width)).astype(np.float32)
    depth[0, 0] = 0
    probabilities = rng.dirichlet(np.ones(BINS), (height, width)).astype(np.float32)
    edges = np.sort(rng.uniform(0.1, 10, BINS + 1)).astype(np.float32)
    return Row(depth, np.moveaxis(probabilities, -1, 0), edges)


def info_of(rows: int = ROWS, *, licence: str = "MIT") -> StoreInfo:
    """The attributes of such a store."""
    identity = identity_of(
        load_teacher_card("adabins-small"),
        DataCard(name="photos", family="folder", domain="any", about={"licence": licence}),
        weights={"sha256": "0" * 64, "source": "fitted"},
        rule="bilinear-align-corners",
        codecs={"depth": CODEC, "bins": Companded()},
        shard_rows=SHARD_ROWS,
    )
    return StoreInfo(identity=identity, rows=rows, arrays=formats(NATIVE, BINS))


def put(writer: ShardWriter, number: int) -> None:
    """Writes one row."""
    row = row_of(number)
    height, width = row.depth.shape
    extent = np.array([height, width, 2 * height, 2 * width, 0, 0, 50.0])
    if number == BAD:
        writer.put(number, {layout.EXTENT: extent * [0, 0, 1, 1, 1, 1, 1]})
        return
    depth, codes = np.zeros(NATIVE, np.uint16), np.zeros((BINS, *NATIVE), np.uint8)
    depth[:height, :width] = CODEC.encode(row.depth)
    codes[:, :height, :width] = Companded().encode(row.probabilities)
    values: dict[str, Any] = {layout.DEPTH: depth, layout.EXTENT: extent}
    writer.put(number, {**values, layout.BIN_CODES: codes, layout.BIN_EDGES: row.edges})


def record_of(info: StoreInfo, shard: int, *, note: float = 0.0) -> Record:
    """A record but for its digests."""
    start, stop = info.rows_of(shard)
    return Record(
        store=info.digest,
        shard=shard,
        start=start,
        stop=stop,
        row_digest="rows",
        ids=tuple(f"{number:04d}" for number in range(start, stop)),
        arrays={},
        bad={str(BAD): "torn"} if start <= BAD < stop else {},
        environment={"seconds": note},
    )


def write_shard(path: Path, info: StoreInfo, shard: int, *, note: float = 0.0) -> Record:
    """Writes one shard as a worker does."""
    claim = Claim.take(path, shard, "test")
    try:
        with open_writer(info, claim) as writer:
            for number in range(*info.rows_of(shard)):
                put(writer, number)
            return writer.commit(record_of(info, shard, note=note))
    finally:
        claim.release()


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """Writes a store, or some of its shards."""

    def make(name: str = "store.zarr", shards: tuple[int, ...] = (0, 1, 2)) -> Path:
        path, info = tmp_path / name, info_of()
        write_info(path, info)
        for shard in shards:
            write_shard(path, info, shard)
        return path

    return make


@pytest.fixture
def s3_store(s3_server: Server) -> Server:
    """A server with an empty store."""
    from tests.s3_photos import STORE  # which loads the server, as few of these tests do

    create_info(STORE, info_of())
    return s3_server
