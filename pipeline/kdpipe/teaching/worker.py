"""One worker: holds the teacher, teaches one shard at a time, writes it itself.

The same code runs in a Ray actor and in the process of `--workers 0`. Images are read, looked at
and encoded here; what leaves this file is a few numbers.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.errors import DataError, KeptShardError, StaleStoreError
from kdpipe.rows import Rows, read_rows
from kdpipe.store import layout
from kdpipe.store.claims import Claim
from kdpipe.store.ledger import Record
from kdpipe.store.stale import FITTED_ON
from kdpipe.store.writer import open_writer
from kdpipe.teaching.batches import Batch, BatchReader, ahead
from kdpipe.teaching.encoding import Encoder
from kdpipe.teaching.plan import find_finished, is_again

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard
    from kdpipe.store.metadata import StoreInfo
    from kdpipe.teachers import Teacher, TeacherOutput
    from kdpipe.teaching.measuring import Measure

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """All that a worker must know; goes to another process, perhaps another machine."""

    store: Path
    rows: Path
    folder: Path
    """The working folder: other paths may be relative to it."""

    card: TeacherCard
    checkpoint: Path
    fitted_on: str | None = None
    """The data set whose `fit` gave the weights; None: they were given."""

    device: str = "auto"
    """A torch device's name; `auto`: a GPU if the process sees one."""

    precision: str = "fp32"
    batch_size: int = 1
    threads: int | None = None
    """Of torch on the CPU; None: torch's own choice."""

    cores: int | None = None
    """That it may encode with; None: as many as `threads`, else all that the process may use."""

    run: str = ""
    """One command's claims, whatever its number of workers."""

    retry_bad: bool = False
    """Shards with bad images are taught again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Progress: so many images more."""

    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """A shard is done."""

    shard: int
    worker: str
    """Host and process."""

    images: int
    is_new: bool = True
    """False: another process has taught it since this run was planned."""

    bad: Mapping[str, str]
    bytes: int
    seconds: float
    forward_seconds: float


@dataclass
class _Pass:
    """What happens to one shard."""

    bad: dict[int, str] = field(default_factory=dict)
    forward_seconds: float = 0.0


