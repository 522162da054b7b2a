"""Rows, images, truth and a teacher's stored maps -> what a training step sees."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from kdpipe.datasets import read_image, read_truth
from kdpipe.errors import DataError, StaleStoreError, StoreError
from kdpipe.rows import json_of
from kdpipe.store.consolidated import read_lines
from kdpipe.store.frame import BILINEAR
from kdpipe.training.bins import collate, sample_bins
from kdpipe.training.geometry import Intrinsics
from kdpipe.training.mixes import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.rows import Row, Rows
    from kdpipe.store import Store
    from kdpipe.store.bins import StoredBins, StoredLogBinomial
    from kdpipe.training.augment import Augment
    from kdpipe.types import Depth, Image

Scalar = TypeVar("Scalar", bound=np.generic)
Sample: TypeAlias = dict[str, torch.Tensor]
"""image (3, h, w) in [0, 1] · truth, teacher (h, w) [m], 0 unknown · valid, known (h, w) bool:
where truth and teacher count · intrinsics (4,) fx, fy, cx, cy of the sample [pixels], NaN unknown ·
focal length of the row's camera [pixels], NaN unknown · row · has_truth, has_teacher · where asked
for, the teacher's bins, see `sample_bins`. A batch has one more axis in front."""

NOT_TAUGHT = "not taught yet"
REMEMBERED_BYTES = 1 << 30
"""Of decoded images and maps that one data set keeps in memory: decoding a JPEG of 480x640 costs
as much as a tenth of a small student's step."""


class DistillDataset(Dataset[Sample]):
    """The rows of one split of one data set, with what a teacher said of them.

    `dataset[i]` draws its augmentation from torch's random state, so it varies from epoch to epoch
    in any training loop; `sample` takes the generator.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        stores: Sequence[Store] = (),
        transform: Augment,
        split: str | None = "train",
        with_truth: bool = True,
        with_bins: bool = False,
    ) -> None:
        """Rows of a split; those the teacher could not see are left out, see `left_out`.

        Args:
            rows: of the data set.
            stores: one teacher's store over the same rows, or none.
            transform: what moves image, truth and stored maps together.
            split: None: all rows.
            with_truth: False leaves measured depth unread.
            with_bins: True adds the teacher's bins, still codes, for `teacher_bins`. Their windows
                differ in size: give a DataLoader `collate_fn=kdpipe.training.bins.collate`.

        Raises:
            StaleStoreError: the store's rows are not these rows.
            StoreError: bins are asked for and there is no store, or none of bins.
            DataError: the split is empty, more than one store is given, or no row is left.
        """
        if len(stores) > 1:
            raise DataError(
                f"{len(stores)} stores given, one teacher a data set expected: pass one store"
            )
        self.rows = rows
        self.store = stores[0] if stores else None
        self.transform = transform
        self.with_truth = with_truth
        self.with_bins = with_bins
        if with_bins and (self.store is None or not self.store.info.has_bins):
            raise StoreError(f"{rows.name}: bins are asked for, pass a store that keeps some")
        wanted = list(range(len(rows))) if split is None else rows.of_split(split)
        missing = {} if self.store is None else check_store(self.store, rows)
        self.left_out = {number: missing[number] for number in wanted if number in missing}
        """Row number -> why it is left out."""
        self.numbers = [number for number in wanted if number not in self.left_out]
        if not self.numbers:
            raise DataError(
                f"{rows.name}: the teacher's store has no depth for any of the {len(wanted)} rows "
                f"of split {split!r}: finish `kdpipe teach` first"
            )
        self._kept: dict[tuple[str, int], NDArray[np.generic]] = {}
        self._kept_bytes = 0
        self._kept_bins: dict[int, StoredBins | StoredLogBinomial] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, augmented from torch's random state."""
        return self.sample(index, np.random.default_rng(int(torch.randint(2**62, ()))))

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Sample `index`, augmented from `rng`."""
        number = self.numbers[index]
        row: Row = self.rows[number]
        draw = self.transform(row.height, row.width, rng)
        truth = torch.from_numpy(draw.transform.truth(self._truth(number, row)))
        teacher = torch.zeros_like(truth)
        if self.store is not None:
            # Bilinear with aligned corners is mixed once, at the sample's own places; by any other
            # rule the map is brought to the frame first.
            spans = self.store.info.rule == BILINEAR
            read = self.store.native_depth if spans else self.store.depth
            kept = self._remember("teacher", number, read)
            teacher = torch.from_numpy(draw.teacher.stored_depth(kept))
        bins = {}
        if self.with_bins and self.store is not None:
            bins = sample_bins(self._bins(number), draw.teacher, self.store.info.rule)
        camera = astuple(draw.transform.intrinsics(_camera(row)))
        return {
            "image": draw.colour(draw.transform.image(self._remember("image", number, self._read))),
            "truth": truth,
            "valid": truth > 0,
            "teacher": teacher,
            "known": teacher > 0,
            "intrinsics": torch.tensor(camera, dtype=torch.float32),
            # Also of a crop and of a smaller copy, as teachers are told it, and of what was
            # enlarged: its depth was divided instead.
            "focal": torch.tensor(_camera(row).fx, dtype=torch.float32),
            "row": torch.tensor(number),
            "has_truth": torch.tensor(self.with_truth and row.truth is not None),
            "has_teacher": torch.tensor(self.store is not None),
            **bins,
        }

    def _read(self, number: int) -> Image:
        return read_image(self.rows, number)

    def _truth(self, number: int, row: Row) -> Depth:
        if not self.with_truth or row.truth is None:
            return np.zeros((row.height, row.width), np.float32)
        return self._remember("truth", number, self._read_truth)

    def _read_truth(self, number: int) -> Depth:
        """Measured depth (H, W) [m]; 0 too where it lies outside the card's range."""
        truth, card = read_truth(self.rows, number), self.rows.card
        counts = (truth > card.min_depth) & (truth <= card.max_depth)
        return np.where(counts, truth, np.float32(0))

    def _bins(self, number: int) -> StoredBins | StoredLogBinomial:
        kept = self._kept_bins.get(number)
        if kept is None:
            assert self.store is not None
            kept = self.store.bins(number)
            # All or none: a row's bins may take the room of twenty images, which cost more to read.
            if self._bins_bytes <= REMEMBERED_BYTES:
                self._kept_bins[number] = kept
        return kept

    @cached_property
    def _bins_bytes(self) -> int:
        """Of all rows together."""
        assert self.store is not None
        arrays = [one for one in self.store.info.arrays if one.name.startswith("bins/")]
        sizes = (math.prod(one.shape) * np.dtype(one.dtype).itemsize for one in arrays)
        return sum(sizes) * len(self.numbers)

    def _remember(
        self, what: str, number: int, read: Callable[[int], NDArray[Scalar]]
    ) -> NDArray[Scalar]:
        kept = self._kept.get((what, number))
        if kept is not None:
            return cast("NDArray[Scalar]", kept)
        values = read(number)
        # In shuffled order what came first is as good as what came last: nothing is thrown out.
        if self._kept_bytes + values.nbytes <= REMEMBERED_BYTES:
            self._kept[what, number] = values
            self._kept_bytes += values.nbytes
        return values


