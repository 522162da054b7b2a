"""`kdpipe distill --compare A,B --seeds K`: several methods of one student, in one table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kdpipe.params import Params


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


def compare(methods: Sequence[str], seeds: int, wish: Wish) -> tuple[str, Mapping[str, object]]:
    """Trains and judges each method with seeds 0 to K - 1; what is trained already stays.

    Methods that learn from labels only leave teacher and further images out. A relative teacher is
    not judged itself.

    Returns:
        A table for people, and its lines as values.

    Raises:
        TrainingError: the minutes are over before all are trained.
    """
    from kdpipe import distill, evaluate
    from kdpipe.cards import load_method, load_teacher_card
    from kdpipe.errors import TrainingError
    from kdpipe.report.board import place_of, read_boards
    from kdpipe.report.tables import costs_table, lines_of, results_table

    began, runs = time.monotonic(), list[str]()
    reads = {name: load_method(name, wish.manifests).teacher for name in methods}
    judged = []
    for teacher in wish.teachers if any(reads.values()) else ():
        if load_teacher_card(teacher, wish.manifests).is_metric:  # before hours of training
            found = evaluate.run(teacher=teacher, data=wish.data, manifests=wish.manifests)
            judged.append(found.summary.run)
    for seed in range(seeds):  # by seed: cut short, each method has as many
        for name in methods:
            spent = (time.monotonic() - began) / 60
            done = distill.run(
                wish.student,
                wish.data,
                teacher=wish.teachers if reads[name] else None,
                aux=wish.aux if reads[name] else (),
                mix=wish.mix if reads[name] else None,
                ratio=wish.ratio if reads[name] else None,
                method=name,
                seed=seed,
                manifests=wish.manifests,
                params=wish.params,
                on_missing=wish.on_missing,
                max_minutes=None if wish.max_minutes is None else wish.max_minutes - spent,
                device=wish.device,
                workers=wish.workers,
                trainers=wish.trainers,
            )
            if not done.finished:
                raise TrainingError(
                    f"{wish.max_minutes:g} minutes are over in {done.run}, {len(runs)} of "
                    f"{seeds * len(methods)} trainings are done: run the same command to go on"
                )
            found = evaluate.run(run=done.run, device=wish.device, manifests=wish.manifests)
            runs.append(done.run)
    runs += judged
    last = found.summary
    where = place_of(last.data, last.split, last.protocol, mirror=bool(last.mirror))
    board = next(one for one in read_boards(runs) if one.place == where)
    lines = lines_of(board, {})
    table = f"{results_table(lines)}\n\n{costs_table(board)}"
    return table, {"runs": runs, "lines": [asdict(line) for line in lines]}
