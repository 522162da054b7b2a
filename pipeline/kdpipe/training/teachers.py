"""What one teacher, or several, said of an image: depth, bins and how sure they are of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdpipe.errors import StoreError, TrainingError
from kdpipe.store import layout
from kdpipe.store.frame import BILINEAR, to_frame
from kdpipe.store.stale import check_rows
from kdpipe.training.bins import SHARES, of_teacher, sample_bins
from kdpipe.training.joining import mirrored_of
from kdpipe.training.memory import REMEMBERED_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.cards import Join
    from kdpipe.rows import Rows
    from kdpipe.store import Store
    from kdpipe.store.bins import StoredBins, StoredLogBinomial
    from kdpipe.training.geometry import Transform
    from kdpipe.training.joining import Joining
    from kdpipe.training.memory import Memory
    from kdpipe.types import Depth

logger = logging.getLogger(__name__)

_FEWEST_TO_ALIGN = 16
"""Pixels."""

NOT_TAUGHT = "not taught yet"

_MOVED = frozenset(
    {
        layout.DEPTH,
        layout.EXTENT,
        layout.BIN_CODES,
        layout.BIN_EDGES,
        layout.BIN_PAIR,
        layout.BIN_POINTS,
    }
)
"""Arrays of a store that a sample's transform takes along."""


