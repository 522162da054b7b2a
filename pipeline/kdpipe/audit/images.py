"""What is seen of each image of a store: coverage, range, agreement with truth, confidence.

Images are looked at by dask threads, one shard of rows after the other: no more than a shard's
results wait at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from dask.base import compute
from dask.delayed import delayed

from kdpipe.audit.disagreement import Disagreement, disagree
from kdpipe.datasets import read_truth
from kdpipe.metrics.depth import depth_errors_of_valid
from kdpipe.store import Store, StoredLogBinomial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.rows import Rows
    from kdpipe.store.ledger import Record
    from kdpipe.types import Depth

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

    disagreement: Mapping[str, Disagreement] = field(default_factory=dict, repr=False)
    """Other teacher -> how far this one's depth is from its; the table has columns of it."""

    histogram: NDArray[np.int64] | None = field(default=None, repr=False)
    """Pixels in each cell of depth; not in the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is looked at, and what it is held against."""

    rows: Rows
    store: Store
    records: Mapping[int, Record]
    """Of the finished shards."""

    others: Sequence[Store]
    """Of other teachers, over the same rows."""

    edges: NDArray[np.float64]
    """Of the histogram's cells [m]."""


def look_at_all(scope: Scope, workers: int | None) -> Iterator[Looked]:
    """Looks at every row, in order.

    Args:
        scope: store, rows, and what they are compared with.
        workers: threads; None: as many as there are processors.

    Raises:
        DataError: a truth file is torn.
        StoreError: bytes of a store changed.
    """
    rows = scope.rows
    ids, splits, truths = (rows.table[name].to_pylist() for name in ("id", "split", "truth"))
    bad = {int(number): why for one in scope.records.values() for number, why in one.bad.items()}
    size = scope.store.info.shard_rows
    look = delayed(_look, pure=False, traverse=False)
    for start in range(0, len(rows), size):
        tasks: list[object] = []
        for number in range(start, min(start + size, len(rows))):
            here = Looked(row=number, id=ids[number], split=splits[number], bad=bad.get(number))
            tasks.append(look(here, scope, truths[number] is not None))
        looked: tuple[Looked, ...] = compute(  # type: ignore[no-untyped-call]
            *tasks, scheduler="threads", num_workers=workers, traverse=False
        )
        yield from looked


def _look(here: Looked, scope: Scope, has_truth: bool) -> Looked:
    number, store = here.row, scope.store
    if number >= len(store) or not store.finished[number]:
        return replace(here, finished=False)
    if not store.known(number):
        return here
    depth = store.native_depth(number)
    seen = _look_at_depth(here, depth, scope.edges)
    if store.info.has_bins:
        seen = _look_at_bins(seen, store, depth)
    if has_truth or scope.others:
        in_frame = store.depth(number)
        if has_truth:
            seen = _compare(seen, in_frame, read_truth(scope.rows, number), scope.rows)
        seen = replace(seen, disagreement=disagree(in_frame, number, scope.others))
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