class Worker:
    """Teaches shards; the network is loaded when it is first needed."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._teacher: Teacher | None = None

    @property
    def teacher(self) -> Teacher:
        """The network with its weights.

        Raises:
            CheckpointError, DeviceError: it cannot be loaded.
        """
        if self._teacher is None:
            import torch

            from kdpipe.teachers import load_teacher

            if self.assignment.threads is not None:
                torch.set_num_threads(self.assignment.threads)
            device = self.assignment.device
            if device == "auto":
                device = "cuda" if torch.cuda.is_available() else "cpu"
            self._teacher = load_teacher(
                self.assignment.card,
                checkpoint=self.assignment.checkpoint,
                device=device,
                precision=self.assignment.precision,
            )
        return self._teacher

    @cached_property
    def rows(self) -> Rows:
        """Of the data set; a command that finds all shards finished asks for none."""
        return read_rows(self.assignment.rows)

    @cached_property
    def _reader(self) -> BatchReader:
        """Its size is halved for good when a batch does not fit into the device's memory."""
        pinned = self.teacher.device.type == "cuda"
        return BatchReader(self.rows, self.assignment.batch_size, pinned=pinned)

    def measure(self, frames: Sequence[tuple[int, int]]) -> Measure:
        """See measuring.measure."""
        from kdpipe.teaching.measuring import measure  # torch

        return measure(self.teacher, frames, has_focal=any(self.rows.table["fx"].to_pylist()))

    def teach(self, shard: int, info: StoreInfo) -> Generator[Step | Taught, None, None]:
        """Teaches one shard, from its claim to its record.

        Raises:
            ClaimError: another process holds the shard, or took it over.
            ChangedImageError: an image was replaced since it was indexed.
            KeptShardError: images that the shard has depth of cannot be read now.
            StoreError: the disk is full.
            StaleStoreError: the teacher's rule is not the store's.
        """
        store, retry_bad = self.assignment.store, self.assignment.retry_bad
        claim = Claim.take(store, shard, self.assignment.run)
        try:
            there = find_finished(store, shard, info, self.rows)
            if there is None or is_again(there, info, retry_bad):
                yield from self._teach(claim, info, there)
            else:
                yield Step(images=there.stop - there.start)
                yield _taught(there, is_new=False)
        finally:
            claim.release()

    def _teach(
        self, claim: Claim, info: StoreInfo, before: Record | None
    ) -> Generator[Step | Taught, None, None]:
        start, stop = info.rows_of(claim.shard)
        began, this = time.perf_counter(), _Pass()
        # One thread encodes and writes a batch while the next one is looked at; it never lags by
        # more than one batch, so a slow disk slows the worker and does not fill its memory.
        with (
            open_writer(info, claim) as writer,
            ThreadPoolExecutor(self._cores, "image") as images,
            ThreadPoolExecutor(1, "encode") as beside,
        ):
            encoder = Encoder(info, writer, images if self._cores > 1 else None)
            pending: Future[None] | None = None
            for batch, out in self._looked_at(start, stop, info, this):
                _refuse_loss(claim, before, this.bad)
                claim.hold()
                if pending is not None:
                    pending.result()
                rows = [(number, self.rows[number]) for number in batch.numbers]
                pending = beside.submit(encoder.put, rows, out)
                yield Step(images=len(rows))
            if pending is not None:
                pending.result()
            _refuse_loss(claim, before, this.bad)
            for number in sorted(this.bad):
                encoder.put_bad(number, self.rows[number])
            yield Step(images=len(this.bad))
            seconds = time.perf_counter() - began
            record = writer.commit(
                Record(
                    store=info.digest,
                    shard=claim.shard,
                    start=start,
                    stop=stop,
                    row_digest=self.rows.digest(start, stop),
                    ids=tuple(one.id for one in self.rows[start:stop]),
                    arrays={},
                    statistics=encoder.statistics(),
                    bad={str(number): this.bad[number] for number in sorted(this.bad)},
                    environment=self._environment(seconds, this.forward_seconds),
                )
            )
        yield _taught(record, seconds=seconds, forward_seconds=this.forward_seconds)

    @property
    def _cores(self) -> int:
        """This worker's share of them."""
        wanted = self.assignment.cores or self.assignment.threads
        if wanted is not None:
            return wanted
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    def _looked_at(
        self, start: int, stop: int, info: StoreInfo, this: _Pass
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """What the teacher says of rows in order; those it cannot say anything of go to `bad`."""
        import torch

        for batch in ahead(self._reader.read(start, stop, this.bad)):
            waiting = [batch]
            while waiting:
                part, fits, out = waiting.pop(), True, None
                if len(part) > self._reader.size:  # another one did not fit meanwhile
                    waiting += reversed(part.halves())
                    continue
                try:
                    out = self._look(part, info, this)
                except torch.OutOfMemoryError:
                    fits = False  # only without the exception is its memory free again
                if not fits:
                    self._halve(part)
                    waiting.append(part)
                elif out is not None:
                    yield part, out

    def _halve(self, batch: Batch) -> None:
        """Goes on with batches half of one that did not fit into the device's memory.

        Raises:
            DeviceError: it was a single image.
        """
        import torch

        from kdpipe.teaching.measuring import too_large  # torch

        height, width = batch.images.shape[1:3]
        if len(batch) == 1:
            raise too_large(self.teacher, height, width)
        torch.cuda.empty_cache()
        self._reader.size = len(batch) // 2
        log.warning(
            "%d images of %dx%d do not fit into the memory of %s: going on with batches of %d",
            *(len(batch), height, width, self.teacher.device, self._reader.size),
        )

    def _look(self, batch: Batch, info: StoreInfo, this: _Pass) -> TeacherOutput | None:
        """One forward pass; None where the teacher cannot take images of this size.

        Raises:
            OutOfMemoryError: of torch, too many images for the device.
        """
        teacher = self.teacher
        focal = np.array([self.rows[number].fx or 0.0 for number in batch.numbers], np.float32)
        began = time.perf_counter()
        try:
            out = teacher.predict(batch.images, focal=focal if focal.all() else None)
            _wait_for(teacher)
        except DataError as error:
            this.bad.update(dict.fromkeys(batch.numbers, " ".join(str(error).split())))
            return None
        finally:
            this.forward_seconds += time.perf_counter() - began
        if out.rule != info.rule:
            raise StaleStoreError(
                f"{self.assignment.store}: rule is {info.rule!r} in the store, expected "
                f"{out.rule!r}: remove the store and teach again"
            )
        shape, largest = tuple(out.depth.shape[1:]), info.array(layout.DEPTH).shape
        if any(own > most for own, most in zip(shape, largest, strict=True)):
            reason = (
                f"its map of {shape} is larger than the store's, of {largest}: the data set grew "
                "by larger images; remove the store and teach again to have them too"
            )
            this.bad.update(dict.fromkeys(batch.numbers, reason))
            return None
        return out

    def _environment(self, seconds: float, forward_seconds: float) -> dict[str, object]:
        import torch

        teacher = self.teacher
        gpu = teacher.device.type == "cuda"
        return {
            "run": self.assignment.run,
            FITTED_ON: self.assignment.fitted_on,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": torch.cuda.get_device_name(teacher.device) if gpu else "cpu",
            "threads": torch.get_num_threads(),
            "batch_size": self._reader.size,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "seconds": round(seconds, 3),
            "forward_seconds": round(forward_seconds, 3),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def _taught(
    record: Record, *, is_new: bool = True, seconds: float = 0.0, forward_seconds: float = 0.0
) -> Taught:
    return Taught(
        shard=record.shard,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        images=record.stop - record.start,
        is_new=is_new,
        bad=record.bad_ids,
        bytes=record.bytes,
        seconds=seconds,
        forward_seconds=forward_seconds,
    )


def _refuse_loss(claim: Claim, before: Record | None, bad: Mapping[int, str]) -> None:
    """Keeps a shard that has depth of rows which have none now: their disk may be half gone.

    Raises:
        KeptShardError: it has.
    """
    if before is None:
        return
    had = [n for n in tuple(bad) if n < before.stop and str(n) not in before.bad]
    if had:
        first, more = min(had), f" and {len(had) - 1} more" if len(had) > 1 else ""
        raise KeptShardError(
            f"shard {claim.shard} of {claim.store} stays as it was: it has depth of "
            f"{before.ids[first - before.start]!r}{more}, which now gives none ({bad[first]}): "
            "bring the images back, then run the same command again"
        )


def _wait_for(teacher: Teacher) -> None:
    if teacher.device.type == "cuda":
        import torch

        torch.cuda.synchronize(teacher.device)


def frame_sizes(rows: Rows) -> list[tuple[int, int]]:
    """Distinct frame sizes (H, W), sorted."""
    sides = rows.table.select(["height", "width"]).to_pydict()
    return sorted(set(zip(sides["height"], sides["width"], strict=True)))
