"""How good a network is while it trains: a few errors over the val split, at training size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from kdpipe.errors import TrainingError
from kdpipe.metrics.depth import depth_errors_of_valid
from kdpipe.training.augment import Augment
from kdpipe.training.samples import DistillDataset, Sample

if TYPE_CHECKING:
    from kdpipe.rows import Rows

logger = logging.getLogger(__name__)

SHOWN = ("abs_rel", "delta1", "rmse")
SPLIT = "val"

Predict: TypeAlias = Callable[[nn.Module, Sample], Tensor]
"""Network, batch on its device -> depth (B, ., .) [m]."""


class Validation:
    """The val split, decoded once, and the errors of a network on it.

    The errors are those of the training size, without a published crop: good for a curve, while
    `evaluate` gives what a table shows.
    """

    def __init__(
        self, rows: Rows, size: tuple[int, int], predict: Predict, *, batch_size: int = 8
    ) -> None:
        """Prepares the split; a data set without one is validated on nothing, which is said.

        Args:
            rows: of the data set.
            size: (h, w) of the training images [pixels].
            predict: how depth is asked for.
            batch_size: images of one forward pass.
        """
        self._rows = rows
        self._predict = predict
        self._batch_size = batch_size
        self._low, self._high = rows.card.min_depth, rows.card.max_depth
        self._dataset: DistillDataset | None = None
        if SPLIT in rows.table["split"].to_pylist():
            self._dataset = DistillDataset(rows, transform=Augment(size=size), split=SPLIT)
        else:
            logger.warning("%s has no split %r: trained without validation", rows.name, SPLIT)

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Means over the images; empty where there is no split."""
        errors = [
            depth_errors_of_valid(depth[valid], truth[valid], names=SHOWN)
            for batch in self._batches()
            for depth, truth, valid in zip(
                self.predict(network, batch).numpy(),
                batch["truth"].numpy(),
                batch["valid"].numpy(),
                strict=True,
            )
            if valid.any()
        ]
        if not errors:
            return {}
        return {name: float(np.mean([one[name] for one in errors])) for name in SHOWN}

    def predict(self, network: nn.Module, batch: Sample) -> Tensor:
        """Depth (B, h, w) [m] at the images' size, within the data set's range, on the CPU.

        Raises:
            TrainingError: it is no number.
        """
        device = next(network.parameters()).device
        with torch.no_grad():
            seen = {name: values.to(device) for name, values in batch.items()}
            depth = self._predict(network, seen).float().cpu()
        if not bool(depth.isfinite().all()):
            raise TrainingError(
                f"{self._rows.name}: the network gives depth that is no number in validation, it "
                "has diverged: lower learning_rate in params.yaml; the last checkpoint is kept"
            )
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        if depth.shape[-2:] != size:
            depth = F.interpolate(depth[:, None], size, mode="bilinear", align_corners=True)[:, 0]
        return depth.clamp(self._low, self._high)

    def some(self, count: int) -> Sample | None:
        """The first samples of the split, as a batch; None where there is none."""
        if self._dataset is None:
            return None
        return self._batch(range(min(count, len(self._dataset))))

    def _batches(self) -> Iterator[Sample]:
        count = 0 if self._dataset is None else len(self._dataset)
        for start in range(0, count, self._batch_size):
            yield self._batch(range(start, min(start + self._batch_size, count)))

    def _batch(self, indices: range) -> Sample:
        assert self._dataset is not None
        rng = np.random.default_rng(0)  # nothing is varied
        batch: Sample = default_collate([self._dataset.sample(i, rng) for i in indices])
        return batch
