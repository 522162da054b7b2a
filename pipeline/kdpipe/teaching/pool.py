"""Who teaches which shard on Ray: actors, each with the worker that here.py has in this process.

A shard that fails is tried again, by another actor if its own died; see tally.py. Of Ray, only the
numbers of shards and images travel: rows and images are read, and shards written, by the actors.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kdpipe.errors import DeviceError, KdpipeError, StoreError
from kdpipe.store.claims import give_back
from kdpipe.teaching.tally import MAX_ATTEMPTS, Event, Failed, Tally, events
from kdpipe.teaching.temporary import end_all, make_folder
from kdpipe.teaching.worker import Assignment, Step, Taught, Worker

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo
    from kdpipe.teaching.measuring import Measure

_OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's least; nothing large goes through it."""

_SECONDS_TO_ANSWER = 5.0
_SECONDS_OF_SILENCE = 30.0
"""While no worker runs: then it is said what is waited for."""

log = logging.getLogger(__name__)


class OnRay:
    """Ray actors, on this machine or on a running cluster.

    A shard is given to an actor that runs, not to one that Ray has yet to find a place for: an
    actor whose node has left is replaced, the new one begins when a node joins, and nobody waits
    for it meanwhile.
    """

    def __init__(
        self, assignment: Assignment, *, workers: int, gpus_per_worker: float, address: str | None
    ) -> None:
        self.start_seconds = 0.0
        self._workers = workers
        self._gpus = gpus_per_worker
        self._address = address
        self._threads = _threads(workers) if address is None else None
        self._assignment = replace(assignment, threads=self._threads)
        self._folder: Path | None = None
        self._coming: dict[Any, Any] = {}
        """Answer that an actor gives once it runs -> that actor."""

        self._idle: list[Any] = []
        self._running: dict[Any, _Running] = {}
        """What an actor tells of its shard -> that shard."""

        self._stillborn = 0

    def start(self) -> None:
        """See Pool.start."""
        self._start()

    def measure(self, frames: Sequence[tuple[int, int]]) -> Measure:
        """See Worker.measure."""
        ray = self._start()
        self._hire(1)
        while not self._idle:
            for answer in self._hear():
                failed = self._welcome(answer)
                if failed is not None:
                    raise StoreError(failed.message)
        try:
            return cast("Measure", ray.get(self._idle[0].measure.remote(list(frames))))
        except ray.exceptions.RayError as error:
            raise _known(error) from error

    def teach(
        self, info: StoreInfo, shards: Sequence[int], progress: Callable[[int], None]
    ) -> Tally:
        """See Pool.teach."""
        self._start()
        tally = Tally(queue=deque(shards))
        self._hire(min(self._workers, len(shards)))
        while True:
            while self._idle and (shard := tally.next()) is not None:
                actor = self._idle.pop()
                self._running[actor.teach.remote(shard, info)] = _Running(actor, shard)
            if not self._running and tally.is_over:
                return tally
            for answer in self._hear():
                event: Taught | Failed | None
                if answer in self._coming:
                    event = self._welcome(answer)
                else:
                    event = self._listen(answer, tally, progress)
                if event is not None:
                    tally.note(event)

    def close(self) -> None:
        """Stops the actors, and the cluster if it was started here."""
        if self._folder is None and self._address is None:
            return
        import ray

        if ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor)
        ray.shutdown()
        if self._folder is not None:
            end_all(self._folder)
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _actors(self) -> list[Any]:
        return [
            *self._idle,
            *self._coming.values(),
            *(one.actor for one in self._running.values()),
        ]

    def _hire(self, wanted: int) -> None:
        """Asks Ray for actors until there are so many, the coming ones among them."""
        import ray

        options = {"num_cpus": self._threads or 1, "num_gpus": self._gpus, "max_restarts": 0}
        for _ in range(wanted - len(self._actors)):
            actor: Any = ray.remote(_Actor).options(**options).remote(self._assignment)
            self._coming[actor.begin.remote()] = actor

    def _hear(self) -> list[Any]:
        """Who has something to tell: one of them, or nobody for a while."""
        ray = self._start()
        waiting = [*self._running, *self._coming]
        ready, _ = ray.wait(waiting, num_returns=1, timeout=_SECONDS_OF_SILENCE)
        if not ready and not self._running and self._address is not None:
            needs = f"{self._threads or 1} CPUs" + (f" and {self._gpus:g} GPUs" * (self._gpus > 0))
            free = ray.available_resources()
            log.warning(
                "no worker runs yet, each needs %s: the Ray cluster has %g CPUs and %g GPUs free; "
                "if it stays so, stop what uses them, or add a node",
                *(needs, free.get("CPU", 0), free.get("GPU", 0)),
            )
        return list(ready)

    def _welcome(self, answer: Any) -> Failed | None:
        """Takes in that an actor runs; the reason where none can."""
        import ray

        actor = self._coming.pop(answer)
        try:
            ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            return Failed(shard=-1, message=str(_known(error)), is_final=True)
        except ray.exceptions.RayError as error:  # its node left, or it was killed
            self._stillborn += 1
            if self._stillborn < MAX_ATTEMPTS:
                self._hire(len(self._actors) + 1)
            elif not self._actors:
                return Failed(shard=-1, message=_death(error), is_final=True)
        else:
            self._stillborn = 0
            self._idle.append(actor)
        return None

    def _listen(
        self, answer: Any, tally: Tally, progress: Callable[[int], None]
    ) -> Taught | Failed | None:
        """Takes in what an actor tells of its shard."""
        import ray

        one = self._running[answer]
        try:
            event = cast("Event", ray.get(next(answer)))
        except StopIteration:
            del self._running[answer]
            self._idle.append(one.actor)
            return None
        except ray.exceptions.RayError as error:
            del self._running[answer]
            self._bury(one)
            if tally.has(one.shard):
                return None  # it died idle: its shard is finished and was counted
            event = Failed(shard=one.shard, message=_death(error))
        if isinstance(event, Step):
            one.images += event.images
            progress(event.images)
            return None
        if isinstance(event, Failed):
            progress(-one.images)
        return event

    def _bury(self, one: _Running) -> None:
        """Replaces an actor that died, and gives its claim back: it may be of another machine."""
        import ray

        ray.kill(one.actor)  # should it live on out of reach, it has to know that it is over
        give_back(self._assignment.store, one.shard, self._assignment.run)
        self._hire(len(self._actors) + 1)

    def _start(self) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        if ray.is_initialized():
            return ray
        began, handler = time.perf_counter(), signal.getsignal(signal.SIGTERM)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is None:
            _check_gpus(self._workers, self._gpus)
            self._folder = make_folder()
            options |= {
                "address": "local",
                "num_cpus": self._workers * (self._threads or 1),
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_temp_dir": str(self._folder),
            }
        else:
            _check_address(self._address)
            options["address"] = self._address
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise StoreError(
                f"Ray does not start ({_first_line(error)}): try --workers 0, or check "
                "--ray-address"
            ) from error
        with contextlib.suppress(ValueError):  # another thread than the main one
            signal.signal(signal.SIGTERM, handler)  # Ray's own would leave without cleaning up
        self.start_seconds = time.perf_counter() - began
        return ray


