"""Images taught again by the store's own teacher, and compared with what is stored.

Every array is compared at native size, in the measure that its codec's bound is of:

    depth                |stored - said| / said
    bins/codes           |root of the coded probability - root of the said one|, before the division
    bins/edges           |stored - said| / said, kept as they are
    bins/pair logit      |difference of logit p|
    bins/pair ln T       |difference of ln T|
    bins/points          |stored - said| / (said + the codec's offset)

What is said now may differ from what was said then by more than the codec's bound without anything
being wrong: sums of another order. So a tolerance comes on top of each bound, and both are in the
summary. On the device and torch that taught, TOLERANCES[precision] holds for every value of fp32;
on others, and in half precision, for all but STRAYS of an array's values: a sharp edge may move by
a pixel. Logit p has twice the tolerance, one for each of its two logarithms. The mean of the bins,
sum of p * c, follows from what is compared; its difference is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from kdpipe.datasets import read_image
from kdpipe.store import StoredLogBinomial
from kdpipe.store.layout import BIN_CODES, BIN_EDGES, BIN_PAIR, BIN_POINTS, DEPTH

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from kdpipe.audit.again import Witness
    from kdpipe.codecs import Log16, LogBinomial
    from kdpipe.nets.log_binomial import LogBinomialBins
    from kdpipe.store import Store, StoredBins
    from kdpipe.store.ledger import Record
    from kdpipe.teachers import Bins, TeacherOutput

TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 3e-2}
"""Precision -> what comes on top of each bound, where device and torch are those that taught."""

ELSEWHERE = 2e-3
"""The same of fp32 on another device, or with another torch."""

STRAYS = 1e-3
"""Share of an array's values that may be farther away, but in fp32 where it was taught."""

_SINGLE = 1.2e-7
"""Rounding of float32: p near 1 is known to this, and logit p to this over 1 - p."""

_DECISIVE = ("device", "torch")
"""Of an environment, what the tolerance depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One array of one image."""

    bound: float
    """That its codec promises."""

    largest: float
    """Error, in the bound's measure."""

    mean: float
    strays: float
    """Share of values beyond bound and tolerance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relived:
    """One image."""

    row: int
    id: str
    arrays: Mapping[str, Compared]
    expectation: float | None
    """|stored mean of the bins - said one| / said one, mean over pixels; None: no bins."""

    beyond: tuple[str, ...]
    """Arrays that differ by more than bound and tolerance allow."""

    def columns(self) -> dict[str, float]:
        """For the table of images."""
        values = {
            f"relive_{name.replace('/', '_').replace(' ', '_')}": one.largest
            for name, one in self.arrays.items()
        }
        if self.expectation is not None:
            values["relive_expectation"] = self.expectation
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How much may differ, and why."""

    tolerance: float
    strays: float
    is_same: bool
    """Whether device and torch are those that taught."""

    differences: Mapping[str, Mapping[str, object]]
    """What of the environment is another: value or values then, value now."""


def terms_of(witness: Witness, records: Sequence[Record]) -> Terms:
    """What may differ between shards of a store and this process.

    Args:
        witness: the teacher here.
        records: of the shards that are compared.
    """
    here = witness.environment()
    differences: dict[str, dict[str, object]] = {}
    for name, value in here.items():
        then = list(dict.fromkeys(str(one.environment.get(name, "unknown")) for one in records))
        if then != [str(value)]:
            differences[name] = {"then": then, "now": str(value)}
    is_same = not any(name in differences for name in _DECISIVE)
    precision = witness.teacher.precision
    exact = precision == "fp32" and is_same
    return Terms(
        tolerance=ELSEWHERE if precision == "fp32" and not is_same else TOLERANCES[precision],
        strays=0.0 if exact else STRAYS,
        is_same=is_same,
        differences=differences,
    )


def relive(store: Store, number: int, witness: Witness, terms: Terms) -> Relived:
    """Teaches one image again and compares all that is kept of it.

    Args:
        store: that the witness wrote.
        number: of a row with depth.
        witness: its teacher.
        terms: how much may differ.

    Raises:
        DataError: the image cannot be read any more.
        StoreError: bytes of the store changed.
    """
    out = witness.look(number, read_image(witness.rows, number)[None])
    arrays = {
        name: _compare(error, bound, slack, terms)
        for name, bound, error, slack in _errors(store, number, out, terms.tolerance)
    }
    return Relived(
        row=number,
        id=witness.rows[number].id,
        arrays=arrays,
        expectation=_expectation(store, number, out) if store.info.has_bins else None,
        beyond=tuple(name for name, one in arrays.items() if one.strays > terms.strays),
    )


def summarise(images: Sequence[Relived], terms: Terms, precision: str) -> dict[str, object]:
    """What the JSON says of them all."""
    names = dict.fromkeys(name for one in images for name in one.arrays)
    means = [one.expectation for one in images if one.expectation is not None]
    return {
        "images": len(images),
        "ids": [one.id for one in images],
        "beyond": {one.id: list(one.beyond) for one in images if one.beyond},
        "precision": precision,
        "environment": {"same": terms.is_same, "differences": terms.differences},
        "tolerance": terms.tolerance,
        "strays_allowed": terms.strays,
        "arrays": {
            name: _together([one.arrays[name] for one in images if name in one.arrays])
            for name in names
        },
        "expectation": float(np.mean(means)) if means else None,
    }


