"""What a training shows while it runs, and the curves it leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from dvclive.live import Live

    from kdpipe.training.checkpoint import Point

FOLDER = "dvclive"


class Curves:
    """DVCLive's metrics of a training: dvclive/metrics.json, and a TSV file for each curve.

    All files are made anew from the points of the checkpoint (a few, one a validation): what a
    killed run had written beyond it is gone, and no step is there twice.
    """

    def __init__(self, folder: Path, points: Sequence[Point]) -> None:
        self._folder = folder / FOLDER
        for point in points:
            self.add(point)

    @cached_property
    def _live(self) -> Live:
        """Made with the first point: before it another training's curves may still stand."""
        from dvclive.live import Live  # half a second, and only here

        class FilesOnly(Live):
            """Writes files and saves no experiment: asks git nothing.

            DVCLive stops with an error of its own in a repository that has no commit yet.
            """

            def _init_dvc(self) -> None:
                pass

        return FilesOnly(
            str(self._folder), resume=False, report=None, save_dvc_exp=False, dvcyaml=None
        )

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *_error: object) -> None:
        if "_live" in vars(self):
            self._live.end()  # type: ignore[no-untyped-call]

    def add(self, point: Point) -> None:
        """Writes one more point."""
        self._live.step = point.step
        self._live.log_metric("train/loss", point.loss)
        self._live.log_metric("train/learning_rate", point.learning_rate)
        for name, value in point.validation.items():
            self._live.log_metric(f"val/{name}", value)
        self._live.make_summary()  # type: ignore[no-untyped-call]


class Bar:
    """The progress bar on stderr: step, loss, abs_rel, steps/s and time left."""

    def __init__(self, title: str, steps: int, first: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  abs_rel {task.fields[abs_rel]}"),
            TextColumn("{task.fields[rate]:.1f} steps/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(
            title, total=steps, completed=first, loss=float("nan"), abs_rel="-", rate=0.0
        )
        self._started = time.monotonic()
        self._steps = 0
        self._loss = 0.0

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def step(self, loss: float) -> None:
        """One more step is done."""
        self._steps += 1
        kept = 0.95 if self._steps > 1 else 0.0
        self._loss = kept * self._loss + (1 - kept) * loss
        rate = self._steps / max(1e-9, time.monotonic() - self._started)
        self._progress.update(self._task, advance=1, loss=self._loss, rate=rate)

    def validated(self, metrics: Mapping[str, float]) -> None:
        """A validation is done."""
        if "abs_rel" in metrics:
            self._progress.update(self._task, abs_rel=f"{metrics['abs_rel']:.3f}")
