"""Kill `kdpipe teach` at any step: its store ends as if nothing had happened.

"As if nothing had happened": every byte of every file is that of an uninterrupted run, of the
ledger all but its environment; nothing else is left over; at most one shard a worker was begun
again. Which steps there are is no list of ours: see tests/crash.py.
"""

from __future__ import annotations

import random
import re
import signal
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
from tests import crash
from tests.crash import SHARD_ROWS, Order
from tests.crash_cases import AT_ONCE, PHOTOS, STEPS, Cases, goes_on, unlike


def dies_and_goes_on(cases: Cases, case: str, **order: object) -> None:
    """Kills a run at a step, then lets it go on."""
    project = cases.copy(case)

    killed = crash.start(Order(folder=project, **order))  # type: ignore[arg-type]

    assert crash.end(killed) == -signal.SIGKILL
    goes_on(project, cases.expected, after=crash.steps_of(project, killed)[-1])


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
def test_killed_at_a_step_it_ends_as_if_nothing_had_happened(step: str, cases: Cases) -> None:
    dies_and_goes_on(cases, "new", steps=(step,))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["new", "grown", "torn"])
def test_killed_at_each_step_there_is_it_ends_as_if_nothing_had_happened(
    case: str, cases: Cases
) -> None:
    steps = cases.steps(case)
    numbers = unlike(steps) if case == "new" else range(1, len(steps) + 1)
    if case == "torn":  # from where it looks at its first image it goes on like `new`
        numbers = range(1, 1 + next(at for at, one in enumerate(steps) if one.startswith("look")))

    with ThreadPool(AT_ONCE) as threads:
        threads.map(lambda at: dies_and_goes_on(cases, case, at=at), numbers)

    missing = [name for name, one in STEPS.items() if not any(re.search(one, s) for s in steps)]
    assert case != "new" or missing == []


@pytest.mark.slow
def test_killed_at_thirty_random_moments_it_ends_as_if_nothing_had_happened(cases: Cases) -> None:
    chance, kills, began = random.Random(0), 0, time.monotonic()
    whole = cases.copy("new")
    crash.end(crash.start(Order(folder=whole, seconds=0.01)))
    seconds = time.monotonic() - began

    while kills < 30:
        project, here = cases.copy("new"), 0
        for _ in range(chance.randint(1, 4)):
            process = crash.start(Order(folder=project, seconds=0.01))
            time.sleep(chance.uniform(0, seconds))
            process.kill()
            here += crash.end(process) == -signal.SIGKILL
        kills += here
        if not here:  # it was measured while the machine was busy
            seconds /= 2
        goes_on(project, cases.expected, after=f"kill {kills}", kills=here)


def is_record(path: Path) -> bool:
    """Whether a shard counts by it."""
    return path.parent.name == "ledger" and path.suffix == ".json"


def test_nothing_gets_its_final_name_before_its_bytes_are_flushed(cases: Cases) -> None:
    flushed: set[str] = set()
    linked: list[Path] = []

    for step in cases.steps("new"):
        kind, _, rest = step.partition(" ")
        source, _, target = (Path(one) for one in rest.partition(" -> "))
        if kind == "flush":
            flushed.add(ending(source))
        elif kind in ("os.link", "os.rename") and not target.name.startswith("gone."):
            assert ending(source) in flushed, step
            if is_record(target):
                assert {int(one.name.split(".")[1]) for one in linked[-4:]} == {int(target.stem)}
                assert all(ending(one.parent) in flushed for one in linked[-4:]), step
            flushed.discard(ending(target.parent))  # its folder has to be flushed anew
            linked.append(target)

    assert len([one for one in linked if is_record(one)]) == PHOTOS // SHARD_ROWS
    assert all(ending(one.parent) in flushed for one in linked)


def ending(path: Path) -> str:
    """What tells a path from others of the same store, whichever folder it is relative to."""
    return str(Path(*path.parts[-3:]))
