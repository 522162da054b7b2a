"""A store before anyone trains from it: coverage, range, agreement with truth, confidence.

A row an image as Parquet, and one small JSON that DVC shows. Images are looked at by dask threads,
one shard of rows after the other: no more than a shard's results wait at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dask.base import compute
from dask.delayed import delayed

from kdpipe.cards import load_teacher_card
from kdpipe.datasets import read_truth
from kdpipe.datasets.indexed import rows_of
from kdpipe.errors import StaleStoreError, StoreError
from kdpipe.metrics.depth import depth_errors_of_valid
from kdpipe.metrics.table import write_summary
from kdpipe.store import Store, StoredLogBinomial, open_store
from kdpipe.store.layout import audit_path, store_path
from kdpipe.store.ledger import finished, read_record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.rows import Rows
    from kdpipe.types import Depth

HISTOGRAM_CELLS = 24
"""Of depth, evenly in log-space over the farther hundredfold of the data card's range."""

BIN_PIXELS = 1500
"""About so many pixels of an image are asked for their bins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What is seen of one image; None: there is nothing to see it by."""

    row: int
    id: str
    split: str
    finished: bool = True
    bad: str | None = None
    """Why the teacher gave no depth."""

    known: float | None = None
    """Share of native pixels with depth."""

    nearest: float | None = None
    """[m]"""

    median: float | None = None
    """[m]"""

    farthest: float | None = None
    """[m]"""

    abs_rel: float | None = None
    """Against measured depth, whole frame, the data card's range."""

    delta1: float | None = None
    entropy: float | None = None
    """Of a pixel's bins, mean over sampled pixels [nats]."""

    confidence: float | None = None
    """Largest probability of a pixel's bins, mean over sampled pixels."""

    expectation_error: float | None = None
    """|sum of probability x centre - depth| / depth, mean over sampled pixels."""

    histogram: NDArray[np.int64] | None = field(default=None, repr=False)
    """Pixels in each cell of depth; not in the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What `run` gives."""

    path: Path
    """JSON summary; the images' own lines are beside it as .parquet."""

    summary: dict[str, object]


def run(
    teacher: str, data: str, *, workers: int | None = None, manifests: Path | None = None
) -> Audit:
    """Looks at every image of a store.

    Args:
        teacher: name of the card that wrote it.
        data: name of the data set.
        workers: threads; None: as many as there are processors.
        manifests: folder of the cards.

    Raises:
        UnknownNameError: no such teacher or data set.
        DataError: the data set was not indexed, or a truth file is torn.
        StoreError: there is no store, none of its rows is finished, or its bytes changed.
        StaleStoreError: the store is another teacher's, or of other rows.
    """
    card = load_teacher_card(teacher, manifests)
    rows = rows_of(data, manifests)
    store = open_store(store_path(data, teacher), card=card)
    if not store.finished.any():
        raise StoreError(f"{store.path} has no finished row: run `kdpipe teach` first")
    near = max(rows.card.min_depth, rows.card.max_depth / 100)
    edges = np.geomspace(near, rows.card.max_depth, HISTOGRAM_CELLS + 1)
    images = list(_look_at_all(rows, store, edges, workers))
    summary: dict[str, object] = {
        "teacher": teacher,
        "data": data,
        "fingerprint": store.info.fingerprint,
    }
    summary |= _summarise(images, edges)
    path = audit_path(data, teacher)
    _write(path.with_suffix(".parquet"), images)
    write_summary(path, summary)
    return Audit(path=path, summary=summary)


def _look_at_all(
    rows: Rows, store: Store, edges: NDArray[np.float64], workers: int | None
) -> Iterator[Looked]:
    ids, splits, truths = (rows.table[name].to_pylist() for name in ("id", "split", "truth"))
    bad = _bad_rows(store)
    size = store.info.shard_rows
    look = delayed(_look, pure=False, traverse=False)
    for start in range(0, len(rows), size):
        tasks: list[object] = []
        for number in range(start, min(start + size, len(rows))):
            here = Looked(row=number, id=ids[number], split=splits[number], bad=bad.get(number))
            if number < len(store) and store.ids[number] not in (None, here.id):
                raise StaleStoreError(
                    f"{store.path}: row {number} is {store.ids[number]!r}, {rows.name} has "
                    f"{here.id!r} there now: remove the store and teach again"
                )
            tasks.append(look(here, rows, store, edges, truths[number] is not None))
        looked: tuple[Looked, ...] = compute(  # type: ignore[no-untyped-call]
            *tasks, scheduler="threads", num_workers=workers, traverse=False
        )
        yield from looked


def _bad_rows(store: Store) -> dict[int, str]:
    found: dict[int, str] = {}
    for shard in finished(store.path):
        record = read_record(store.path, shard)
        if record is not None:
            found |= {int(number): why for number, why in record.bad.items()}
    return found