class Stream(Dataset[Sample]):
    """An endless, shuffled mixture of data sets: sample k follows from (seed, k) alone.

    So the order, and each sample's augmentation, are the same whatever the number of loader
    workers, and a run that starts again at step n goes on with what it would have seen.
    """

    def __init__(
        self, parts: Sequence[DistillDataset], *, seed: int, ratio: float | None = None
    ) -> None:
        """Puts data sets together.

        Args:
            parts: the labelled one first.
            seed: of order and augmentation.
            ratio: share of samples that are not the first part's; None: as many as there are.
        """
        self.parts = parts
        self.seed = seed
        self.length = sum(len(part) for part in parts)
        """Samples of all parts."""
        self._order = Order(tuple(len(part) for part in parts), seed=seed, ratio=ratio)

    def __getitem__(self, k: int) -> Sample:
        """The k-th sample since the start of training."""
        index = self._order[k]
        for part in self.parts:
            if index < len(part):
                return part.sample(index, np.random.default_rng([self.seed, 1, k]))
            index -= len(part)
        raise IndexError(f"sample {k} of an empty mixture")

    def batches(
        self, batch_size: int, first: int, last: int, *, workers: int = 0
    ) -> Iterator[Sample]:
        """Batches of steps first..last (exclusive), each tensor with one more axis in front."""
        loader = DataLoader(
            self,
            batch_size=batch_size,
            sampler=range(first * batch_size, last * batch_size),
            num_workers=workers,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(self.seed),  # leaves the global state alone
        )
        return iter(loader)


def check_store(store: Store, rows: Rows) -> dict[int, str]:
    """Checks that a store's rows are these rows, shard by shard.

    Returns:
        Row number -> why there is no depth: not taught yet, or a bad image and its reason.

    Raises:
        StaleStoreError: the rows were reordered or edited since they were taught.
    """
    missing = dict.fromkeys(range(len(rows)), NOT_TAUGHT)
    for line in read_lines(store.path):
        if line.start >= len(rows):
            continue
        if line.stop > len(rows) or line.row_digest != rows.digest(line.start, line.stop):
            raise StaleStoreError(
                f"{store.path}: rows {line.start} to {line.stop} are not those of {rows.name} "
                "(order, images, frames or focal lengths differ): the data set changed since; run "
                "`kdpipe teach` again"
            )
        for number in range(line.start, line.stop):
            del missing[number]
        missing.update({int(number): reason for number, reason in line.bad.items()})
    return missing


def rows_digest(rows: Rows) -> str:
    """What of a data set decides a training: its images, truth and splits, in order."""
    names = ["id", "split", "image_digest", "truth", "truth_scale", "top", "left", "fx"]
    whole = hashlib.sha256(b"[")
    for piece in json_of(rows.table.select(names)):
        whole.update(piece)
    whole.update(f", {json.dumps(asdict(rows.card), sort_keys=True)}]".encode())
    return whole.hexdigest()[:16]


def _camera(row: Row) -> Intrinsics:
    values = (row.fx, row.fy, row.cx, row.cy)
    return Intrinsics(*(math.nan if value is None else value for value in values))
