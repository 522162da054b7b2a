"""All that was seen, as one row an image in Parquet and as sums for the JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.audit.images import Looked

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


def summarise(images: Sequence[Looked], edges: NDArray[np.float64]) -> dict[str, object]:
    """What the JSON says of a store's images.

    Args:
        images: all of them.
        edges: of the histogram's cells [m].
    """
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


def write_table(
    path: Path, images: Sequence[Looked], further: Mapping[int, Mapping[str, float]]
) -> None:
    """Writes a row an image, whole or not at all.

    Args:
        path: of the Parquet file.
        images: all of them, in order.
        further: row number -> values of further columns; null elsewhere.
    """
    names = list(dict.fromkeys(name for one in further.values() for name in one))
    lines = [_line(one, further.get(one.row, {})) for one in images]
    schema = pa.schema(
        [
            ("row", pa.int64()),
            ("id", pa.string()),
            ("split", pa.string()),
            ("finished", pa.bool_()),
            ("bad", pa.string()),
            *((name, pa.float64()) for name in (*_NUMBERS, *names)),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".tmp")
    pq.write_table(pa.Table.from_pylist(lines, schema=schema), half)
    half.replace(path)


def _line(one: Looked, further: Mapping[str, float]) -> dict[str, object]:
    names = ("row", "id", "split", "finished", "bad", *_NUMBERS)
    return {name: getattr(one, name) for name in names} | dict(further)


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
