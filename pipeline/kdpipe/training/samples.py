"""Rows, images, truth and a teacher's stored maps -> what a training step sees."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from kdpipe.datasets import read_image, read_truth
from kdpipe.errors import DataError, StoreError
from kdpipe.rows import json_of
from kdpipe.training.bins import collate
from kdpipe.training.geometry import Intrinsics
from kdpipe.training.joining import Joining
from kdpipe.training.memory import Memory
from kdpipe.training.mixes import Order
from kdpipe.training.teachers import NOT_TAUGHT, Teachers

if TYPE_CHECKING:
    from kdpipe.rows import Row, Rows
    from kdpipe.store import Store
    from kdpipe.training.augment import Augment
    from kdpipe.types import Depth, Image

Sample: TypeAlias = dict[str, torch.Tensor]
"""image (3, h, w) in [0, 1] · truth, teacher (h, w) [m], 0 unknown · valid, known (h, w) bool:
where truth and teacher count · intrinsics (4,) fx, fy, cx, cy of the sample [pixels], NaN unknown ·
focal length of the row's camera [pixels], NaN unknown · row · has_truth, has_teacher · where asked
for, `confidence` (h, w) in [0, 1], and the teachers' bins, see `sample_bins`. A batch has one more
axis in front."""

ALIKE = Joining()


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
        joining: Joining = ALIKE,
        align_to_truth: bool = False,
    ) -> None:
        """Rows of a split; those the teachers could not see are left out, see `left_out`.

        Args:
            rows: of the data set.
            stores: over the same rows, one a teacher; none: labels only.
            transform: what moves image, truth and stored maps together.
            split: None: all rows.
            with_truth: False leaves measured depth unread.
            with_bins: True adds the teachers' bins, still codes, for `teacher_bins`. Their windows
                differ in size: give a DataLoader `collate_fn=kdpipe.training.bins.collate`.
            joining: how several teachers become one, and whether `confidence` is asked for.
            align_to_truth: True aligns relative teachers to measured depth where there is some,
                False to the first metric one.

        Raises:
            StaleStoreError: a store's rows are not these rows.
            TrainingError: a relative teacher has nothing to be aligned to.
            StoreError: bins are asked for and there is no store, or one without bins.
            DataError: the split is empty, or no row is left.
        """
        self.rows = rows
        self.transform = transform
        self.with_truth = with_truth
        self._memory = Memory()
        has_truth = rows.table["truth"].null_count < len(rows)
        self.teachers = Teachers(
            rows,
            stores,
            joining,
            self._memory,
            with_bins=with_bins,
            truth=self._measured if align_to_truth and has_truth else None,
        )
        bare = not stores or not all(store.info.has_bins for store in stores)
        if self.teachers.reads_bins and bare:
            raise StoreError(f"{rows.name}: bins are asked for, pass a store that keeps some")
        wanted = list(range(len(rows))) if split is None else rows.of_split(split)
        incomplete = self.teachers.incomplete
        reasons = {n: self.teachers.left_out(n) for n in wanted if n in incomplete}
        self.left_out = {number: why for number, why in reasons.items() if why is not None}
        """Row number -> why it is left out."""
        self.numbers = [number for number in wanted if number not in self.left_out]
        if not self.numbers:
            reasons_left = set(self.left_out.values())
            mend = "finish `kdpipe teach` first"
            if reasons_left and NOT_TAUGHT not in reasons_left:
                mend = f"mend the images ({min(reasons_left)}), then `kdpipe teach --retry-bad`"
            raise DataError(
                f"{rows.name}: the teacher's store has no depth for any of the {len(wanted)} rows "
                f"of split {split!r}: {mend}"
            )

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
        labelled = self.with_truth and row.truth is not None
        truth = torch.zeros(draw.transform.size)
        if labelled:
            whole = self._memory.remember("truth", number, self._read_truth)
            truth = torch.from_numpy(draw.transform.truth(whole))
        taught = {"teacher": torch.zeros_like(truth), "known": torch.zeros_like(truth) > 0}
        if self.teachers.stores:
            taught = self.teachers.sample(number, draw.teacher)
        image = self._memory.remember("image", number, self._read)
        camera = astuple(draw.transform.intrinsics(_camera(row)))
        return {
            "image": draw.colour(draw.transform.image(image)),
            "truth": truth,
            "valid": truth > 0,
            "intrinsics": torch.tensor(camera, dtype=torch.float32),
            # Also of a crop and of a smaller copy, as teachers are told it, and of what was
            # enlarged: its depth was divided instead.
            "focal": torch.tensor(_camera(row).fx, dtype=torch.float32),
            "row": torch.tensor(number),
            "has_truth": torch.tensor(labelled),
            "has_teacher": torch.tensor(bool(self.teachers.stores)),
            **taught,
        }

    def _read(self, number: int) -> Image:
        return read_image(self.rows, number)

    def _measured(self, number: int) -> Depth:
        row: Row = self.rows[number]
        if row.truth is None:
            return np.zeros((row.height, row.width), np.float32)
        return self._read_truth(number)

    def _read_truth(self, number: int) -> Depth:
        """Measured depth (H, W) [m]; 0 too where it lies outside the card's range."""
        truth, card = read_truth(self.rows, number), self.rows.card
        counts = (truth > card.min_depth) & (truth <= card.max_depth)
        return np.where(counts, truth, np.float32(0))


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

    def name(self, k: int) -> str:
        """Data set and id of the k-th sample, as users know them."""
        index = self._order[k]
        for part in self.parts:
            if index < len(part):
                return f"{part.rows.name}/{part.rows[part.numbers[index]].id}"
            index -= len(part)
        raise IndexError(f"sample {k} of an empty mixture")

    def batches(
        self,
        batch_size: int,
        first: int,
        last: int,
        *,
        workers: int = 0,
        part: Sequence[int] | None = None,
    ) -> Iterator[Sample]:
        """Batches of steps first..last (exclusive), each tensor with one more axis in front.

        With a `part`, only these of each batch's samples: the same whoever loads the others.
        """
        part = range(batch_size) if part is None else part
        starts = range(first * batch_size, last * batch_size, batch_size)
        loader = DataLoader(
            self,
            batch_sampler=([at + place for place in part] for at in starts),
            num_workers=workers,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(self.seed),  # leaves the global state alone
        )
        return iter(loader)


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
