"""What was evaluated, put side by side: one board for each data set, split and protocol.

Students that were averaged with mirrored images have a board of their own; a teacher's store is
judged as it is, and stands on both.

Everything shown is read from files that other commands wrote; what no file says is None, and the
page shows it as n/a.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdpipe.errors import CardError, DataError
from kdpipe.evaluate import Summary
from kdpipe.metrics import METRICS
from kdpipe.metrics.table import read_summary
from kdpipe.report.costs import number_of, read_store_bytes
from kdpipe.store.layout import evaluation_path, student_dir
from kdpipe.strict import build
from kdpipe.students import model_path, weights_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a student came about."""

    run: str
    steps: int | None = None
    seconds: float | None = None
    labelled_images: int | None = None
    aux_images: int | None = None
    size: tuple[int, int] | None = None
    """(H, W) of its training images [pixels]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One column of the comparison: the same training with one or more seeds."""

    student: str
    method: str
    teacher: str
    aux: str
    trained_on: str
    """Data set with the labels."""

    runs: tuple[Summary, ...]
    """By seed."""

    trained: tuple[Trained, ...]
    """Likewise."""

    is_one_of_several: bool = False
    """Whether the same was trained with other teachers too."""

    student_bytes: int | None = None
    """Of the first run's weights."""

    store_bytes: int | None = None
    """Of the stores that it learned from; None: unknown."""

    @property
    def is_baseline(self) -> bool:
        """Labels only."""
        return self.teacher == "none"

    @property
    def name(self) -> str:
        """For people."""
        name = self.method
        if self.is_baseline:
            name = "labels only" if self.method == "none" else f"{self.method}, no teacher"
        elif self.is_one_of_several:
            name = f"{name} of {self.teacher.replace('+', ' and ')}"
        return name if self.aux == "none" else f"{name} + {self.aux}"

    @property
    def unfinished(self) -> int:
        """Runs that were judged although their training was stopped before its last step."""
        return sum(run.finished is False for run in self.runs)

    def values(self, metric: str) -> list[float]:
        """One value a seed."""
        return [run.metrics[metric] for run in self.runs]

    def mean(self, metric: str) -> float:
        """Over the seeds."""
        return float(np.mean(self.values(metric)))

    def deviation(self, metric: str) -> float | None:
        """Sample standard deviation over the seeds; None for a single one."""
        values = self.values(metric)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def of_seeds(self, seeds: Collection[int | None]) -> Arm:
        """The trainings with these seeds only."""
        kept = [number for number, run in enumerate(self.runs) if run.seed in seeds]
        return replace(
            self,
            runs=tuple(self.runs[number] for number in kept),
            trained=tuple(self.trained[number] for number in kept),
        )

    @property
    def steps(self) -> int | None:
        """Of every seed; None: unknown, or they differ."""
        found = {one.steps for one in self.trained}
        return found.pop() if len(found) == 1 else None

    @property
    def seconds(self) -> float | None:
        """Of one training, mean over the seeds."""
        known = [one.seconds for one in self.trained if one.seconds is not None]
        return float(np.mean(known)) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """All that was judged on the same images by the same protocol."""

    data: str
    split: str
    protocol: str
    mirror: bool = False
    """Students' depth is averaged with that of the mirrored image."""

    teachers: tuple[Summary, ...]
    arms: tuple[Arm, ...]

    @property
    def place(self) -> str:
        """For files and keys."""
        return place_of(self.data, self.split, self.protocol, mirror=self.mirror)

    @property
    def heading(self) -> str:
        """For people."""
        mirrored = ", averaged with the mirrored images" if self.mirror else ""
        return f"{self.data}, {self.split} split{mirrored}"

    @property
    def everyone(self) -> list[Summary]:
        """Teachers and students."""
        return [*self.teachers, *(run for arm in self.arms for run in arm.runs)]

    @property
    def median(self) -> Summary | None:
        """The median depth map's errors, as one who knows them says."""
        return next((one for one in self.everyone if one.median is not None), None)

    @property
    def students(self) -> list[str]:
        """Names of the cards, sorted."""
        return sorted({arm.student for arm in self.arms})

    def arms_of(self, student: str) -> list[Arm]:
        """Labels only first, then without, then with unlabelled images."""
        mine = [arm for arm in self.arms if arm.student == student]
        return sorted(
            mine,
            key=lambda a: (a.trained_on, not a.is_baseline, a.aux != "none", a.method, a.teacher),
        )

    def baseline_of(self, arm: Arm) -> Arm | None:
        """The same student, trained on the same labels only, or on those of `trained_on` alone."""
        known = {
            other.aux: other
            for other in self.arms
            if (other.student, other.method) == (arm.student, "none")
            and other.trained_on == arm.trained_on
        }
        same = known.get(arm.aux)
        return known.get("none") if same is None or same is arm else same

    def teacher_of(self, arm: Arm) -> Summary | None:
        """The arm's teacher, judged on the same images; of several, or their mean, the best by
        AbsRel."""
        names = [arm.teacher, *arm.teacher.split("+")]
        judged = [one for one in self.teachers if one.teacher in names]
        return min(judged, key=lambda one: one.metrics["abs_rel"], default=None)

    def paired(self, arm: Arm) -> tuple[Arm, Arm] | None:
        """(Labels only, arm), of the seeds that they share, or of all where they share none."""
        base = self.baseline_of(arm)
        if base is None or arm is base:
            return None
        shared = {run.seed for run in base.runs} & {run.seed for run in arm.runs}
        return (base.of_seeds(shared), arm.of_seeds(shared)) if shared else (base, arm)

    def gain(self, arm: Arm) -> float | None:
        """Share of the labels-only student's AbsRel that is gone; negative: it grew."""
        pair = self.paired(arm)
        return None if pair is None else 1 - pair[1].mean("abs_rel") / pair[0].mean("abs_rel")

    def gain_deviation(self, arm: Arm) -> float | None:
        """Of the gains seed by seed; None: fewer than two seeds that both have."""
        base, mine = self.paired(arm) or (arm, arm)
        seeds = [[run.seed for run in one.runs] for one in (base, mine)]
        if base is mine or seeds[0] != seeds[1] or len(seeds[0]) < 2:
            return None
        pairs = zip(base.values("abs_rel"), mine.values("abs_rel"), strict=True)
        return float(np.std([1 - after / before for before, after in pairs], ddof=1))

    def gap_closed(self, arm: Arm) -> float | None:
        """(labels only - arm) / (labels only - teacher) in AbsRel; None where no gap is open."""
        base, mine = self.paired(arm) or (self.baseline_of(arm), arm)
        teacher = self.teacher_of(arm)
        if base is None or teacher is None:
            return None
        gap = base.mean("abs_rel") - teacher.metrics["abs_rel"]
        return (base.mean("abs_rel") - mine.mean("abs_rel")) / gap if gap > 0 else None


