"""A teacher's stored distribution on its way from the store to the loss: codes until the end.

The loader cuts the native window that a sample needs, as codes, and notes where the sample's pixels
lie in it. The training device makes probabilities and centers of them, cell by cell, when the loss
asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

from kdpipe.nets.log_binomial import Span, log_binomial, replay
from kdpipe.store.bins import StoredBins, StoredLogBinomial

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdpipe.losses import TeacherBins
    from kdpipe.losses.bins import Mixture, Where
    from kdpipe.training.geometry import Transform
    from kdpipe.training.samples import Sample

_CODES, _PAIR, _POINTS = "bins_codes", "bins_pair", "bins_points"
SHARES = "bins_shares"
"""Weights of several teachers' distributions in their mixture; not there: one teacher's."""


def of_teacher(place: int, name: str) -> str:
    """What a sample calls one of a further teacher's bins, which the first one's `name` is."""
    return f"{place}/{name}" if place else name


def sample_bins(stored: StoredBins | StoredLogBinomial, transform: Transform, rule: str) -> Sample:
    """What of a row's bins a sample needs, for `teacher_bins`.

    Args:
        stored: of the row.
        transform: of the teacher's maps.
        rule: of the store; where the native map spans more than the frame, the window is found
            through that padding.

    Returns:
        `bins_place` (2, 3): the sample's pixel (x, y, 1) -> the window's (column, row);
        `bins_last` (2,): the window's last column and row. Of a free distribution: `bins_codes`
        uint8 (K, r, c), `bins_law` (levels - 1, floor), `bins_centers` (K,) [m]. Of a two-parameter
        one: `bins_pair` (2, r, c) p and T, `bins_points` (M,) seeds and attractors, `bins_form` K,
        native height and width, the window's top and left, points of each map, and `bins_span`
        near, far and what centers are divided by.
    """
    native = (stored.codes.shape[1], stored.codes.shape[2])
    place = transform.native_places(native, rule)
    (left, right), (top, bottom) = (
        _reach(place[axis], transform.size, native[1 - axis]) for axis in (0, 1)
    )
    place[:, 2] -= (left, top)
    window = (slice(None), slice(top, bottom + 1), slice(left, right + 1))
    sample = {
        "bins_place": torch.from_numpy(place),
        "bins_last": torch.tensor([right - left, bottom - top], dtype=torch.float64),
    }
    if isinstance(stored, StoredBins):
        return sample | {
            _CODES: torch.from_numpy(stored.codes[window].copy()),
            "bins_law": torch.tensor([stored.codec.levels - 1, stored.codec.floor]),
            "bins_centers": torch.from_numpy(transform.centers(stored.centers())),
        }
    pair = torch.stack([torch.from_numpy(one) for one in stored.codec.decode(stored.codes)])
    seeds, attractors = stored.codec.decode_points(stored.points, native)
    codec = stored.codec
    span = codec.span or (math.nan, math.nan)
    points = [torch.from_numpy(one.ravel()) for one in (seeds, *attractors)]
    return sample | {
        _PAIR: pair[window].clone(),
        _POINTS: torch.cat(points),
        "bins_form": torch.tensor([codec.bins, *native, top, left, *codec.attractors]),
        "bins_span": torch.tensor([*span, transform.depth_divisor], dtype=torch.float64),
    }


def _reach(place: NDArray[np.float64], size: tuple[int, int], native: int) -> tuple[int, int]:
    """First and last native line that an output of that size needs; the map's edge goes on."""
    ends = [
        place[0] * x + place[1] * y + place[2] for x in (0, size[1] - 1) for y in (0, size[0] - 1)
    ]
    first, last = (min(max(end, 0), native - 1) for end in (min(ends), max(ends)))
    return math.floor(first), math.ceil(last)


def collate(samples: Sequence[Sample]) -> Sample:
    """A batch of samples, as torch's own `default_collate`; smaller windows of bins are padded."""
    batch = [dict(sample) for sample in samples]
    for name in batch[0]:
        if name.rpartition("/")[2] in (_CODES, _PAIR, _POINTS):
            sides = zip(*(sample[name].shape for sample in batch), strict=True)
            largest = [max(side) for side in sides]
            for sample in batch:
                missing = [n - own for n, own in zip(largest, sample[name].shape, strict=True)]
                if any(missing):
                    ends = [end for count in reversed(missing) for end in (0, count)]
                    sample[name] = F.pad(sample[name], ends)
    return cast("Sample", default_collate(batch))


