"""A metric row an image as Parquet, and their mean as JSON: the same bytes for the same numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdpipe.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageErrors:
    """One line of the table."""

    row: int
    """Row number in the data set."""

    id: str
    errors: Mapping[str, float] | None
    """None: the image does not count."""

    skipped: str | None = None
    """Why it does not count."""


def mean_errors(images: Iterable[ImageErrors]) -> dict[str, float]:
    """Mean over images of each error; every image weighs the same, whatever its pixels.

    Raises:
        DataError: no image counts.
    """
    counted: list[Mapping[str, float]] = []
    reasons: set[str] = set()
    for image in images:
        if image.errors is None:
            reasons.add(image.skipped or "no truth")
        else:
            counted.append(image.errors)
    if not counted:
        raise DataError(
            f"no image could be judged ({'; '.join(sorted(reasons)) or 'there is none'}): "
            "check the split, and the depth range of the data card"
        )
    return {name: float(np.mean([one[name] for one in counted])) for name in counted[0]}


def write_table(path: Path, images: Sequence[ImageErrors]) -> None:
    """Writes a line an image, whole or not at all; errors of skipped images are null."""
    names = next((tuple(one.errors) for one in images if one.errors is not None), ())
    columns: dict[str, pa.Array] = {
        "row": pa.array([one.row for one in images], pa.int64()),
        "id": pa.array([one.id for one in images], pa.string()),
        "skipped": pa.array([one.skipped for one in images], pa.string()),
    }
    for name in names:
        values = [None if one.errors is None else one.errors[name] for one in images]
        columns[name] = pa.array(values, pa.float64())
    with _whole(path) as half:
        pq.write_table(pa.table(columns), half)


def read_table(path: Path) -> list[ImageErrors]:
    """Reads what `write_table` wrote.

    Raises:
        DataError: it is missing or something else.
    """
    try:
        lines = pq.read_table(path).to_pylist()
        return [_line(dict(one)) for one in lines]
    except (OSError, pa.ArrowInvalid, KeyError) as error:  # OSError: missing, or a torn footer
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is no table of errors ({reason}): run `kdpipe evaluate`") from (
            error
        )


def write_summary(path: Path, summary: Mapping[str, object]) -> None:
    """Writes JSON with sorted keys, whole or not at all.

    Raises:
        DataError: a figure is not finite.
    """
    try:
        text = json.dumps(summary, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError(
            f"{path} would hold a figure that is no number: see whether the depth that was judged "
            "is finite, then run `kdpipe evaluate` again"
        ) from error
    with _whole(path) as half:
        half.write_text(text + "\n", encoding="utf-8")


def read_summary(path: Path) -> dict[str, object]:
    """Reads a JSON object.

    Raises:
        DataError: it is missing, torn or no object.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): make it again") from error
    if not isinstance(summary, dict):
        raise DataError(f"{path} holds {type(summary).__name__}, expected keys and values")
    return summary


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """What is to be written first; it takes the file's place, or is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield half
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def _line(values: dict[str, object]) -> ImageErrors:
    row, name, skipped = values.pop("row"), values.pop("id"), values.pop("skipped")
    errors = {k: float(str(v)) for k, v in values.items()} if skipped is None else None
    reason = None if skipped is None else str(skipped)
    return ImageErrors(row=int(str(row)), id=str(name), errors=errors, skipped=reason)
