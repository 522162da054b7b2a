"""`kdpipe distill --compare A,B --seeds K`: several methods of one student, in one table."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kdpipe.distill import Distilled
    from kdpipe.evaluate import Summary
    from kdpipe.params import Params

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What all of the trainings have in common."""

    student: str
    data: str
    teachers: tuple[str, ...]
    aux: tuple[str, ...]
    mix: str | None
    ratio: float | None
    params: Params
    manifests: Path | None
    on_missing: Literal["error", "subset"]
    max_minutes: float | None
    """For all of them together."""

    device: str
    workers: int
    trainers: int = 1


def train(wish: Wish, method: str, seed: int) -> Distilled:
    """One of the trainings."""
    from kdpipe import distill

    return distill.run(
        wish.student,
        wish.data,
        teacher=wish.teachers,
        aux=wish.aux,
        mix=wish.mix,
        ratio=wish.ratio,
        method=method,
        seed=seed,
        manifests=wish.manifests,
        params=wish.params,
        on_missing=wish.on_missing,
        max_minutes=wish.max_minutes,
        device=wish.device,
        workers=wish.workers,
        trainers=wish.trainers,
    )


def compare(methods: Sequence[str], seeds: int, wish: Wish) -> tuple[str, Mapping[str, object]]:
    """Trains and judges each method with seeds 0 to K - 1; what is trained already stays.

    Methods that learn from labels only leave the teacher out, and further images but where the mix
    reads their labels: what they learn from is then the same. A relative teacher is not judged
    itself. A training that fails leaves the others alone: why is logged at once.

    Returns:
        A table for people, and its lines as values; `failed` says why a training is not in it.

    Raises:
        TrainingError: the minutes are over before all are trained, or every one of them failed.
    """
    from kdpipe import evaluate
    from kdpipe.cards import load_method
    from kdpipe.errors import CardError, TrainingError

    methods = list(dict.fromkeys(methods))
    began, runs, failed = time.monotonic(), list[str](), dict[str, CardError | TrainingError]()
    reads = {name: load_method(name, wish.manifests).teacher for name in methods}
    labels_only = replace(wish, teachers=())
    if wish.mix != "x+u-prime":
        labels_only = replace(labels_only, aux=(), mix=None, ratio=None)
    judged = _judge_teachers(wish) if any(reads.values()) else []
    for seed in range(seeds):  # by seed: cut short, each method has as many
        for name in methods:
            spent = (time.monotonic() - began) / 60
            left = None if wish.max_minutes is None else wish.max_minutes - spent
            one = replace(wish if reads[name] else labels_only, max_minutes=left)
            try:
                done = train(one, name, seed)
            except (CardError, TrainingError) as error:
                logger.error("%s with seed %d has failed: %s", name, seed, error)
                failed[f"{name} s{seed}"] = error
                continue
            if not done.finished:
                raise TrainingError(
                    f"{wish.max_minutes:g} minutes are over in {done.run}, {len(runs)} of "
                    f"{seeds * len(methods)} trainings are done: run the same command to go on"
                )
            found = evaluate.run(run=done.run, device=wish.device, manifests=wish.manifests)
            runs.append(done.run)
    if not runs:
        raise next(iter(failed.values()))
    text, values = _table([*runs, *judged], found.summary)
    return text, {**values, "failed": {name: str(error) for name, error in failed.items()}}


def _judge_teachers(wish: Wish) -> list[str]:
    """Before hours of training."""
    from kdpipe import evaluate
    from kdpipe.cards import load_teacher_card

    return [
        evaluate.run(teacher=one, data=wish.data, manifests=wish.manifests).summary.run
        for one in wish.teachers
        if load_teacher_card(one, wish.manifests).is_metric
    ]


def _table(runs: Sequence[str], last: Summary) -> tuple[str, Mapping[str, object]]:
    """What was judged where `last` was, for people and as values."""
    from kdpipe.report.board import place_of, read_boards
    from kdpipe.report.tables import costs_table, lines_of, results_table

    where = place_of(last.data, last.split, last.protocol, mirror=bool(last.mirror))
    board = next(one for one in read_boards(runs) if one.place == where)
    lines = lines_of(board, {})
    text = f"{results_table(lines)}\n\n{costs_table(board)}"
    return text, {"runs": list(runs), "lines": [asdict(line) for line in lines]}
