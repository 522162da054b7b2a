"""Who teaches which shard: what workers promise, and this process as the only one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

from kdpipe.teaching.tally import Failed, Tally, events
from kdpipe.teaching.worker import Assignment, Step, Worker

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo
    from kdpipe.teaching.measuring import Measure


class Pool(Protocol):
    """Workers that teach."""

    start_seconds: float
    """What starting them took, loading of the network apart."""

    def start(self) -> None:
        """Starts what the workers need; the others call it themselves.

        Raises:
            DeviceError: this machine has not the GPUs that are asked for.
            StoreError: Ray does not start, or nobody answers at its address.
        """

    def measure(self, frames: Sequence[tuple[int, int]]) -> Measure:
        """See measuring.measure."""

    def teach(
        self, info: StoreInfo, shards: Sequence[int], progress: Callable[[int], None]
    ) -> Tally:
        """Teaches shards.

        Args:
            info: of the store.
            shards: to be taught.
            progress: called with the number of images that were done since, < 0 where a shard
                begins again.
        """

    def close(self) -> None:
        """Stops the workers; they are dead when it returns."""


class Here:
    """This process as the only worker."""

    start_seconds = 0.0

    def __init__(self, assignment: Assignment) -> None:
        self.worker = Worker(assignment)

    def start(self) -> None:
        """There is nothing to start."""

    def measure(self, frames: Sequence[tuple[int, int]]) -> Measure:
        """See measuring.measure."""
        return self.worker.measure(frames)

    def teach(
        self, info: StoreInfo, shards: Sequence[int], progress: Callable[[int], None]
    ) -> Tally:
        """Teaches shards one after another; see Pool."""
        tally = Tally(queue=deque(shards))
        while (shard := tally.next()) is not None:
            images = 0
            with closing(events(self.worker, shard, info)) as run:
                for event in run:
                    if isinstance(event, Step):
                        images += event.images
                        progress(event.images)
                        continue
                    if isinstance(event, Failed):
                        progress(-images)
                    tally.note(event)
        return tally

    def close(self) -> None:
        """There is nothing to stop."""
