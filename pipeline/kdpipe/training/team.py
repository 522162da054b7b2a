"""The processes that train one network together, and what they tell each other.

Each computes its part of every batch; gradients are summed, so all take the same step. A part is
weighted by its share of the batch, so parts may differ in size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from kdpipe.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Team:
    """One process's place among those that train together; alone by default."""

    rank: int = 0
    size: int = 1
    stop: Path | None = None
    """A file that ends the training between two steps once it is there: Ctrl-C reaches only the
    command, not its trainers."""

    @classmethod
    def here(cls, stop: Path) -> Team:
        """This process's place in torch's process group."""
        return cls(distributed.get_rank(), distributed.get_world_size(), stop)

    @property
    def is_stopped(self) -> bool:
        """Whether that file is there."""
        return self.stop is not None and self.stop.exists()

    @property
    def leads(self) -> bool:
        """Whether this process validates, shows and writes."""
        return self.rank == 0

    def part(self, count: int) -> range:
        """Which of a batch's samples are this process's: neighbours, the same for any start."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, value: float, device: torch.device) -> float:
        """Of all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return float(total)

    def agree(self, network: nn.Module, step: int, device: torch.device) -> None:
        """Gives all processes the first one's weights.

        Raises:
            TrainingError: they would go on from different steps.
        """
        if self.size == 1:
            return
        if self.sum(step, device) != self.size * self.sum(step if self.leads else 0, device):
            raise TrainingError(
                "the trainers found different checkpoints, expected one folder that all of them "
                "see: put artifacts/ on a disk that the machines share"
            )
        for value in network.state_dict().values():
            distributed.broadcast(value, 0)

    def sum_gradients(self, network: nn.Module) -> None:
        """Sums gradients and averages the statistics of normalisation, over all processes.

        What no process has a gradient of stays without: an optimiser would let it decay.
        """
        if self.size == 1:
            return
        learnt = [one for one in network.parameters() if one.requires_grad]
        has = torch.tensor([one.grad is not None for one in learnt], device=learnt[0].device).int()
        distributed.all_reduce(has, distributed.ReduceOp.MAX)
        shared = [one for one, known in zip(learnt, has.tolist(), strict=True) if known]
        for one in shared:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
        _reduce([one.grad for one in shared if one.grad is not None], 1)
        floats = [one for one in network.buffers() if one.is_floating_point()]
        _reduce(floats, self.size)


ALONE = Team()


def _reduce(values: list[Tensor], count: int) -> None:
    """Sums each in place over all processes, in one message, divided by a count."""
    if not values:
        return
    flat = torch.cat([one.detach().float().reshape(-1) for one in values])
    distributed.all_reduce(flat)
    sizes = [one.numel() for one in values]
    pieces = (flat / count).split(sizes)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for one, piece in zip(values, pieces, strict=True):
            one.copy_(piece.view(one.shape))
