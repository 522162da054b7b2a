"""The processes that train one network together, and what they tell each other.

Each passes its part of every batch through the network. What comes out is gathered, so that each
computes the loss of the whole batch, and takes its own part's gradient; these are summed, so all
take the step that one process would.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        """Which of a forward pass's images are this process's: neighbours, alike at any start."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def parts(self, count: int, passes: int) -> list[int]:
        """Which of a batch's images are this process's: its part of each forward pass."""
        return [first * count + own for first in range(passes) for own in self.part(count)]

    def gather(self, own: Tensor) -> Tensor:
        """The values of all processes, one after the other.

        Args:
            own: (b, ...), of this process's images; other sides may differ, and are then padded
                with zeros to the largest.

        Returns:
            (B, ...). Its gradient goes to `own` alone, B / b times, as a part's loss counts b / B.
        """
        if self.size == 1:
            return own
        sides = torch.zeros(self.size + own.ndim - 1, dtype=torch.int64, device=own.device)
        sides[self.rank] = len(own)
        sides[self.size :] = torch.tensor(own.shape[1:])
        distributed.all_reduce(sides, distributed.ReduceOp.MAX)
        counts, largest = sides[: self.size].tolist(), sides[self.size :].tolist()
        missing = [n - side for n, side in zip(largest, own.shape[1:], strict=True)]
        if any(missing):
            own = nn.functional.pad(own, [end for n in reversed(missing) for end in (0, n)])
        whole: Tensor = _Gathered.apply(own, sum(counts[: self.rank]), sum(counts))  # type: ignore[no-untyped-call]
        return whole

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


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, start: int, count: int) -> Tensor:
        ctx.part, ctx.factor = slice(start, start + len(own)), count / len(own)
        kind = torch.uint8 if own.dtype == torch.bool else own.dtype
        whole = torch.zeros(count, *own.shape[1:], dtype=kind, device=own.device)
        whole[ctx.part] = own
        distributed.all_reduce(whole)
        return whole.to(own.dtype)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return slope[ctx.part] * ctx.factor, None, None


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
