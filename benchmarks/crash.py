"""Claim: kill `teach` at any moment, and its store ends as that of a run that was left alone.

    python -m benchmarks.crash --kills 200 --minutes 10 -o benchmarks/results/crash.json

SIGKILL at random moments, some runs in one process and some on two Ray workers, mixed on the same
stores: the process of `--workers 0`, Ray's driver, one of its workers, driver and workers together.
Three of four runs on Ray are killed once they teach, which they do in a tenth of their time; the
others at any moment. Each store is killed some times, finished, and compared: every byte of every
array, the manifest, the ledger but for its environment, and that nothing else is left. At most one
shard a worker and kill may be computed twice.

The teacher is the tests' toy, so that what takes the time is the store; the data set is 64 photos
in shards of 8.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests import crash
from tests.crash import SHARD_ROWS, STORE, Order

from kdpipe.store.verify import verify

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

ROOT = Path(__file__).parents[1]
PHOTOS, WORKERS = 64, 2
SECONDS = 0.02
"""That the toy takes for an image."""

ON_RAY, WHEN_TEACHING = 0.06, 0.75
"""Shares of all runs, and of those on Ray."""

MOST_RUNS = 8
"""Of one store, that are killed."""

MOST_ATTEMPTS = 3
"""To finish one; what is still missing then is a difference."""


@dataclass
class Found:
    """What has happened so far."""

    kills: Counter[str] = field(default_factory=Counter)
    """By what was killed."""

    stores: int = 0
    twice: int = 0
    """Shards that were begun once more."""

    allowed: int = 0
    """So many at most: one for each worker of each kill."""

    refused: int = 0
    """Runs that ended with an error, all of them one line, and were started again."""

    differences: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What `verify` names in a store that was finished."""


@dataclass(frozen=True)
class Bench:
    """What stays the same from store to store."""

    folder: Path
    chance: random.Random
    expected: dict[str, bytes | str]
    lasts: dict[bool, float]
    """Seconds of a run that is left alone, by whether it is on Ray."""


def main() -> None:
    """Kills, counts, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0, help="begin no store after them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    began, found = time.monotonic(), Found()
    with crash.scratch() as folder:
        bench = prepare(folder, random.Random(options.seed))
        while sum(found.kills.values()) < options.kills:
            if time.monotonic() - began > 60 * options.minutes:
                break
            torment(bench, found)
            print(f"{sum(found.kills.values())} kills, {found.stores} stores", flush=True)
    result = summary(found, bench, time.monotonic() - began)
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text)
    if found.differences or found.problems or found.twice > found.allowed:
        raise SystemExit("what was killed did not end as what was left alone")


def prepare(folder: Path, chance: random.Random) -> Bench:
    """Makes the data set, and a store that is left alone, with Ray and without."""
    (folder / "new").mkdir()
    crash.make_project(folder / "new", PHOTOS)
    lasts, seen = {}, []
    for on_ray in (False, False, True):  # the first one starts the server that forks all others
        project = shutil.copytree(folder / "new", folder / f"whole {len(seen)}")
        began = time.monotonic()
        if crash.end(crash.start(order(project, on_ray))) != 0:
            raise SystemExit("a run that was left alone failed")
        lasts[on_ray] = time.monotonic() - began
        seen.append(crash.content(project))
    if seen[0] != seen[2]:
        raise SystemExit("Ray writes another store than one process")
    return Bench(folder, chance, seen[0], lasts)


def order(project: Path, on_ray: bool) -> Order:
    """The command."""
    arguments = ("--workers", str(WORKERS)) if on_ray else crash.HERE
    return Order(folder=project, arguments=arguments, seconds=SECONDS, patience=None)


def torment(bench: Bench, found: Found) -> None:
    """Kills the runs of one store, lets it be finished, and compares."""
    project = shutil.copytree(bench.folder / "new", bench.folder / f"store {found.stores}")
    for _ in range(bench.chance.randint(1, MOST_RUNS)):
        if run_and_kill(bench, project, found, on_ray=bench.chance.random() < ON_RAY) == 0:
            break
    for _ in range(MOST_ATTEMPTS):
        if finish(project) == 0:
            break
        found.refused += 1
    content = crash.content(project)
    names = sorted(content.keys() | bench.expected.keys())
    wrong = [name for name in names if content.get(name) != bench.expected.get(name)]
    found.differences += [f"store {found.stores}: {name}" for name in wrong]
    found.problems += map(str, verify(project / STORE).problems)
    found.twice += len(crash.computed_twice(project))
    found.stores += 1
    if not wrong:
        shutil.rmtree(project)


def run_and_kill(bench: Bench, project: Path, found: Found, *, on_ray: bool) -> int:
    """Runs the command, kills at random moments until its driver is dead; gives its status."""
    process = crash.start(order(project, on_ray))
    kinds = ("driver", "worker", "driver and workers") if on_ray else ("process",)
    killed = ""
    while not killed or killed == "worker":
        wait(bench, project, process, on_ray)
        if not process.is_alive():
            break
        killed = bench.chance.choice(kinds)
        workers = crash.owners(project) if "worker" in killed else []
        if killed != "worker":
            process.kill()
        for pid in workers[: 1 if killed == "worker" else None]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if killed == "worker" and workers:
            found.kills["one worker on Ray"] += 1
            found.allowed += 1
    status = crash.end(process)
    if status == -signal.SIGKILL:
        found.kills["process without Ray" if not on_ray else f"{killed} on Ray"] += 1
        found.allowed += WORKERS if on_ray else 1
    found.refused += status > 0
    return status


def wait(bench: Bench, project: Path, process: BaseProcess, on_ray: bool) -> None:
    """Lets a random time pass."""
    seconds = bench.lasts[on_ray]
    if on_ray and bench.chance.random() < WHEN_TEACHING:
        while process.is_alive() and not crash.owners(project):
            time.sleep(0.01)
        seconds = bench.lasts[False] / WORKERS
    time.sleep(bench.chance.uniform(0, seconds))


def finish(project: Path) -> int:
    """Runs the command to its end, as if it were long after the last kill."""
    for path in project.rglob(".*.tmp"):
        os.utime(path, (1, 1))  # a young one may be another process's, and stays
    return crash.end(crash.start(order(project, on_ray=False)))


def summary(found: Found, bench: Bench, seconds: float) -> dict[str, object]:
    """What is printed."""
    return {
        "kills": {**dict(sorted(found.kills.items())), "all": sum(found.kills.values())},
        "stores": found.stores,
        "shards_of_a_store": PHOTOS // SHARD_ROWS,
        "shards_computed_twice": found.twice,
        "at_most": found.allowed,
        "runs_refused_and_started_again": found.refused,
        "files_that_differ": found.differences,
        "problems_of_verify": found.problems,
        "seconds_of_a_run": round(bench.lasts[False], 2),
        "seconds_of_a_run_on_ray": round(bench.lasts[True], 2),
        "seconds": round(seconds),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