def read_boards(runs: Collection[str] | None = None) -> list[Board]:
    """Reads all evaluations, but for those of students that were trained again since.

    Args:
        runs: those of these students and teachers only; None: of all.

    Raises:
        DataError: there is none left, or one is torn.
    """
    folder = evaluation_path("any", "any", "any", "any").parents[1]
    paths = sorted(folder.glob("*/*.json"))
    if not paths:
        raise DataError(f"{folder} holds no evaluation: run `kdpipe evaluate` first")
    summaries = [one for one in map(_read, paths) if runs is None or one.run in runs]
    summaries = [one for one in summaries if not _is_of_another(one)]
    if not summaries:
        raise DataError(f"{folder} holds no evaluation of what is there now: run it again")
    places = sorted({(one.data, one.split, one.protocol) for one in summaries})
    return [
        board
        for place in places
        for board in _boards(place, [s for s in summaries if _place(s) == place])
    ]


def place_of(data: str, split: str, protocol: str, *, mirror: bool) -> str:
    """Names a board in files and keys, as `evaluation_path` names its evaluations."""
    return evaluation_path("any", data, split, protocol, mirror=mirror).stem


def read_trained(run: str) -> Trained:
    """Reads what `distill` noted of a run; what it did not note is None."""
    noted = read_optional(student_dir(run) / "metrics.json")
    card = read_optional(student_dir(run) / "card.json")
    size = card.get("size")
    return Trained(
        run=run,
        steps=_whole(noted.get("steps")),
        seconds=number_of(noted.get("seconds")),
        labelled_images=_whole(noted.get("labelled_images")),
        aux_images=_whole(noted.get("aux_images")),
        size=(int(size[0]), int(size[1])) if isinstance(size, list) and len(size) == 2 else None,
    )


