"""Rows -> teacher -> codecs -> store: the only place where they meet."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdpipe.cards import load_teacher_card
from kdpipe.datasets.indexed import rows_of
from kdpipe.errors import DeviceError
from kdpipe.params import load_params
from kdpipe.store import layout
from kdpipe.store.claims import tidy
from kdpipe.store.consolidated import consolidate
from kdpipe.store.manifest import write_manifest
from kdpipe.teaching import plan as plans
from kdpipe.teaching.here import Here, Pool
from kdpipe.teaching.plan import Plan, Subject
from kdpipe.teaching.pool import OnRay
from kdpipe.teaching.progress import Progress
from kdpipe.teaching.tally import Tally, raise_what_failed
from kdpipe.teaching.weights import find_weights
from kdpipe.teaching.worker import Assignment, frame_sizes
from kdpipe.training.outcome import warn_if_unfinished

if TYPE_CHECKING:
    from kdpipe.store.ledger import Line
    from kdpipe.store.metadata import StoreInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How fast it goes and where; nothing here changes a byte of the store."""

    workers: int = 1
    """Ray actors; 0: this process, no Ray."""

    gpus_per_worker: float = 0.0
    batch_size: int = 8
    device: str = "auto"
    """A torch device's name; `auto`: a GPU if a worker sees one."""

    ray_address: str | None = None
    """Of a running cluster; None: one is started here, and stopped."""

    shards: tuple[int, int] | None = None
    """Only these shards, [first, last), for batch schedulers."""

    limit: int | None = None
    """Only the first rows."""

    retry_bad: bool = False
    """Teach shards with unreadable images again."""

    def __post_init__(self) -> None:
        """Refuses what only Ray heeds where Ray is not used.

        Raises:
            DeviceError: names the option.
        """
        ignored = {"--gpus-per-worker": self.gpus_per_worker, "--ray-address": self.ray_address}
        for name, value in ignored.items():
            if value and self.workers == 0:
                raise DeviceError(
                    f"{name} {value} is for Ray's workers, --workers 0 is this process without "
                    f"Ray: give --workers 1 or more, or leave {name} out (--device says where)"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What `teach` did."""

    path: Path
    manifest: Path | None
    """None: the store is not complete yet."""

    written: int
    """Images taught now."""

    kept: int
    """Images that were there already."""

    bad: Mapping[str, str]
    """Row id -> why it has no depth; of all shards considered."""

    bytes: int
    """Of all shards considered."""

    seconds: float
    """From the first shard to the last."""

    start_seconds: float
    """Ray's start-up."""

    forward_seconds: float
    """Spent in the teacher's forward, all workers together."""

    workers: Mapping[str, float] = field(default_factory=dict)
    """Host and process -> images it taught in a second, while it had a shard."""


def run(
    teacher: str,
    data: str,
    *,
    fitted_on: str | None = None,
    checkpoint: Path | None = None,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    manifests: Path | None = None,
    options: Options | None = None,
) -> Done:
    """Runs a teacher once over the rows of a data set; finished shards are kept.

    Args:
        teacher: a card's name.
        data: a data set that was indexed.
        fitted_on: the data set whose `fit` gave the weights; None: `data`.
        checkpoint: the weights themselves, instead.
        precision: in which the network computes; None: what params.yaml says.
        manifests: folder of the cards.
        options: how fast and where.

    Raises:
        UnknownNameError: no card has this name.
        DataError: the data set was not indexed.
        CheckpointError: the weights are not there, or are another network's.
        StaleStoreError: the store that is there was written by something else.
        ClaimError: other processes hold the missing shards.
        StoreError: the disk is full, or a shard failed again and again.
    """
    options = options or Options()
    card = load_teacher_card(teacher, manifests)
    rows = rows_of(data, manifests)
    weights = find_weights(card, fitted_on or data, checkpoint)
    if weights.source == "fitted" and checkpoint is None:
        warn_if_unfinished(layout.teacher_dir(fitted_on or data, card.name), "fit")
    params = load_params().store
    if precision is not None:
        params = replace(params, precision=precision)
    subject = Subject(card=card, rows=rows, weights=weights, params=params)
    assignment = Assignment(
        store=layout.store_path(data, card.name).absolute(),
        rows=layout.rows_path(data).absolute(),
        folder=Path.cwd(),
        card=card,
        checkpoint=weights.path.absolute(),
        fitted_on=None if checkpoint else fitted_on or data,
        device=options.device,
        precision=params.precision,
        batch_size=options.batch_size,
        run=secrets.token_hex(4),
        retry_bad=options.retry_bad,
    )
    return _teach(subject, assignment, options, data)


def _teach(subject: Subject, assignment: Assignment, options: Options, data: str) -> Done:
    """Plans, teaches what is missing, and finishes the store if nothing is missing any more."""
    name = subject.card.name
    path, manifest = layout.store_path(data, name), layout.manifest_path(data, name)
    length = min(len(subject.rows), options.limit or len(subject.rows))
    info = plans.open_existing(path, subject, length)
    tally, pool, seconds = None, make_pool(assignment, options), 0.0
    try:
        if info is None:
            seen = pool.measure(frame_sizes(subject.rows))
            info = plans.draft(subject.identity(seen.rule), length, seen)
        plan = plans.make_plan(
            path,
            info,
            subject.rows,
            shards=options.shards,
            limit=options.limit,
            retry_bad=options.retry_bad,
        )
        if plan.missing:
            plans.check_space(path, plan)
            pool.start()
        # Only now: what is refused above leaves the store as it was.
        info = plans.establish(path, info)
        if plan.missing:
            manifest.unlink(missing_ok=True)
            began = time.perf_counter()
            with Progress(f"{name} over {data}", plan.images) as bar:
                tally = pool.teach(info, plan.missing, bar.advance)
            seconds = time.perf_counter() - began
    finally:
        pool.close()
        tidy(path, assignment.run)
    complete = _finish(path, manifest, info, len(subject.rows))
    if tally is not None:
        raise_what_failed(tally, len(plan.missing))
    done = _done(path, plan, tally, start_seconds=pool.start_seconds, seconds=seconds)
    return replace(done, manifest=manifest) if complete else done


def make_pool(assignment: Assignment, options: Options) -> Pool:
    """Who teaches: this process, or Ray's."""
    if options.workers == 0:
        return Here(assignment)
    return OnRay(
        assignment,
        workers=options.workers,
        gpus_per_worker=options.gpus_per_worker,
        address=options.ray_address,
    )


def _finish(path: Path, manifest: Path, info: StoreInfo, rows: int) -> bool:
    """Writes the manifest and the one-file ledger of a complete store; a partial one has none."""
    lines = _complete(path, info, rows)
    if lines is None:
        manifest.unlink(missing_ok=True)
        # Another command may have finished the last shard since, and this was its manifest.
        lines = _complete(path, info, rows)
    if lines is not None:
        consolidate(path)
        write_manifest(manifest, info, lines)
    return lines is not None


def _done(
    path: Path, plan: Plan, tally: Tally | None, *, start_seconds: float, seconds: float
) -> Done:
    return Done(
        path=path,
        manifest=None,
        written=_images(tally, is_new=True),
        kept=sum(one.images for one in plan.kept) + _images(tally, is_new=False),
        bad=_bad(plan, tally),
        bytes=sum(one.bytes for one in [*plan.kept, *(tally.taught if tally else ())]),
        seconds=seconds,
        start_seconds=start_seconds,
        forward_seconds=sum(one.forward_seconds for one in tally.taught) if tally else 0.0,
        workers=tally.speeds() if tally else {},
    )


def _complete(path: Path, info: StoreInfo, rows: int) -> list[Line] | None:
    return plans.complete_lines(path, info) if info.rows == rows else None


def _bad(plan: Plan, tally: Tally | None) -> dict[str, str]:
    bad: dict[str, str] = {}
    for line in plan.kept:
        bad.update(line.bad_ids)
    for one in tally.taught if tally else ():
        bad.update(one.bad)
    return bad


def _images(tally: Tally | None, *, is_new: bool) -> int:
    return sum(one.images for one in tally.taught if one.is_new == is_new) if tally else 0
