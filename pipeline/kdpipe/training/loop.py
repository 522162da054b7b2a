"""The training loop: steps, clipping, validation, checkpoints, and going on."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from kdpipe.errors import TrainingError
from kdpipe.nets.allocator import keep_freed_memory
from kdpipe.training import checkpoint
from kdpipe.training.checkpoint import Point, Progress
from kdpipe.training.curves import Bar, Curves
from kdpipe.training.interrupt import interruptible
from kdpipe.training.optimizer import make_optimizer, make_schedule
from kdpipe.training.outcome import METRICS
from kdpipe.training.samples import Sample, Stream

if TYPE_CHECKING:
    import threading

    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from kdpipe.cards import FitRecipe
    from kdpipe.params import TrainParams

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")

StepLoss: TypeAlias = Callable[[nn.Module, Sample], Tensor]
Validate: TypeAlias = Callable[[nn.Module, int], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One training, but for its network, data and loss."""

    title: str
    """For the progress bar."""

    folder: Path
    """Where checkpoints/ and dvclive/ go."""

    recipe: FitRecipe
    params: TrainParams
    identity: Mapping[str, object]
    """What decides the result; a checkpoint of another identity is not gone on from."""

    outputs: tuple[str, ...] = ()
    """Files in `folder` that a finished training has; those of another training are removed."""

    seed: int = 0
    device: torch.device = CPU
    workers: int = 0
    """Processes that load samples; 0: this one."""

    max_minutes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a training ended."""

    progress: Progress
    finished: bool
    """False: `max_minutes` came first; the same command goes on."""

    new_steps: int
    """Of this start."""


def train(
    network: nn.Module, stream: Stream, loss: StepLoss, validate: Validate, plan: Plan
) -> Trained:
    """Trains a network, from where an earlier start of the same training stopped.

    A checkpoint is written at every validation, on Ctrl-C, and when time is up. Each step's random
    numbers follow from (seed, step), so a run that was killed ends with the same weights as one
    that was not (same device and threads).

    Args:
        network: changed in place; left in evaluation mode.
        stream: the samples.
        loss: network in training mode, batch -> scalar.
        validate: network in evaluation mode, step -> metrics by name.
        plan: the rest.

    Raises:
        TrainingError: the loss is no longer a number, or another process trains in this folder.
        KeyboardInterrupt: after the state is saved.
    """
    with checkpoint.alone(plan.folder):
        return _train(network, stream, loss, validate, plan)


def _train(
    network: nn.Module, stream: Stream, loss: StepLoss, validate: Validate, plan: Plan
) -> Trained:
    keep_freed_memory()
    network.to(plan.device)
    optimizer = make_optimizer(network, plan.recipe, plan.params)
    schedule = make_schedule(optimizer, plan.recipe, plan.params.steps)
    progress = Progress()
    found = checkpoint.load_last(plan.folder, plan.identity)
    if found is None:
        checkpoint.clear(plan.folder)
        for name in plan.outputs:
            (plan.folder / name).unlink(missing_ok=True)
    else:
        progress, state = found
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        logger.info("%s: going on from step %d", plan.title, progress.step)
    first = progress.step
    with (
        Curves(plan.folder, progress.points) as curves,
        Bar(plan.title, plan.params.steps, first) as bar,
        interruptible() as interrupt,
    ):
        run = _Run(network, optimizer, schedule, progress, plan, bar, curves)
        run.go(stream, loss, validate, interrupt)
    network.eval()
    return Trained(
        progress=progress,
        finished=progress.step == plan.params.steps,
        new_steps=progress.step - first,
    )


def finished(plan: Plan) -> Progress | None:
    """How a training ended that is done already and has all its outputs; else None."""
    if not all((plan.folder / name).is_file() for name in plan.outputs):
        return None
    done = checkpoint.load_finished(plan.folder, plan.identity)
    if done is not None:
        logger.info("%s: finished at step %d before, nothing to do", plan.title, done.step)
    return done


def finish(plan: Plan, trained: Trained, summary: Mapping[str, object]) -> None:
    """Writes metrics.json and, once all steps are done, a mark of that instead of checkpoints.

    Args:
        plan: of the training.
        trained: how it ended.
        summary: what else metrics.json says.
    """
    progress = trained.progress
    last = progress.points[-1] if progress.points else None
    checkpoint.write_json(
        plan.folder / METRICS,
        {
            "steps": progress.step,
            "finished": trained.finished,
            "seconds": round(progress.seconds, 1),
            **({"loss": last.loss, **last.validation} if last else {}),
            **summary,
        },
    )
    if trained.finished:
        checkpoint.save(plan.folder, plan.identity, progress, {})


def seed_everything(seed: int) -> None:
    """Seeds what draws a network's first weights; samples have generators of their own."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # for libraries that draw from it
    random.seed(seed)