def teacher_bins(batch: Sample) -> TeacherBins | Mixture:
    """A batch's stored bins, as losses want them; `collate` made the batch."""
    if SHARES not in batch:
        return _one(batch)
    shares = batch[SHARES][0].tolist()
    names = {name.rpartition("/")[2] for name in batch if "bins_" in name} - {SHARES}
    return [
        (share, _one({"image": batch["image"]} | _own(batch, place, names)))
        for place, share in enumerate(shares)
    ]


def _own(batch: Sample, place: int, names: set[str]) -> Sample:
    theirs = ((name, batch.get(of_teacher(place, name))) for name in names)
    return {name: values for name, values in theirs if values is not None}


def _one(batch: Sample) -> TeacherBins:
    return _Free(batch) if _CODES in batch else _LogBinomial(batch)


class _Placed:
    def __init__(self, batch: Sample) -> None:
        self.batch = batch

    def places(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See TeacherBins: a map whose corners are those of the sample."""
        own, device = self.batch["image"].shape[-2:], self.batch["bins_place"].device
        y, x = (
            torch.linspace(0, side - 1, n, dtype=torch.float64, device=device)
            for side, n in zip(own, size, strict=True)
        )
        place, last = self.batch["bins_place"], self.batch["bins_last"]
        columns, rows = (
            (place[:, axis, 0, None, None] * x + place[:, axis, 1, None, None] * y[:, None])
            .add_(place[:, axis, 2, None, None])
            .clamp_(torch.zeros_like(last[:, axis, None, None]), last[:, axis, None, None])
            for axis in (0, 1)
        )
        return rows, columns


class _Free(_Placed):
    """`codecs.Companded`, on the training device."""

    @property
    def count(self) -> int:
        """See TeacherBins."""
        return self.batch[_CODES].shape[1]

    def cells(self, image: int, where: Where) -> tuple[Tensor, Tensor]:
        """See TeacherBins."""
        codes = self.batch[_CODES][image]
        levels, floor = self.batch["bins_law"][image]
        masses = codes[:, where[0], where[1]].float().div_(levels).square_().clamp_(min=floor)
        return masses, self.batch["bins_centers"][image]


class _LogBinomial(_Placed):
    """`codecs.LogBinomial`, on the training device; of one image at a time the centers are kept, at
    the size of its finest attractors."""

    def __init__(self, batch: Sample) -> None:
        super().__init__(batch)
        self.forms: list[list[int]] = batch["bins_form"].tolist()
        self.spans: list[list[float]] = batch["bins_span"].tolist()
        self.replayed: tuple[int, Tensor] | None = None

    @property
    def count(self) -> int:
        """See TeacherBins."""
        return self.forms[0][0]

    def cells(self, image: int, where: Where) -> tuple[Tensor, Tensor]:
        """See TeacherBins."""
        p, temperature = self.batch[_PAIR][image][:, where[0], where[1]]
        flat = log_binomial(p.reshape(1, 1, -1), temperature.reshape(1, 1, -1), self.count)
        maps = self._centers(image)
        _, height, width, top, left, *_ = self.forms[image]
        rows, columns = _indices(where, p.device)
        centers = _between(
            maps,
            (rows + top) * ((maps.shape[1] - 1) / max(1, height - 1)),
            (columns + left) * ((maps.shape[2] - 1) / max(1, width - 1)),
        )
        return flat.view(self.count, *p.shape), centers

    def _centers(self, image: int) -> Tensor:
        """(K, ., .) [m]."""
        if self.replayed is None or self.replayed[0] != image:
            bins, height, width, _, _, *counts = self.forms[image]
            near, far, divisor = self.spans[image]
            cell, start, maps = 2 << len(counts), 0, []
            for n in (bins, *counts):
                shape = (n, height // cell, width // cell)
                flat = self.batch[_POINTS][image, start : start + math.prod(shape)]
                maps.append(flat.view(1, *shape))
                start, cell = start + math.prod(shape), cell // 2
            span = None if math.isnan(near) else Span(near, far)
            self.replayed = (image, replay(maps[0], maps[1:], span)[0] / divisor)
        return self.replayed[1]


def _indices(where: Where, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each cell, of shapes that broadcast."""
    rows, columns = where
    if isinstance(rows, slice) and isinstance(columns, slice):
        down, along = (
            torch.arange(side.start, side.stop, device=device) for side in (rows, columns)
        )
        return down[:, None], along[None]
    return cast("tuple[Tensor, Tensor]", where)


def _between(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps (K, h, w) at places between their pixels, bilinearly."""
    top, left = rows.floor(), columns.floor()
    down, right = rows - top, columns - left
    above, before, below, behind = (e.long() for e in (top, left, rows.ceil(), columns.ceil()))
    upper = torch.lerp(maps[:, above, before], maps[:, above, behind], right)
    lower = torch.lerp(maps[:, below, before], maps[:, below, behind], right)
    return torch.lerp(upper, lower, down)
