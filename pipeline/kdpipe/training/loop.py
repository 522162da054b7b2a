"""The training loop: steps, clipping, validation, checkpoints, and going on."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import nn

from kdpipe.errors import TrainingError
from kdpipe.nets.allocator import keep_freed_memory
from kdpipe.training import checkpoint
from kdpipe.training.checkpoint import Point, Progress
from kdpipe.training.curves import FOLDER as CURVES
from kdpipe.training.curves import Bar, Curves
from kdpipe.training.interrupt import interruptible
from kdpipe.training.outcome import METRICS
from kdpipe.training.shared_norm import share_statistics
from kdpipe.training.step import Step, StepLoss
from kdpipe.training.team import ALONE, Team

if TYPE_CHECKING:
    import threading

    from kdpipe.cards import FitRecipe
    from kdpipe.params import TrainParams
    from kdpipe.training.samples import Stream

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
_NAMED = 16
"""Images of a batch that a message names."""

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
    team: Team = ALONE
    """The processes that train this together."""


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
    with checkpoint.alone(plan.folder) if plan.team.leads else contextlib.nullcontext():
        return _train(network, stream, loss, validate, plan)


def _train(
    network: nn.Module, stream: Stream, loss: StepLoss, validate: Validate, plan: Plan
) -> Trained:
    keep_freed_memory()
    _place(network, plan)
    step = Step(
        network, plan.recipe, plan.params, seed=plan.seed, device=plan.device, team=plan.team
    )
    found = _go_on(step, plan)
    progress = found or Progress()
    plan.team.agree(network, progress.step, plan.device)
    first = progress.step
    with contextlib.ExitStack() as stack:
        leads = plan.team.leads
        curves = stack.enter_context(Curves(plan.folder, progress.points)) if leads else None
        bar = stack.enter_context(Bar(plan.title, plan.params.steps, first))
        interrupt = stack.enter_context(interruptible())
        run = _Run(step, progress, plan, bar, curves, is_new=found is None)
        run.go(stream, loss, validate, interrupt)
    if step.judged is not network:
        network.load_state_dict(step.judged.state_dict())
    network.eval()
    return Trained(
        progress=progress,
        finished=progress.step == plan.params.steps,
        new_steps=progress.step - first,
    )


def _place(network: nn.Module, plan: Plan) -> None:
    network.to(plan.device)
    if plan.device.type == "cuda":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if plan.team.size > 1:
        share_statistics(network, plan.device)


def _go_on(step: Step, plan: Plan) -> Progress | None:
    """Where the last checkpoint of this training left off; None: there is none."""
    found = checkpoint.load_last(plan.folder, plan.identity)
    if found is None:
        return None
    progress, state = found
    step.load_state(state)
    logger.info("%s: going on from step %d", plan.title, progress.step)
    return progress


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


class _Run:
    """The moving parts of one start."""

    def __init__(
        self,
        step: Step,
        progress: Progress,
        plan: Plan,
        bar: Bar,
        curves: Curves | None,
        *,
        is_new: bool,
    ) -> None:
        self.step = step
        self.progress = progress
        self.plan = plan
        self.bar = bar
        self.curves = curves
        self.is_new = is_new  # nothing of this training is kept yet
        self.started = time.monotonic()
        self.before = progress.seconds

    def go(
        self,
        stream: Stream,
        loss: StepLoss,
        validate: Validate,
        interrupt: threading.Event,
    ) -> None:
        plan, progress = self.plan, self.progress
        size, last = plan.params.batch_size * plan.params.accumulate, plan.params.steps
        part = plan.team.parts(plan.params.batch_size, plan.params.accumulate)
        for batch in stream.batches(size, progress.step, last, workers=plan.workers, part=part):
            number = self.step(batch, progress.step, loss)
            if not math.isfinite(number):
                self._check_gradients(stream)
                raise self._diverged(stream, f"the loss is {number}", progress.step)
            progress.losses.append(number)
            progress.step += 1
            progress.seconds = self.before + time.monotonic() - self.started
            self.bar.step(number)
            if progress.step % plan.params.validate_every == 0 or progress.step == last:
                self._check_gradients(stream)
                self._validate(validate)
                self._save(stream)
            if plan.team.sum(interrupt.is_set() or plan.team.is_stopped, plan.device):
                self._save(stream)
                raise KeyboardInterrupt
            if plan.team.sum(self._time_is_up(), plan.device) and progress.step < last:
                self._save(stream)
                logger.warning(
                    "%s: %g minutes are over at step %d of %d; the same command goes on",
                    *(plan.title, plan.max_minutes, progress.step, last),
                )
                return

    def _check_gradients(self, stream: Stream) -> None:
        """Stops after a step whose loss was a number and its gradients were not."""
        if not self.step.is_sound:
            raise self._diverged(stream, "the gradient is no number", self.progress.step - 1)

    def _diverged(self, stream: Stream, found: str, step: int) -> TrainingError:
        size = self.plan.params.batch_size * self.plan.params.accumulate
        ids = [stream.name(k) for k in range(step * size, (step + 1) * size)]
        shown = ", ".join(ids[:_NAMED]) + f" and {size - _NAMED} more" * (size > _NAMED)
        return TrainingError(
            f"{self.plan.title}: {found} at step {step}, expected a number; the batch was {shown}: "
            "lower learning_rate in params.yaml, or look at these images with `kdpipe audit`; "
            + ("no checkpoint was due before" if self.is_new else "the last checkpoint is kept")
        )

    def _validate(self, validate: Validate) -> None:
        progress, mean = self.progress, sum(self.progress.losses) / len(self.progress.losses)
        progress.losses.clear()
        if self.curves is None:
            return  # the first of several trainers does it
        judged = self.step.judged
        judged.eval()
        with torch.no_grad():
            metrics = validate(judged, progress.step)
        rate = max(float(rate) for rate in self.step.schedule.get_last_lr())
        point = Point(step=progress.step, loss=mean, learning_rate=rate, validation=dict(metrics))
        progress.points.append(point)
        progress.seconds = self.before + time.monotonic() - self.started
        self._replace_another()
        checkpoint.save_best(self.plan.folder, judged.state_dict(), progress.points)
        self.curves.add(point)
        self.bar.validated(metrics)
        shown = "".join(f", {name} {value:.4f}" for name, value in metrics.items())
        logger.info("%s: step %d: loss %.4f%s", self.plan.title, point.step, mean, shown)

    def _save(self, stream: Stream) -> None:
        self._check_gradients(stream)
        self.progress.seconds = self.before + time.monotonic() - self.started
        if self.plan.team.leads:
            state = self.step.state()
            self._replace_another()
            checkpoint.save(self.plan.folder, self.plan.identity, self.progress, state)
        self.is_new = False

    def _replace_another(self) -> None:
        """Removes what another training left, not before this one has something to keep."""
        if self.is_new:
            checkpoint.clear(self.plan.folder)
            for name in self.plan.outputs:
                (self.plan.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.plan.folder / CURVES, ignore_errors=True)
            self.is_new = False

    def _time_is_up(self) -> bool:
        minutes = self.plan.max_minutes
        return minutes is not None and time.monotonic() - self.started > 60 * minutes
