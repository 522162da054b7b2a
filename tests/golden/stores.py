"""The stores kept here, and how they were written: every later version must read them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kdpipe.cards import DataCard, load_teacher_card
from kdpipe.codecs import Companded, Log16, LogBinomial
from kdpipe.store import Store, StoredBins, layout
from kdpipe.store.claims import Claim
from kdpipe.store.frame import BICUBIC_PADDED, BILINEAR
from kdpipe.store.identity import identity_of
from kdpipe.store.ledger import Record
from kdpipe.store.metadata import StoreInfo, formats, write_info
from kdpipe.store.writer import ShardWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.types import Depth

FOLDER = Path(__file__).parent
KINDS = ("companded", "log-binomial", "delta")
"""The first two hold bins of either kind, depth as pcodec alone; the third is the first, its depth
as differences."""

ROWS, SHARD_ROWS, BAD = 4, 3, 1
NATIVE = {0: (16, 24), 1: (0, 0), 2: (8, 16), 3: (16, 24)}
"""Two sizes; an image that could not be read; the last shard is a partial one."""

WINDOW, STEP = (3, 5, 11, 14), 7
BINS = 12
DEPTH = Log16(near=0.1, far=10.0)


def store_path(kind: str) -> Path:
    """Of the store of this kind."""
    return FOLDER / f"{kind}.zarr"


def expected(kind: str) -> dict[str, NDArray[np.float32]]:
    """What was read back when it was written."""
    text = _expected_path(kind).read_text(encoding="utf-8")
    return {name: np.array(values, np.float32) for name, values in json.loads(text).items()}


def write(kind: str, path: Path) -> None:
    """Writes such a store with the writer of today."""
    codec = LogBinomial(bins=BINS, attractors=(4, 2)) if kind == "log-binomial" else Companded()
    identity = identity_of(
        load_teacher_card("adabins-small"),
        DataCard(name="golden", family="folder", domain="any"),
        weights={"sha256": "0" * 64, "source": "golden"},
        rule=BICUBIC_PADDED if kind == "log-binomial" else BILINEAR,
        codecs={"depth": DEPTH, "bins": codec},
        shard_rows=SHARD_ROWS,
    )
    kept = BINS if isinstance(codec, Companded) else codec
    depth, *others = formats(NATIVE[0], kept)
    first = replace(depth, packing="delta-pcodec" if kind == "delta" else "pcodec")
    info = StoreInfo(identity=identity, rows=ROWS, arrays=(first, *others))
    write_info(path, info)
    for shard in range(info.shards):
        start, stop = info.rows_of(shard)
        claim = Claim.take(path, shard, "golden")
        with ShardWriter(info, claim) as writer:
            for number in range(start, stop):
                writer.put(number, _padded(info, values_of(kind, number, codec)))
            writer.commit(
                Record(
                    store=info.digest,
                    shard=shard,
                    start=start,
                    stop=stop,
                    row_digest="golden",
                    ids=tuple(f"image {number}" for number in range(start, stop)),
                    arrays={},
                    bad={str(BAD): "torn JPEG"} if start <= BAD < stop else {},
                )
            )
        claim.release()
    for name in ("claims", "work"):
        if (path / name).is_dir() and not list((path / name).iterdir()):
            (path / name).rmdir()


def values_of(kind: str, number: int, codec: Companded | LogBinomial) -> dict[str, NDArray[Any]]:
    """One row: smooth in the whole, rough in its pixels, as a network's output is."""
    height, width = NATIVE[number]
    frame = (2 * height, 2 * width) if height else (32, 48)
    extent = np.array([height, width, *frame, 0, 0, 50.0])
    if number == BAD:
        return {layout.EXTENT: extent}
    y, x = np.mgrid[0:height, 0:width] / 16
    rough = np.arange(height * width).reshape(height, width) * 37 % 11 / 500
    depth = (1.5 + number + y - 0.6 * x + rough).astype(np.float32)
    if number == 0:
        depth[2:4, 5] = 0
    codes = DEPTH.encode(depth)
    values: dict[str, NDArray[Any]] = {layout.EXTENT: extent, layout.DEPTH: codes}
    if isinstance(codec, Companded):
        edges = (0.25 + 0.75 * np.arange(BINS + 1)).astype(np.float32)
        away = 0.5 * (edges[1:] + edges[:-1])[:, None, None] - depth
        shares = 1 / (1 + away**2) ** 2
        shares /= shares.sum(axis=0)
        return {**values, layout.BIN_CODES: codec.encode(shares), layout.BIN_EDGES: edges}
    pair = codec.encode(depth / 10, (0.1 + y + x).astype(np.float32))
    seeds, *maps = (
        0.3 + (np.arange(np.prod(shape)).reshape(shape) * 29 % 17) / (2 * len(shape))
        for shape in codec.shapes((height, width))
    )
    points = codec.encode_points(seeds.astype(np.float32), [one.astype(np.float32) for one in maps])
    return {**values, layout.BIN_PAIR: pair, layout.BIN_POINTS: points}


def read(store: Store) -> dict[str, NDArray[np.float32]]:
    """All that a reader gives of a store."""
    found: dict[str, NDArray[np.float32]] = {}
    for number in range(len(store)):
        found[f"{number} frame"] = np.array(store.frame(number), np.float32)
        found[f"{number} window"] = store.depth(number, WINDOW)
        if store.known(number):
            found[f"{number} depth"] = store.native_depth(number)
            bins = store.bins(number)
            found[f"{number} probabilities"] = bins.probabilities(STEP)
            if isinstance(bins, StoredBins):
                found[f"{number} edges"] = bins.edges
            else:
                found[f"{number} centers"] = bins.centers(STEP)
    return found


def note(kind: str, found: dict[str, NDArray[np.float32]]) -> None:
    """Writes what `expected` reads."""
    lists = {name: _short(values) for name, values in found.items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in lists.items())
    text = f"{{\n{lines}\n}}\n"
    _expected_path(kind).write_text(text, encoding="utf-8")


def _expected_path(kind: str) -> Path:
    return FOLDER / f"{'companded' if kind == 'delta' else kind}.expected.json"


def _short(values: Depth) -> list[object]:
    """Seven digits, which is what a float32 has."""
    rounded = np.array([float(f"{value:.7g}") for value in values.ravel()])
    return cast("list[object]", rounded.reshape(values.shape).tolist())


def _padded(info: StoreInfo, values: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    padded = {}
    for name, one in values.items():
        padded[name] = np.zeros(info.array(name).shape, one.dtype)
        padded[name][tuple(slice(0, side) for side in one.shape)] = one
    return padded
