"""One step of the optimiser: a batch in pieces, in some precision, clipped, averaged."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdpipe.errors import TrainingError
from kdpipe.training.optimizer import make_optimizer, make_schedule
from kdpipe.training.samples import Sample

if TYPE_CHECKING:
    from kdpipe.cards import FitRecipe
    from kdpipe.params import TrainParams
    from kdpipe.training.team import Team

logger = logging.getLogger(__name__)

StepLoss: TypeAlias = Callable[[nn.Module, Sample], Tensor]

_KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Step:
    """Changes a network by one batch at a time.

    A batch is computed in pieces of `batch_size` images, whose gradients are added, each weighted
    by its share: for a loss that is a mean over images, and a network without batch normalisation,
    the step is that of the whole batch. A piece that does not fit into the device's memory is
    halved, for good. Random numbers follow from (seed, step, the piece's place in the batch).
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: FitRecipe,
        params: TrainParams,
        *,
        seed: int,
        device: torch.device,
        team: Team,
    ) -> None:
        """Prepares optimiser and schedule; the network is on its device already.

        Raises:
            TrainingError: the device cannot do what params ask for.
        """
        _check(params, device)
        self.network = network
        self.optimizer = make_optimizer(network, recipe, params)
        self.schedule = make_schedule(self.optimizer, recipe, params.steps)
        self.piece = len(team.part(params.batch_size))
        """Images of one forward pass, of this process."""
        self._recipe, self._params = recipe, params
        self._seed, self._device, self._team = seed, device, team
        self._scaler = GradScaler(device.type, enabled=params.precision == "fp16")
        self._norm: Tensor | None = None  # of the last step's gradients, before they were clipped
        self._average: AveragedModel | None = None
        if params.ema is not None:
            mean = get_ema_multi_avg_fn(params.ema)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(network, multi_avg_fn=mean)
        self._forward = cast("nn.Module", torch.compile(network)) if params.compile else network

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the averaged network where there is one."""
        return self.network if self._average is None else self._average.module

    @property
    def is_sound(self) -> bool:
        """Whether the last step's gradients were numbers; in fp16 a step of others is not taken.

        A finite loss may have others, a root at 0 for one. This waits for the device.
        """
        return self._scaler.is_enabled() or self._norm is None or bool(self._norm.isfinite())

    def state(self) -> Mapping[str, object]:
        """All that a start from here needs."""
        state: dict[str, object] = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "piece": self.piece if self._team.size == 1 else self._params.batch_size,
        }
        if self._scaler.is_enabled():
            state["scaler"] = self._scaler.state_dict()
        if self._average is not None:
            state["average"] = self._average.state_dict()
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self._team.size == 1:
            self.piece = state.get("piece", self.piece)
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def __call__(self, batch: Sample, step: int, loss: StepLoss) -> float:
        """Takes the step, unless the loss is no finite number.

        Args:
            batch: this process's part of it.
            step: from 0.
            loss: network in training mode, batch -> scalar.

        Returns:
            The loss of the whole batch.

        Raises:
            TrainingError: not even one image fits into the device's memory, or the network cannot
                be compiled.
        """
        number = None
        while number is None:
            number = self._gradients(batch, step, loss)
        number = self._team.sum(number, self._device)
        if not math.isfinite(number):
            return number
        self._team.sum_gradients(self.network)
        self._clip()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.network)
        if step + 1 < self._params.steps:
            self.schedule.step()
        return number

    def _clip(self) -> None:
        limit = self._recipe.clip_gradient_norm
        if limit is not None:
            self._scaler.unscale_(self.optimizer)
            self._norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        else:
            found = [one.grad for one in self.network.parameters() if one.grad is not None]
            self._norm = nn.utils.get_total_norm(found)

    def _gradients(self, batch: Sample, step: int, loss: StepLoss) -> float | None:
        """The part's share of the loss; None: memory was short, and pieces are smaller now."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        try:
            return self._in_pieces(batch, step, loss)
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainingError(
                "batch normalisation has one value a channel found, of one image whose deepest map "
                "is one pixel, more expected: raise batch_size, or height and width, in params.yaml"
            ) from error
        except RuntimeError as error:
            if not _is_of_compiler(error):
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise TrainingError(
                f"compile: true found in params.yaml and the network cannot be compiled ({reason}),"
                " a C++ compiler that works expected: mend it, or leave compile out"
            ) from error
        if self._team.size > 1:  # the others wait for this one at the same place of the same pass
            raise TrainingError(
                f"{self._device} is out of memory ({reason}), and {self._team.size} trainers share "
                "each forward pass: lower batch_size in params.yaml and raise accumulate"
            )
        if self.piece == 1:
            raise TrainingError(
                f"one image does not fit into the memory of {self._device} ({reason}): lower "
                "height and width in params.yaml, or take a smaller student"
            )
        self.optimizer.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        whole = self._params.batch_size * self._params.accumulate
        self.piece = min(self.piece, len(batch["image"]))
        self.piece = (self.piece + 1) // 2
        logger.warning(
            "%s is out of memory: going on with pieces of %d of a batch's %d images, whose "
            "gradients are added (batch normalisation sees a piece at a time)",
            *(self._device, self.piece, whole),
        )
        return None

    def _in_pieces(self, batch: Sample, step: int, loss: StepLoss) -> float:
        size, total = self._params.batch_size, 0.0
        whole, own = size * self._params.accumulate, self._team.part(size)
        for start in range(0, len(batch["image"]), self.piece):
            piece = {name: self._moved(v[start : start + self.piece]) for name, v in batch.items()}
            place = start // len(own) * size + own.start + start % len(own)
            torch.manual_seed(_mix(self._seed, step, place))  # the same after a resume
            kind = _KINDS[self._params.precision]
            with torch.autocast(self._device.type, kind, enabled=kind != torch.float32):
                value = loss(self._forward, piece)
            share = len(piece["image"]) / whole
            self._scaler.scale(value * share).backward()  # type: ignore[no-untyped-call]
            total += float(value.detach()) * share
        return total

    def _moved(self, values: Tensor) -> Tensor:
        moved = values.to(self._device, non_blocking=True)
        if self._device.type == "cuda" and moved.dim() == 4 and moved.is_floating_point():
            return moved.contiguous(memory_format=torch.channels_last)
        return moved


def _is_of_compiler(error: RuntimeError) -> bool:
    # By name: the compiler is imported only where it is used.
    return any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__)


def _mix(seed: int, step: int, place: int) -> int:
    """One number of three, so that neighbouring seeds share no step's numbers."""
    return (seed * 1_000_003 + step + place * 7_368_787_000_003) % 2**63


def _check(params: TrainParams, device: torch.device) -> None:
    if params.precision == "fp16" and device.type != "cuda":
        raise TrainingError(
            f"precision: fp16 found in params.yaml and {device} to train on, CUDA expected: take "
            "bf16 or fp32"
        )
    if not params.compile:
        return
    names = [os.environ.get("CXX") or "", "g++", "clang++"]
    if not any(shutil.which(name) for name in names if name):
        raise TrainingError(
            "compile: true found in params.yaml and no C++ compiler here, g++ expected: install "
            "one, or leave compile out"
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise TrainingError(
            "compile: true found in params.yaml and no triton here, which torch compiles with for "
            "CUDA: install it, or leave compile out"
        )