def read_optional(path: Path) -> dict[str, object]:
    """A JSON object; empty where there is no such file."""
    return read_summary(path) if path.is_file() else {}


def _read(path: Path) -> Summary:
    try:
        summary = build(Summary, read_summary(path), str(path))
    except CardError as error:
        raise DataError(f"{error}; run `kdpipe evaluate` again") from error
    if not set(METRICS) <= set(summary.metrics):
        raise DataError(f"{path} lacks some of {', '.join(METRICS)}: run `kdpipe evaluate` again")
    return summary


def _is_of_another(one: Summary) -> bool:
    """Whether a student was trained again after it was judged; where its network is gone, not."""
    now = None if one.weights_sha256 is None else weights_digest(student_dir(one.run))
    if now in (None, one.weights_sha256):
        return False
    where = place_of(one.data, one.split, one.protocol, mirror=bool(one.mirror))
    log.warning(
        "%s was trained again after %s judged it, which is left out: run `kdpipe evaluate --run "
        "%s` again",
        *(one.run, where, one.run),
    )
    return True


def _place(one: Summary) -> tuple[str, str, str]:
    return one.data, one.split, one.protocol


def _boards(place: tuple[str, str, str], summaries: Sequence[Summary]) -> list[Board]:
    """One, or one of those with mirrored images too; a teacher alone has a plain one."""
    judged = {bool(one.mirror) for one in summaries if one.kind == "student"} or {False}
    return [
        _board(
            place, [s for s in summaries if s.kind == "teacher" or bool(s.mirror) == mirror], mirror
        )
        for mirror in sorted(judged)
    ]


def _board(place: tuple[str, str, str], summaries: Sequence[Summary], mirror: bool) -> Board:
    data, split, protocol = place
    keys = {_key(one): None for one in summaries if one.kind == "student"}
    teachers = defaultdict[tuple[str, ...], set[str]](set)
    for key in keys:
        teachers[key[1:3]].add(key[3])
    return Board(
        data=data,
        split=split,
        protocol=protocol,
        mirror=mirror,
        teachers=tuple(one for one in summaries if one.kind == "teacher"),
        arms=tuple(
            replace(
                _arm([one for one in summaries if _key(one) == key]),
                is_one_of_several=len(teachers[key[1:3]]) > 1,
            )
            for key in keys
        ),
    )


def _key(one: Summary) -> tuple[str, ...]:
    return one.kind, one.student, one.method, one.teacher, one.aux, str(one.trained_on)


def _arm(runs: Sequence[Summary]) -> Arm:
    ordered = tuple(sorted(runs, key=lambda run: run.seed or 0))
    first = ordered[0]
    return Arm(
        student=first.student,
        method=first.method,
        teacher=first.teacher,
        aux=first.aux,
        trained_on=first.trained_on or "unknown",
        runs=ordered,
        trained=tuple(read_trained(run.run) for run in ordered),
        student_bytes=_size_of(model_path(student_dir(first.run))),
        store_bytes=read_store_bytes(first.run),
    )


def _size_of(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