def _together(arrays: Sequence[Compared]) -> dict[str, float]:
    return {
        "bound": arrays[0].bound,
        "largest": max(one.largest for one in arrays),
        "mean": float(np.mean([one.mean for one in arrays])),
        "strays": max(one.strays for one in arrays),
    }


def _compare(
    error: NDArray[np.float64], bound: float, slack: NDArray[np.float64] | float, terms: Terms
) -> Compared:
    finite = np.nan_to_num(error, nan=1.0, posinf=1.0)  # known on one side only: all of it
    return Compared(
        bound=bound,
        largest=float(finite.max(initial=0)),
        mean=float(finite.mean()) if finite.size else 0.0,
        strays=float(np.mean(finite > bound + terms.tolerance + slack)) if finite.size else 0.0,
    )


_Errors = Iterator[tuple[str, float, "NDArray[np.float64]", "NDArray[np.float64] | float"]]
"""Name, bound, errors, and what single precision adds to the bound."""


def _errors(store: Store, number: int, out: TeacherOutput, tolerance: float) -> _Errors:
    codec = cast("Log16", store.info.codec("depth"))
    stored, said = store.native_depth(number), _numpy(out.depth[0])
    if stored.shape != said.shape:
        yield DEPTH, codec.max_relative_error, np.full(stored.shape, np.inf), 0.0
        return
    known = np.isfinite(said) & (said > 0)
    clipped = np.clip(np.where(known, said, codec.near), codec.near, codec.far)
    error = np.where(known == (stored > 0), np.abs(stored - clipped) / clipped, np.inf)
    yield DEPTH, codec.max_relative_error, np.where(known | (stored > 0), error, 0.0), 1e-6
    if store.info.has_bins:
        kept = store.bins(number)
        if isinstance(kept, StoredLogBinomial):
            yield from _two_parameters(kept, cast("LogBinomialBins", out.bins), tolerance)
        else:
            yield from _free(kept, cast("Bins", out.bins))


def _free(kept: StoredBins, said: Bins) -> _Errors:
    codec = kept.codec
    roots = np.sqrt(np.clip(_numpy(said.probabilities()[0]), 0, 1))
    error = np.abs(kept.codes / np.float32(codec.levels - 1) - roots)
    yield BIN_CODES, codec.max_root_error, error, 1e-6
    edges = _numpy(said.edges[0])
    yield BIN_EDGES, 0.0, np.abs(kept.edges - edges) / np.maximum(np.abs(edges), 1e-6), 1e-6


def _two_parameters(kept: StoredLogBinomial, said: LogBinomialBins, tolerance: float) -> _Errors:
    codec, one = kept.codec, said.of(0)
    p, temperature = kept.codec.decode(kept.codes)
    now = _numpy(one.p[0]).astype(np.float64)
    least = np.minimum(np.clip(p, 1e-4, 1), np.clip(1 - p.astype(np.float64), 1e-4, 1))
    yield (
        f"{BIN_PAIR} logit",
        codec.max_logit_error,
        np.abs(_logit(p.astype(np.float64)) - _logit(now)),
        tolerance + 4 * _SINGLE / least,  # of two logarithms, each with its own
    )
    warmth = np.log(np.clip(_numpy(one.temperature[0]), codec.coldest, codec.hottest))
    error = np.abs(np.log(temperature.astype(np.float64)) - warmth)
    yield f"{BIN_PAIR} ln T", codec.max_temperature_error, error, 1e-6
    yield BIN_POINTS, codec.max_point_error, _point_errors(kept, codec, one), 1e-6


def _point_errors(
    kept: StoredLogBinomial, codec: LogBinomial, said: LogBinomialBins
) -> NDArray[np.float64]:
    seeds, attractors = codec.decode_points(kept.points, kept.size)
    near, far = codec.span or (0.0, 1.0)
    errors = []
    pairs = zip((seeds, *attractors), (said.seeds, *said.attractors), strict=True)
    for level, (stored, tensor) in enumerate(pairs):
        points = _numpy(tensor[0]).astype(np.float64)
        if level == 0:
            stored, points = (stored - near) / (far - near), (points - near) / (far - near)
        points = np.clip(points, 0, codec.tables[2].max())
        errors.append(np.abs(stored - points) / (points + codec.point_offset))
    return np.concatenate([one.ravel() for one in errors])


def _expectation(store: Store, number: int, out: TeacherOutput) -> float:
    kept = store.bins(number)
    one = (
        cast("LogBinomialBins", out.bins).of(0) if isinstance(kept, StoredLogBinomial) else out.bins
    )
    assert one is not None
    said = np.einsum(
        "k...,k...->...", _numpy(one.probabilities()[0]), _spread(_numpy(one.centers()[0]))
    )
    stored = np.einsum("k...,k...->...", kept.probabilities(), _spread(kept.centers()))
    return float(np.mean(np.abs(stored - said) / np.maximum(np.abs(said), 1e-6)))


def _spread(centers: NDArray[np.float32]) -> NDArray[np.float32]:
    return centers[:, None, None] if centers.ndim == 1 else centers


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.clip(p, 1e-4, 1)) - np.log(np.clip(1 - p, 1e-4, 1))


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array