class Teachers:
    """The stores of one data set, one a teacher."""

    def __init__(
        self,
        rows: Rows,
        stores: Sequence[Store],
        joining: Joining,
        memory: Memory,
        *,
        with_bins: bool,
        truth: Callable[[int], Depth] | None = None,
    ) -> None:
        """Checks the stores.

        Args:
            rows: of the data set.
            stores: of these rows.
            joining: how they become one.
            memory: of what is decoded.
            with_bins: whether their distributions are asked for.
            truth: row number -> measured depth (H, W) [m], 0 unknown, to which relative teachers
                are aligned; None: to the first metric one.

        Raises:
            TrainingError: there is nothing to align a relative teacher to, or confidence is to come
                from a mirrored pass and the stores are not of one teacher.
            StaleStoreError: a store's rows are not these rows.
            StoreError: it keeps an array that would be left behind when a sample is moved.
        """
        self.stores = tuple(stores)
        for store in self.stores:
            _check_arrays(store)
        self._truth = truth
        self._has_said = False
        self._farthest = 2 * rows.card.max_depth
        self._metric = [place for place, store in enumerate(stores) if store.info.is_metric]
        if stores and not self._metric and truth is None:
            unread = rows.table["truth"].null_count < len(rows)
            raise TrainingError(
                f"{stores[0].path} holds a disparity without unit and {rows.name} has no measured "
                f"depth to align it to{', as that of --aux is not read' * unread}: name a metric "
                f"teacher too, --teacher T,T2{', or take --mix x+u-prime' * unread}"
            )
        self.weights = joining.weights or (1 / max(1, len(stores)),) * len(stores)
        self.joining = joining
        self._averaged = mirrored_of(stores) if joining.confidence == "mirrored" else None
        self.with_bins = with_bins
        self.missing = [check_store(store, rows) for store in self.stores]
        """Of each store: row number -> why it has no depth."""
        self._memory = memory
        self._kept_bins: dict[tuple[int, int], StoredBins | StoredLogBinomial] = {}
        self._room_for_bins = sum(map(_bins_bytes, self.stores)) <= REMEMBERED_BYTES

    @property
    def weighed(self) -> dict[str, float]:
        """Each teacher's weight."""
        names = [store.info.teacher for store in self.stores]
        return dict(zip(names, self.weights, strict=True))

    @property
    def reads_bins(self) -> bool:
        """Whether bins are read, for their own sake or to know how sure a teacher is."""
        return self.with_bins or self.joining.confidence == "entropy"

    @property
    def incomplete(self) -> set[int]:
        """Rows that at least one store has no depth of."""
        return set[int]().union(*self.missing)

    def left_out(self, number: int) -> str | None:
        """Why a row cannot be learned from; None: it can.

        A store that has not come to it leaves it out, so that what is learned from is what all
        were asked. An image that one of them could not read is left to the others, but where
        their bins are read.
        """
        reasons = [one[number] for one in self.missing if number in one]
        if NOT_TAUGHT in reasons:
            return NOT_TAUGHT
        needed = 1 if self.reads_bins else len(self.stores)
        return "; ".join(dict.fromkeys(reasons)) if reasons and len(reasons) >= needed else None

    def sample(self, number: int, transform: Transform) -> dict[str, torch.Tensor]:
        """What a sample has of a row's teachers, see `Sample`.

        Args:
            number: of the row.
            transform: of the teachers' maps.
        """
        maps = [self._depth(place, number, transform) for place in range(len(self.stores))]
        found = {"teacher": torch.from_numpy(join(maps, self.weights, self.joining.join))}
        found["known"] = torch.from_numpy(self._known(maps))
        if self.joining.confidence == "disagreement":
            found["confidence"] = torch.from_numpy(agreement(maps))
        elif self._averaged is not None:
            averaged, plain = maps[self._averaged], maps[1 - self._averaged]
            found["confidence"] = torch.from_numpy(mirrored_agreement(plain, averaged))
        elif self.joining.confidence == "entropy":
            sure = [
                self._sureness(place, number, transform) * weight
                for place, weight in enumerate(self.weights)
            ]
            found["confidence"] = torch.from_numpy(np.sum(sure, axis=0, dtype=np.float32))
        if not self.with_bins:
            return found
        for place, store in enumerate(self.stores):
            bins = sample_bins(self._bins(place, number), transform, store.info.rule)
            found |= {of_teacher(place, name): value for name, value in bins.items()}
        if len(self.stores) > 1:
            found[SHARES] = torch.tensor(self.weights)
        return found

    def _known(self, maps: Sequence[Depth]) -> NDArray[np.bool_]:
        """Which pixels count (h, w): what one teacher does not know is left to the others, but
        where their bins are read. Outside of a map these go on as at its edge."""
        known = np.stack(
            [one > 0 for one, weight in zip(maps, self.weights, strict=True) if weight]
        )
        joined = np.logical_and if self.reads_bins else np.logical_or
        found: NDArray[np.bool_] = joined.reduce(known)
        return found

    def _depth(self, place: int, number: int, transform: Transform) -> Depth:
        store = self.stores[place]
        if number in self.missing[place]:
            return np.zeros(transform.size, np.float32)
        read = self._read(store) if store.info.is_metric else partial(self._aligned, store)
        return transform.stored_depth(self._memory.remember(f"depth {place}", number, read))

    def _read(self, store: Store) -> Callable[[int], Depth]:
        # Bilinear with aligned corners is mixed once, at the sample's own places; by any other
        # rule the map is brought to the frame first.
        return store.native_depth if store.info.rule == BILINEAR else store.depth

    def _aligned(self, store: Store, number: int) -> Depth:
        """A relative teacher's disparity in metres, as `_read` gives it."""
        disparity = self._read(store)(number)
        line = align(store.depth(number), self._reference(number, store.frame(number)))
        if line is None:
            self._say_unaligned(store, number)
            return np.zeros_like(disparity)
        inverse = line[0] * disparity + line[1]
        near_enough = (disparity > 0) & (inverse > 1 / self._farthest)
        return np.where(near_enough, 1 / np.where(near_enough, inverse, 1), 0).astype(np.float32)

    def _say_unaligned(self, store: Store, number: int) -> None:
        """Once: it may be so of all images, and then nothing is learned."""
        if not self._has_said:
            logger.warning(
                "%s: image %r has too little that is known, or no larger disparity where it is "
                "nearer, to be aligned: unknown to this teacher, as any other such image",
                store.path,
                store.ids[number],
            )
        self._has_said = True

    def _reference(self, number: int, frame: tuple[int, int]) -> Depth:
        """Measured depth where there is some, else the first metric teacher's, (H, W) [m]."""
        if self._truth is not None:
            truth = self._truth(number)
            if truth.any():
                return truth
        for place in self._metric:
            if number not in self.missing[place]:
                return self.stores[place].depth(number)
        return np.zeros(frame, np.float32)

    def _sureness(self, place: int, number: int, transform: Transform) -> NDArray[np.float32]:
        read = partial(self._native_sureness, place)
        native = self._memory.remember(f"sureness {place}", number, read)
        # No metres: what a zoom at fixed focal length divided is multiplied again.
        return transform.stored_depth(native) * np.float32(transform.depth_divisor)

    def _native_sureness(self, place: int, number: int) -> NDArray[np.float32]:
        store = self.stores[place]
        native = sureness(self._bins(place, number).probabilities())
        if store.info.rule == BILINEAR:
            return native
        return to_frame(native, store.frame(number), rule=store.info.rule).clip(0, 1)

    def _bins(self, place: int, number: int) -> StoredBins | StoredLogBinomial:
        kept = self._kept_bins.get((place, number))
        if kept is None:
            kept = self.stores[place].bins(number)
            # All or none: a row's bins may take the room of twenty images, which cost more to read.
            if self._room_for_bins:
                self._kept_bins[place, number] = kept
        return kept


