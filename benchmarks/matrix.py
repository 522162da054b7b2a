"""What each way to distil is worth: equal steps, each arm's learning rate searched alike.

    python benchmarks/matrix.py benchmarks/matrix/rooms.yaml -o benchmarks/results/matrix_rooms.json

One file says all: data sets, teachers, student, steps, rates, arms. Every arm trains all its seeds
with every rate; the rate with the best mean on the validation split is the arm's, and the test
split judges that: one seed does not tell a good rate from a lucky one. Arms of many seeds come
first, each seed of all of them before the next one, so that a cut leaves a table. The same command
goes on: kdpipe itself knows what is finished, and takes an unfinished training up again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from kdpipe.errors import KdpipeError
from kdpipe.strict import build, read_yaml

Found: TypeAlias = dict[str, Any]
SHARED = ("data", "rows", "teachers", "stores")
METRICS = {"abs_rel": "AbsRel ↓", "rmse": "RMSE [m] ↓", "delta1": "δ₁ ↑"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One line of the table."""

    name: str
    flags: str
    """Of `kdpipe distill`; `--data` and `--student` are the matrix's."""

    seeds: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A params file. Flags may hold $VARIABLES of the environment."""

    data: Mapping[str, str]
    """Data set -> further flags of `kdpipe index`; the first has the labels."""

    teachers: Mapping[str, str]
    """Teacher -> further flags of `kdpipe fit`: fitted on the first data set, run over all."""

    student: str
    rates: tuple[float, ...]
    arms: tuple[Arm, ...]
    """The first is the baseline that the others are compared with."""

    params: Mapping[str, object]
    """params.yaml of each project, without the learning rate of `distill`."""

    manifests: str | None = None
    """Folder with cards of its own, from the params file's."""


@dataclass(slots=True)
class Board:
    """What is known so far, and the file that says it."""

    matrix: Matrix
    path: Path | None
    teachers: dict[str, Found] = field(default_factory=dict)
    median: Found | None = None
    arms: dict[str, Found] = field(default_factory=dict)

    def save(self) -> None:
        """Writes the file in one step, so that a cut never tears it."""
        if self.path is None:
            return
        said = {
            "student": self.matrix.student,
            "rates": self.matrix.rates,
            "params": self.matrix.params,
            "median": self.median,
            "teachers": self.teachers,
            "arms": [self.arms[arm.name] for arm in self.matrix.arms],
        }
        fresh = self.path.with_suffix(".part")
        fresh.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        fresh.replace(self.path)


@dataclass(frozen=True, slots=True)
class Job:
    """One training."""

    folder: Path
    arm: str
    flags: str
    rate: float
    seed: int


def kdpipe(folder: Path, *arguments: str) -> Found:
    """Runs one command in a folder, within this process: torch is loaded once.

    Raises:
        KdpipeError: the command failed, and said why on stderr.
        KeyboardInterrupt: it was interrupted.
    """
    from kdpipe_stages.cli import INTERRUPTED, run

    os.chdir(folder)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = run([*arguments, "--json"])
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise KdpipeError(f"kdpipe {' '.join(arguments)} ended with {status}")
    found: Found = json.loads(said.getvalue())
    return found


def index(project: Path, name: str, flags: str) -> None:
    """Lists a data set; renders it where it is kdpipe's own."""
    kdpipe(project, "index", "--data", name, *words(flags))


def prepare_teacher(project: Path, name: str, data: Sequence[str], flags: str) -> Found:
    """Fits a teacher on the labelled data set, runs it over all, judges its store."""
    kdpipe(project, "fit", "--teacher", name, "--data", data[0], *words(flags))
    for one in data:
        kdpipe(
            project,
            *("teach", "--teacher", name, "--data", one, "--fitted-on", data[0], "--workers", "0"),
        )
    return kdpipe(project, "evaluate", "--teacher", name, "--data", data[0])