def pick_device(name: str) -> torch.device:
    """A torch device; `auto`: CUDA where there is one, else the CPU.

    Raises:
        TrainingError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"device {name!r} found, one that torch can use here expected ({reason}): "
            "take --device cpu"
        ) from error


class _Run:
    """The moving parts of one start."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        schedule: LRScheduler,
        progress: Progress,
        plan: Plan,
        bar: Bar,
        curves: Curves,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.schedule = schedule
        self.progress = progress
        self.plan = plan
        self.bar = bar
        self.curves = curves
        self.started = time.monotonic()
        self.before = progress.seconds

    def go(
        self,
        stream: Stream,
        loss: StepLoss,
        validate: Validate,
        interrupt: threading.Event,
    ) -> None:
        params, progress = self.plan.params, self.progress
        batches = stream.batches(
            params.batch_size, progress.step, params.steps, workers=self.plan.workers
        )
        for batch in batches:
            progress.losses.append(self._step(batch, loss))
            progress.step += 1
            progress.seconds = self.before + time.monotonic() - self.started
            self.bar.step(progress.losses[-1])
            if progress.step % params.validate_every == 0 or progress.step == params.steps:
                self._validate(validate)
                self._save()
            if interrupt.is_set():
                self._save()
                raise KeyboardInterrupt
            if self._time_is_up() and progress.step < params.steps:
                self._save()
                logger.warning(
                    "%s: %g minutes are over at step %d of %d; the same command goes on",
                    self.plan.title,
                    self.plan.max_minutes,
                    progress.step,
                    params.steps,
                )
                return

    def _step(self, batch: Sample, loss: StepLoss) -> float:
        plan, step = self.plan, self.progress.step
        torch.manual_seed(_mix(plan.seed, step))  # dropout, the same after a resume
        batch = {name: values.to(plan.device, non_blocking=True) for name, values in batch.items()}
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            plan.device.type, torch.bfloat16, enabled=plan.params.precision == "bf16"
        ):
            value = loss(self.network, batch)
        number = float(value.detach())
        if not math.isfinite(number):
            raise TrainingError(
                f"{plan.title}: the loss is {number} at step {step}, expected a number: lower "
                "learning_rate in params.yaml, or look at the data with `kdpipe audit`"
            )
        value.backward()  # type: ignore[no-untyped-call]
        if plan.recipe.clip_gradient_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), plan.recipe.clip_gradient_norm)
        self.optimizer.step()
        if step + 1 < plan.params.steps:
            self.schedule.step()
        return number

    def _validate(self, validate: Validate) -> None:
        self.network.eval()
        with torch.no_grad():
            metrics = validate(self.network, self.progress.step)
        mean = sum(self.progress.losses) / len(self.progress.losses)
        self.progress.losses.clear()
        rate = max(float(rate) for rate in self.schedule.get_last_lr())
        point = Point(
            step=self.progress.step, loss=mean, learning_rate=rate, validation=dict(metrics)
        )
        self.progress.points.append(point)
        self.progress.seconds = self.before + time.monotonic() - self.started
        checkpoint.save_best(self.plan.folder, self.network.state_dict(), self.progress.points)
        self.curves.add(point)
        self.bar.validated(metrics)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        logger.info("%s: step %d: loss %.4f, %s", self.plan.title, point.step, mean, shown)

    def _save(self) -> None:
        self.progress.seconds = self.before + time.monotonic() - self.started
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        checkpoint.save(self.plan.folder, self.plan.identity, self.progress, state)

    def _time_is_up(self) -> bool:
        minutes = self.plan.max_minutes
        return minutes is not None and time.monotonic() - self.started > 60 * minutes


def _mix(seed: int, step: int) -> int:
    """One number of two, so that neighbouring seeds share no step's numbers."""
    return (seed * 1_000_003 + step) % 2**63
