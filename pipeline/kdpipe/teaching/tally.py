"""What a run still has to do, and how it went so far: the same for Ray and for one process."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from kdpipe.errors import ClaimError, KdpipeError, KeptShardError, LostClaimError, StoreError
from kdpipe.teaching.worker import Step, Taught, Worker

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
_SECONDS_TO_WAIT_FOR_A_CLAIM = 3.0
"""A worker whose driver was killed lives that long; its claim goes with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A shard was not taught, this time."""

    shard: int
    message: str
    is_held: bool = False
    """Another process has its claim."""

    is_lost: bool = False
    """This process had the claim, and slept through its lease."""

    is_kept: bool = False
    """What was there stays; trying again would end alike, other shards may do better."""

    is_final: bool = False
    """Trying again, or another shard, would fail alike: full disk, unreadable weights."""


Event: TypeAlias = Step | Taught | Failed


@dataclass
class Tally:
    """What is still to do, and how it went so far."""

    queue: deque[int]
    taught: list[Taught] = field(default_factory=list)
    failed: dict[int, Failed] = field(default_factory=dict)
    """Shards that were given up."""

    stop: Failed | None = None
    """The whole run ends for this reason."""

    _finished: set[int] = field(default_factory=set)
    _attempts: Counter[int] = field(default_factory=Counter)
    _held: dict[int, float] = field(default_factory=dict)
    """Shards that others hold, and when we saw it."""

    def next(self) -> int | None:
        """A shard to be taught now; None where there is none."""
        if not self.queue or self.stop is not None:
            return None
        shard = self.queue.popleft()
        if shard in self._held:
            since = time.monotonic() - self._held[shard]
            time.sleep(max(0.0, _SECONDS_TO_WAIT_FOR_A_CLAIM - since))
        return shard

    @property
    def is_over(self) -> bool:
        """Whether there is no shard left to be taught, but for those that are being taught."""
        return self.stop is not None or not self.queue

    def has(self, shard: int) -> bool:
        """Whether a shard was taught in this run."""
        return shard in self._finished

    def speeds(self) -> dict[str, float]:
        """Worker -> images it taught in a second, while it had a shard."""
        images: defaultdict[str, int] = defaultdict(int)
        seconds: defaultdict[str, float] = defaultdict(float)
        for one in self.taught:
            if one.is_new:
                images[one.worker] += one.images
                seconds[one.worker] += one.seconds
        return {name: images[name] / max(seconds[name], 1e-9) for name in images}

    def note(self, event: Taught | Failed) -> None:
        """Takes in how a shard ended."""
        if isinstance(event, Taught):
            self.taught.append(event)
            self._finished.add(event.shard)
            return
        if event.is_final:
            self.stop = self.stop or event
        elif event.is_held and event.shard not in self._held:
            if event.is_lost:
                log.warning("%s", event.message)
            self._held[event.shard] = time.monotonic()
            self.queue.append(event.shard)
        elif event.is_held or event.is_kept:
            self.failed[event.shard] = event
        else:
            self._attempts[event.shard] += 1
            attempts = self._attempts[event.shard]
            log.warning(
                "shard %d failed, attempt %d of %d: %s",
                event.shard, attempts, MAX_ATTEMPTS, event.message,
            )  # fmt: skip
            if attempts < MAX_ATTEMPTS:
                self.queue.append(event.shard)
            else:
                self.failed[event.shard] = event


def events(worker: Worker, shard: int, info: StoreInfo) -> Generator[Event, None, None]:
    """Teaches a shard; an error becomes the last event."""
    try:
        yield from worker.teach(shard, info)
    except ClaimError as error:
        lost = isinstance(error, LostClaimError)
        yield Failed(shard=shard, message=str(error), is_held=True, is_lost=lost)
    except KeptShardError as error:
        yield Failed(shard=shard, message=str(error), is_kept=True)
    except KdpipeError as error:
        yield Failed(shard=shard, message=str(error), is_final=True)
    except Exception as error:
        log.debug("shard %d", shard, exc_info=True)
        yield Failed(shard=shard, message=f"{type(error).__name__}: {error}")


def raise_what_failed(tally: Tally, shards: int) -> None:
    """Ends a command whose store is not complete.

    Raises:
        ClaimError: all that is missing is held by other processes.
        StoreError: it failed for another reason.
    """
    done = f"{len(tally.taught)} of {shards} shards were taught and stay"
    if tally.stop is not None:
        raise StoreError(f"{tally.stop.message} ({done})")
    failures = [tally.failed[shard] for shard in sorted(tally.failed)]
    if failures:
        kind = ClaimError if all(one.is_held for one in failures) else StoreError
        what = f"{len(failures)} shard{'s' if len(failures) > 1 else ''} not taught"
        raise kind(f"{what}: {failures[0].message} ({done}; run the same command to go on)")
