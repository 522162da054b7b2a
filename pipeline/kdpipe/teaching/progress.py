"""A bar on stderr: images, images/s, time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Images of a second, over the last minute."""
        speed = task.finished_speed or task.speed
        return Text("-- images/s" if speed is None else f"{speed:.2f} images/s")


class Progress:
    """Shows how far a run is; use it as a context."""

    def __init__(self, what: str, images: int) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            speed_estimate_period=60,
        )
        self._task = self._bar.add_task(what, total=images)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, images: int) -> None:
        """So many images more; fewer where a shard begins again."""
        self._bar.advance(self._task, images)