def prepare_teachers(pool: Executor, board: Board, project: Path, arms: Sequence[Arm]) -> None:
    """Prepares those that the arms name and no earlier arm did."""
    named = {word for arm in arms for word in re.split(r"[ ,]", arm.flags)}
    wanted = {
        name: pool.submit(prepare_teacher, project, name, tuple(board.matrix.data), flags)
        for name, flags in board.matrix.teachers.items()
        if name in named and name not in board.teachers
    }
    for name, judged in wanted.items():
        summary = judged.result()
        board.teachers[name], board.median = summary["metrics"], summary["median"]
        board.save()


def train(job: Job) -> Found:
    """Trains one student or goes on with it; judges it unless that was done since."""
    trained = kdpipe(job.folder, "distill", *words(job.flags), "--seed", str(job.seed))
    done = job.folder / "artifacts/students" / trained["run"] / "metrics.json"
    kept = list((job.folder / "artifacts/evaluations" / trained["run"]).glob("*-test-*.json"))
    if kept and kept[0].stat().st_mtime > done.stat().st_mtime:
        summary = json.loads(kept[0].read_text(encoding="utf-8"))
    else:
        summary = kdpipe(job.folder, "evaluate", "--run", trained["run"], "--split", "test")
    found = {"validation": trained["abs_rel"], "seconds": round(trained["seconds"])}
    return {**found, "test": summary["metrics"]}


def words(flags: str) -> list[str]:
    """Flags one by one, with the environment's variables filled in; `$` alone stays."""
    found = [os.path.expandvars(word) for word in flags.split()]
    for word in found:
        if unset := re.search(r"\$\{?(\w+)", word):
            raise SystemExit(f"{unset[1]} is not set and {flags!r} needs it: set it and run again")
    return found


def workspace(project: Path, matrix: Matrix, rate: float | None, manifests: Path | None) -> Path:
    """The project itself, or a folder in it with the same inputs and students of one rate."""
    folder = project if rate is None else project / f"rate-{rate:g}"
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    links = {folder / "manifests": manifests} if manifests else {}
    params = dict(matrix.params)
    if rate is not None:
        links |= {folder / "artifacts" / one: project / "artifacts" / one for one in SHARED}
        settings: Any = params["distill"]
        ours = {**settings[matrix.student], "learning_rate": rate}
        params["distill"] = {matrix.student: ours}
    for link, target in links.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return folder


def done(pool: Executor, jobs: Sequence[Job]) -> Iterator[tuple[Job, Found | None]]:
    """Each job as it ends; None: it failed, a rate may be too high for an arm."""
    running = {pool.submit(train, job): job for job in jobs}
    for future in as_completed(running):
        try:
            yield running[future], future.result()
        except KdpipeError as error:
            print(f"{running[future].arm}: {error}", flush=True)
            yield running[future], None


def run_arms(pool: Executor, board: Board, project: Path, folders: Mapping[float, Path]) -> None:
    """Trains all: the arms with most seeds first."""
    matrix = board.matrix
    common = f"--data {next(iter(matrix.data))} --student {matrix.student}"
    for count in sorted({arm.seeds for arm in matrix.arms}, reverse=True):
        arms = [arm for arm in matrix.arms if arm.seeds == count]
        prepare_teachers(pool, board, project, arms)
        for seed in range(count):
            jobs = [
                Job(folders[rate], arm.name, f"{common} {arm.flags}", rate, seed)
                for rate in matrix.rates
                for arm in arms
            ]
            for job, found in done(pool, jobs):
                board.arms[job.arm]["rates"][f"{job.rate:g}"][str(seed)] = found
                board.save()
                if found:
                    said = f"{job.arm}, seed {seed}, {job.rate:g}: {found['test']['abs_rel']:.4f}"
                    print(said, flush=True)


def chosen(arm: Found) -> tuple[str, Found]:
    """The rate whose students are nearest to the truth of the validation split, and these by seed.

    A rate at which a training failed is out; nan, and no student, where every rate is.
    """
    known = {rate: seeds for rate, seeds in arm["rates"].items() if seeds and all(seeds.values())}
    most = max(map(len, known.values()), default=0)  # cut in the middle of a rate: the other's

    def mean(rate: str) -> float:
        return statistics.fmean(float(one["validation"]) for one in known[rate].values())

    rate = min((rate for rate in known if len(known[rate]) == most), key=mean, default="nan")
    return rate, known.get(rate, {})