def _look(
    here: Looked, rows: Rows, store: Store, edges: NDArray[np.float64], has_truth: bool
) -> Looked:
    number = here.row
    if number >= len(store) or not store.finished[number]:
        return replace(here, finished=False)
    if not store.known(number):
        return here
    depth = store.native_depth(number)
    seen = _look_at_depth(here, depth, edges)
    if store.info.has_bins:
        seen = _look_at_bins(seen, store, depth)
    if has_truth:
        seen = _compare(seen, store.depth(number), read_truth(rows, number), rows)
    return seen


def _look_at_depth(here: Looked, depth: Depth, edges: NDArray[np.float64]) -> Looked:
    known = depth[depth > 0]
    if known.size == 0:
        return replace(here, known=0.0)
    return replace(
        here,
        known=known.size / depth.size,
        nearest=float(known.min()),
        median=float(np.median(known)),
        farthest=float(known.max()),
        histogram=np.histogram(np.clip(known, edges[0], edges[-1]), edges)[0],
    )


def _look_at_bins(here: Looked, store: Store, depth: Depth) -> Looked:
    """Entropy, confidence and expectation over a regular sample of pixels."""
    bins = store.bins(here.row)
    stride = max(1, math.isqrt(depth.size // BIN_PIXELS))
    probabilities, sampled = bins.probabilities(stride), depth[::stride, ::stride]
    known = sampled > 0
    if not known.any():
        return here
    if isinstance(bins, StoredLogBinomial):
        centers = bins.centers(stride)[:, known]
    else:
        centers = bins.centers()[:, None]
    p = probabilities[:, known].astype(np.float64)
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(axis=0)
    expected = (p * centers).sum(axis=0)
    return replace(
        here,
        entropy=float(entropy.mean()),
        confidence=float(p.max(axis=0).mean()),
        expectation_error=float(np.mean(np.abs(expected - sampled[known]) / sampled[known])),
    )


def _compare(here: Looked, depth: Depth, truth: Depth, rows: Rows) -> Looked:
    valid = (truth > rows.card.min_depth) & (truth < rows.card.max_depth) & (depth > 0)
    if not valid.any():
        return here
    errors = depth_errors_of_valid(depth[valid], truth[valid], names=("abs_rel", "delta1"))
    return replace(here, abs_rel=errors["abs_rel"], delta1=errors["delta1"])


def _summarise(images: Sequence[Looked], edges: NDArray[np.float64]) -> dict[str, object]:
    done = [one for one in images if one.finished]
    histogram = np.sum([one.histogram for one in images if one.histogram is not None], axis=0)
    pixels = np.broadcast_to(histogram, len(edges) - 1)
    splits = sorted({one.split for one in images})
    return {
        "rows": len(images),
        "finished": len(done),
        "bad": sum(one.bad is not None for one in done),
        "coverage": sum(one.known is not None for one in done) / len(images),
        "known_pixels": _mean(one.known for one in done),
        "depth": {
            "nearest": min((one.nearest for one in done if one.nearest is not None), default=None),
            "median": _mean(one.median for one in done),
            "farthest": max(
                (one.farthest for one in done if one.farthest is not None), default=None
            ),
        },
        "histogram": {
            "edges": [round(float(edge), 6) for edge in edges],
            "share": [round(float(n) / max(int(pixels.sum()), 1), 6) for n in pixels],
        },
        "truth": {split: _agreement([o for o in done if o.split == split]) for split in splits},
        "entropy": _mean(one.entropy for one in done),
        "confidence": _mean(one.confidence for one in done),
        "expectation_error": _mean(one.expectation_error for one in done),
    }


def _agreement(images: Sequence[Looked]) -> dict[str, object]:
    compared = [one for one in images if one.abs_rel is not None]
    return {
        "images": len(compared),
        "abs_rel": _mean(one.abs_rel for one in compared),
        "delta1": _mean(one.delta1 for one in compared),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _write(path: Path, images: Sequence[Looked]) -> None:
    lines = [{k: v for k, v in asdict(one).items() if k != "histogram"} for one in images]
    schema = pa.schema(
        [
            ("row", pa.int64()),
            ("id", pa.string()),
            ("split", pa.string()),
            ("finished", pa.bool_()),
            ("bad", pa.string()),
            *((name, pa.float64()) for name in _NUMBERS),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".tmp")
    pq.write_table(pa.Table.from_pylist(lines, schema=schema), half)
    half.replace(path)


_NUMBERS = (
    "known",
    "nearest",
    "median",
    "farthest",
    "abs_rel",
    "delta1",
    "entropy",
    "confidence",
    "expectation_error",
)