class _Actor:
    """A worker in a process of Ray's."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment

    def begin(self) -> None:
        """Goes where the command was given.

        Raises:
            StoreError: that folder is not there.
            DataError: the rows are not.
        """
        try:
            os.chdir(self._assignment.folder)
        except OSError as error:
            raise StoreError(
                f"a worker on {socket.gethostname()} finds no {self._assignment.folder}, expected "
                "the working folder: all nodes of a cluster share it, the store and the images"
            ) from error
        if self._assignment.threads is None:
            self._assignment = replace(self._assignment, cores=_cores_here())
        self._worker = Worker(self._assignment)

    def measure(self, frames: Sequence[tuple[int, int]]) -> Measure:
        """See Worker.measure."""
        return self._worker.measure(frames)

    def teach(self, shard: int, info: StoreInfo) -> Generator[Event, None, None]:
        """See tally.events."""
        yield from events(self._worker, shard, info)


class _Running:
    """A shard that an actor has."""

    def __init__(self, actor: Any, shard: int) -> None:
        self.actor = actor
        self.shard = shard
        self.images = 0


def _threads(workers: int) -> int:
    """Threads of each worker: what the user set for OpenMP, else a fair share of the cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // workers)


def _cores_here() -> int:
    """This actor's share of its node of a cluster, see `share_of`."""
    import ray

    context: Any = ray.get_runtime_context()
    nodes: Any = ray.nodes
    node = next(one for one in nodes() if one["NodeID"] == context.get_node_id())
    return share_of(
        gpus=context.get_assigned_resources().get("GPU", 0),
        of=node["Resources"].get("GPU", 0),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        threads=os.environ.get("OMP_NUM_THREADS", ""),
    )


def share_of(*, gpus: float, of: float, cores: int, threads: str) -> int:
    """Cores that a worker may encode with, others being on its node whose number nobody knows.

    Args:
        gpus: that Ray gave it.
        of: that the node has.
        cores: of the node.
        threads: OMP_NUM_THREADS, which Ray sets to the CPUs that it gave where the user has not.

    Returns:
        With GPUs, which wait for what is encoded, as large a share of the cores as of the GPUs.
    """
    own = int(threads) if threads.isdecimal() else 1
    return max(1, own, int(cores * gpus / of) if of else 0)


def _check_gpus(workers: int, each: float) -> None:
    """Counts this machine's GPUs: Ray itself would wait for more, for ever and without a word.

    Raises:
        DeviceError: there are too few.
    """
    if each == 0:
        return
    import torch

    there = torch.cuda.device_count()
    if there < workers * each:
        raise DeviceError(
            f"{workers} workers with {each:g} GPUs each need {workers * each:g}, torch "
            f"{torch.__version__} finds {there}: give fewer --workers, or --gpus-per-worker 0 for "
            "the CPU"
        )


def _check_address(address: str) -> None:
    """Knocks at a cluster's door: Ray itself would try for many minutes, line after line.

    Raises:
        StoreError: nobody answers.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # `auto`, which Ray answers at once
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise StoreError(
            f"nobody answers at {address} ({error.strerror or error}), expected a Ray cluster: "
            "check --ray-address, or leave it out to start one here"
        ) from error


def _known(error: Exception) -> KdpipeError:
    cause = getattr(error, "cause", None)
    return (
        cause
        if isinstance(cause, KdpipeError)
        else StoreError(f"a Ray worker failed ({_first_line(error)}): try --workers 0 to see more")
    )


def _death(error: Exception) -> str:
    return (
        f"its worker died ({_first_line(error)}): where memory ran out, try a smaller "
        "--batch-size or fewer --workers"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