def pairs(arm: Found, base: Found) -> list[tuple[float, float]]:
    """AbsRel of an arm and of the baseline, for each seed that both have."""
    (_, mine), (_, theirs) = chosen(arm), chosen(base)
    both = [seed for seed in mine if seed in theirs]
    return [(mine[s]["test"]["abs_rel"], theirs[s]["test"]["abs_rel"]) for s in both]


def table(board: Board, against: str) -> str:
    """Markdown: mean ± deviation; gain in AbsRel over the baseline, paired by seed, ± its standard
    error; share of the baseline's distance to the best teacher that is closed; the rate."""
    heads = [*METRICS.values(), "gain", "gap closed", "rate", "seeds"]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    known = {"median depth map of the train split": board.median} if board.median else {}
    known |= {f"teacher `{name}`": found for name, found in board.teachers.items()}
    for name, metrics in known.items():
        cells = [f"{metrics[metric]:.4f}" for metric in METRICS]
        lines.append(f"| {name} | {' | '.join(cells)} | | | | |")
    base = board.arms[against]
    teacher = min((one["abs_rel"] for one in board.teachers.values()), default=math.nan)
    for name, arm in board.arms.items():
        lines += [f"| {name} | {' | '.join(_cells(arm, base, teacher))} |"]
    return "\n".join(lines)


def _cells(arm: Found, base: Found, teacher: float) -> list[str]:
    rate, found = chosen(arm)
    seeds = [one["test"] for one in found.values()]
    if not seeds:
        return ["not run", "", "", "", "", "", "0"]
    cells = [_spread([one[metric] for one in seeds]) for metric in METRICS]
    end = [rate, str(len(seeds))]
    both = [] if arm is base else pairs(arm, base)
    if not both:
        return [*cells, "", "", *end]
    gained = [1 - mine / labels for mine, labels in both]
    gain = f"{statistics.mean(gained):+.1%}"
    if len(gained) > 1:
        gain += f" ± {statistics.stdev(gained) / math.sqrt(len(gained)):.1%}"
    mine, labels = (statistics.mean(values) for values in zip(*both, strict=True))
    closed = f"{(labels - mine) / (labels - teacher):.0%}" if labels > teacher else ""
    return [*cells, gain, closed, *end]


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def main() -> None:
    """Prepares data and teachers, trains and judges all arms, prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("params", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--project", type=Path, help="default: artifacts/matrix/PARAMS")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, one thread each")
    parser.add_argument("--against", metavar="ARM", help="gains are over it; default: the first")
    asked = parser.parse_args()
    matrix = build(Matrix, read_yaml(asked.params), str(asked.params))
    against = asked.against or matrix.arms[0].name
    if against not in [arm.name for arm in matrix.arms]:
        parser.error(f"--against {against}: {asked.params} has no such arm")
    project = (asked.project or Path("artifacts/matrix") / asked.params.stem).resolve()
    cards = (asked.params.parent / matrix.manifests).resolve() if matrix.manifests else None
    workspace(project, matrix, None, cards)
    folders = {rate: workspace(project, matrix, rate, cards) for rate in matrix.rates}
    board = Board(matrix, asked.output.resolve() if asked.output else None)
    for arm in matrix.arms:
        rates: Found = {f"{rate:g}": {} for rate in matrix.rates}
        board.arms[arm.name] = {"arm": arm.name, "flags": arm.flags, "rates": rates}
    if asked.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it
    pool = ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn"))
    try:
        for each in [pool.submit(index, project, *item) for item in matrix.data.items()]:
            each.result()
        run_arms(pool, board, project, folders)
    except KeyboardInterrupt:
        sys.exit(130)
    except KdpipeError as error:
        sys.exit(f"matrix: {error}")
    finally:
        pool.shutdown(cancel_futures=True)  # what runs is stopped too, or ends
        print(table(board, against))


if __name__ == "__main__":
    main()