def join(maps: Sequence[Depth], weights: Sequence[float], how: Join) -> Depth:
    """The weighted mean of several teachers' depth, at each pixel over those that know it.

    Args:
        maps: (h, w) [m] each; 0 unknown.
        weights: of each, not negative.
        how: `mean`: of depth, `log-mean`: of its logarithm.

    Returns:
        (h, w) [m]; 0 where none knows it.
    """
    if len(maps) == 1:
        return maps[0]
    depth = np.stack(maps)
    shares = np.array(weights, np.float32)[:, None, None] * (depth > 0)
    total = shares.sum(axis=0)
    values = np.log(np.where(depth > 0, depth, 1)) if how == "log-mean" else depth
    middle = (shares * values).sum(axis=0) / np.where(total > 0, total, 1)
    joined = np.exp(middle) if how == "log-mean" else middle
    return np.where(total > 0, joined, 0).astype(np.float32)


def align(disparity: Depth, reference: Depth) -> tuple[float, float] | None:
    """The scale and shift that bring a disparity nearest to an inverse depth, in least squares.

    Args:
        disparity: (H, W), without unit; 0 unknown.
        reference: depth (H, W) [m]; 0 unknown.

    Returns:
        (scale, shift): scale * disparity + shift is an inverse depth [1/m]; None where too few
        pixels are known, or nearer ones have no larger disparity.

    Reference:
        Ranftl et al., "Towards Robust Monocular Depth Estimation", section 5,
        https://arxiv.org/abs/1907.01341.
    """
    both = (disparity > 0) & (reference > 0)
    if both.sum() < _FEWEST_TO_ALIGN:
        return None
    x, y = disparity[both].astype(np.float64), 1 / reference[both].astype(np.float64)
    variance = x.var()
    if variance <= 1e-12 * np.square(x).mean():
        return None
    scale = np.mean((x - x.mean()) * (y - y.mean())) / variance
    return (float(scale), float(y.mean() - scale * x.mean())) if scale > 0 else None


def agreement(maps: Sequence[Depth]) -> NDArray[np.float32]:
    """How far several teachers agree at each pixel: the smallest of their depths by the largest.

    Returns:
        (h, w) in [0, 1]; 0 where fewer than two know it.
    """
    depth = np.stack(maps)
    known = depth > 0
    nearest = np.where(known, depth, np.inf).min(axis=0)
    farthest = depth.max(axis=0)
    several = known.sum(axis=0) > 1
    return np.where(several, nearest / np.where(several, farthest, 1), 0).astype(np.float32)


def mirrored_agreement(plain: Depth, averaged: Depth) -> NDArray[np.float32]:
    """How far a teacher agrees with itself about the mirrored image, as `agreement`.

    Args:
        plain: its depth (h, w) [m]; 0 unknown.
        averaged: the mean of that and of the mirrored image's, so the latter is 2 averaged - plain.
    """
    both = (plain > 0) & (averaged > 0)
    return agreement([plain, np.where(both, (2 * averaged - plain).clip(min=0), 0)])


def sureness(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """How sure a distribution is: 1 less its entropy, by that of an even one.

    Args:
        probabilities: (K, h, w), the sum over K is 1.

    Returns:
        (h, w) in (0, 1]: 1 where all mass is in one bin.
    """
    logs = np.log(np.maximum(probabilities, 1e-12))
    entropy = -np.einsum("khw,khw->hw", probabilities, logs)
    found: NDArray[np.float32] = 1 - entropy / math.log(len(probabilities))
    return found.clip(1e-6, 1).astype(np.float32)  # 0 would be taken for unknown where it is moved


def check_store(store: Store, rows: Rows) -> dict[int, str]:
    """Checks that a store's rows are these rows, shard by shard.

    Returns:
        Row number -> why there is no depth: not taught yet, or a bad image and its reason.

    Raises:
        StaleStoreError: the rows were reordered or edited since they were taught.
    """
    missing = dict.fromkeys(range(len(rows)), NOT_TAUGHT)
    for line in check_rows(store.path, rows):
        for number in range(line.start, line.stop):
            del missing[number]
        missing.update({int(number): reason for number, reason in line.bad.items()})
    return missing


def _check_arrays(store: Store) -> None:
    unknown = sorted({one.name for one in store.info.arrays} - _MOVED)
    if unknown:
        raise StoreError(
            f"{store.path} keeps {', '.join(unknown)}, which this version of kdpipe cannot crop, "
            f"flip and turn with the image, expected only {', '.join(sorted(_MOVED))}: train with "
            "the version that wrote it, or teach again"
        )


def _bins_bytes(store: Store) -> int:
    arrays = [one for one in store.info.arrays if one.name.startswith("bins/")]
    sizes = (math.prod(one.shape) * np.dtype(one.dtype).itemsize for one in arrays)
    return sum(sizes) * len(store)
