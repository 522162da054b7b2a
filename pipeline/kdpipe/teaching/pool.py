"""Who teaches which shard: Ray actors, or this process. The same worker either way.

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
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from kdpipe.errors import DeviceError, KdpipeError, StoreError
from kdpipe.teaching.tally import Event, Failed, Tally, events
from kdpipe.teaching.worker import Assignment, Measure, Step, Worker

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo

_OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's least; nothing large goes through it."""

_LONGEST_TEMPORARY_FOLDER = 10
"""Ray puts sockets far below it, whose paths may have 107 characters."""

_SECONDS_TO_DIE = 2.0
_SECONDS_TO_ANSWER = 5.0


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
        """See Worker.measure."""

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
        """See Worker.measure."""
        return self.worker.measure(frames)

    def teach(
        self, info: StoreInfo, shards: Sequence[int], progress: Callable[[int], None]
    ) -> Tally:
        """Teaches shards one after another.

        Args:
            info: of the store.
            shards: to be taught.
            progress: called with the number of images that were done since, < 0 where a shard
                begins again.
        """
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


class OnRay:
    """Ray actors, on this machine or on a running cluster."""

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
        self._actors: list[Any] = []

    def start(self) -> None:
        """See Pool.start."""
        self._start()

    def measure(self, frames: Sequence[tuple[int, int]]) -> Measure:
        """See Worker.measure."""
        ray = self._start()
        if not self._actors:
            self._add_actor()
        try:
            return cast("Measure", ray.get(self._actors[0].measure.remote(list(frames))))
        except ray.exceptions.RayError as error:
            raise _known(error) from error

    def teach(
        self, info: StoreInfo, shards: Sequence[int], progress: Callable[[int], None]
    ) -> Tally:
        """See Pool.teach."""
        ray = self._start()
        tally = Tally(queue=deque(shards))
        while len(self._actors) < min(self._workers, len(shards)):
            self._add_actor()
        running: dict[Any, _Running] = {}
        idle = list(self._actors)
        while True:
            while idle and (shard := tally.next()) is not None:
                actor = idle.pop()
                running[actor.teach.remote(shard, info)] = _Running(actor, shard)
            if not running:
                return tally
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            one = running[ready]
            try:
                event = cast("Event", ray.get(next(ready)))
            except StopIteration:
                del running[ready]
                idle.append(one.actor)
                continue
            except ray.exceptions.RayError as error:
                # The actor died: its shard is tried again by a new one.
                del running[ready]
                self._actors.remove(one.actor)
                idle.append(self._add_actor())
                if tally.has(one.shard):
                    continue  # it died idle: its shard is finished and was counted
                event = Failed(shard=one.shard, message=_first_line(error))
            if isinstance(event, Step):
                one.images += event.images
                progress(event.images)
                continue
            if isinstance(event, Failed):
                progress(-one.images)
            tally.note(event)

    def close(self) -> None:
        """Stops the actors, and the cluster if it was started here."""
        if self._folder is None and self._address is None:
            return
        import ray

        for actor in self._actors:
            ray.kill(actor)
        ray.shutdown()
        if self._folder is not None:
            _end_all(self._folder)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _add_actor(self) -> Any:
        import ray

        options = {"num_cpus": self._threads or 1, "num_gpus": self._gpus, "max_restarts": 0}
        actor = ray.remote(_Actor).options(**options).remote(self._assignment)
        self._actors.append(actor)
        return actor

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
            self._folder = _temporary_folder()
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
        os.chdir(assignment.folder)
        self._worker = Worker(assignment)

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


def _temporary_folder() -> Path:
    """A folder for Ray's logs and sockets; those of killed commands are cleared away first."""
    wanted = Path(tempfile.gettempdir())
    base = wanted if len(str(wanted)) <= _LONGEST_TEMPORARY_FOLDER else Path("/tmp")
    namespace = Path("/proc/self/ns/pid")  # containers that share /tmp number their own processes
    mine = f"kdpipe-{namespace.stat().st_ino if namespace.exists() else 0:x}-"
    for folder in base.glob(f"{mine}*"):
        pid = folder.name.removeprefix(mine).partition("-")[0]
        if namespace.exists() and not Path("/proc", pid).exists():
            _end_all(folder)
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{mine}{os.getpid()}-", dir=base))


def _end_all(folder: Path) -> None:
    """Ends what Ray started for us: interrupted, it leaves some of it behind."""
    patience = time.monotonic() + _SECONDS_TO_DIE
    while (pids := _users(folder)) and time.monotonic() < patience + _SECONDS_TO_DIE:
        if time.monotonic() > patience:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _users(folder: Path) -> list[int]:
    """Other living processes that have a file below our own temporary folder open: Ray's logs.

    Their environment would say too whose they are, but some of Ray's overwrite it.
    """
    pids = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):  # none where there is no /proc
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(f"{folder}/"):
                pids.add(int(link.parts[2]))
    return sorted(pids - {os.getpid()})


def _known(error: Exception) -> KdpipeError:
    cause = getattr(error, "cause", None)
    return (
        cause
        if isinstance(cause, KdpipeError)
        else StoreError(f"a Ray worker failed ({_first_line(error)}): try --workers 0 to see more")
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
