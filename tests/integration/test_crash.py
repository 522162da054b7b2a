"""Kill, stop or starve `kdpipe teach` at any step: its store ends as if nothing had happened.

"As if nothing had happened": every byte of every file is that of an uninterrupted run, of the
ledger all but its environment; nothing else is left over; at most one shard a worker was begun
again. Which steps there are is no list of ours: see tests/crash.py.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
from tests import crash, volumes
from tests.crash import SHARD_ROWS, STORE, Order

from kdpipe.store import ledger
from kdpipe.store.verify import verify

ROOT = Path(__file__).parents[2]
PHOTOS = 2 * SHARD_ROWS
AT_ONCE = 2
"""Kills of different stores that go on side by side."""

STEPS = {
    "before the store has its root": r"link .*\.zarr/\.zarr\.json",
    "before the claim": r"link .*claims/0000001",
    "during the claim": r"remove .*claims/\.0000001",
    "before data": r"look 8",
    "in the middle of data": r"tear .*work/0000001\.[^/]*/depth",
    "after data": r"link .*work/0000001\.[^/]*/depth",
    "between two arrays": r"link .*work/0000001\.[^/]*/bins\.codes",
    "in the middle of the record": r"tear .*work/0000001\.[^/]*/\.0000001\.json",
    "before the record": r"link .*ledger/0000001\.json",
    "after the record": r"remove .*work/0000001\.[^/]*/\.0000001\.json",
    "during the release": r"remove .*claims/0000001\.1\.json",
    "in the middle of the manifest": r"tear .*/\.adabins-small\.json",
    "before the manifest": r"rename .*/\.adabins-small\.json",
    "after the manifest": r"flush .*/stores/photos$",
}


@dataclass(frozen=True)
class Cases:
    """Working folders to begin in, and what each of them must end as."""

    folder: Path
    expected: dict[str, bytes | str]
    _numbers: Iterator[int] = field(default_factory=count)

    def copy(self, case: str) -> Path:
        """A fresh one.

        Args:
            case: `new`: no store. `grown`: one whose last shard is too short now. `torn`: one
                whose writer was killed between two arrays of a shard. `whole`: a finished one.
        """
        return shutil.copytree(self.folder / case, self.folder / str(next(self._numbers)))

    def steps(self, case: str) -> list[str]:
        """All steps from there to the end."""
        project = self.copy(case)
        process = crash.start(Order(folder=project))
        assert crash.end(process) == 0
        steps = crash.steps_of(project, process)
        shutil.rmtree(project)
        return steps


@pytest.fixture(scope="module")
def cases() -> Iterator[Cases]:
    with pytest.MonkeyPatch.context() as patch, crash.scratch() as folder:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        for name, photos in (("new", PHOTOS), ("torn", PHOTOS), ("grown", PHOTOS - 4)):
            (folder / name).mkdir()
            crash.make_project(folder / name, photos)
        assert crash.run(folder / "grown") == 0
        crash.make_project(folder / "grown", PHOTOS)
        torn = crash.start(Order(folder=folder / "torn", steps=(STEPS["between two arrays"],)))
        assert crash.end(torn) == -signal.SIGKILL
        for name in ("grown", "torn"):
            crash.forget_looks(folder / name)
        whole = shutil.copytree(folder / "new", folder / "whole")
        assert crash.run(whole) == 0
        assert verify(whole / STORE).problems == ()
        yield Cases(folder, crash.content(whole))


def goes_on(project: Path, expected: dict[str, bytes | str], after: str, kills: int = 1) -> None:
    """Runs the command once more and compares."""
    for path in project.rglob(".*.tmp"):
        os.utime(path, (1, 1))  # as if it were long ago: a young one may be another process's

    status = crash.run(project)

    assert status == 0, after
    assert crash.content(project) == expected, after
    assert len(crash.computed_twice(project)) <= kills, after
    shutil.rmtree(project)


def dies_and_goes_on(cases: Cases, case: str, **order: object) -> None:
    """Kills a run at a step, then lets it go on."""
    project = cases.copy(case)

    killed = crash.start(Order(folder=project, **order))  # type: ignore[arg-type]

    assert crash.end(killed) == -signal.SIGKILL
    goes_on(project, cases.expected, after=crash.steps_of(project, killed)[-1])


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
def test_killed_at_a_step_it_ends_as_if_nothing_had_happened(step: str, cases: Cases) -> None:
    dies_and_goes_on(cases, "new", steps=(step,))


def unlike(steps: list[str]) -> Sequence[int]:
    """Numbers of the steps but for those in which shard 1 is written, just as shard 0 was."""
    again = re.compile(r"/work/0000001\.|/c\.1\.")
    return [at for at, one in enumerate(steps, 1) if not again.search(one)]


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


def test_two_at_once_share_the_shards_and_compute_none_twice(cases: Cases) -> None:
    project = cases.copy("new")

    both = [crash.start(Order(folder=project, seconds=0.02)) for _ in range(2)]
    ends = [crash.end(one) for one in both]

    assert set(ends) <= {0, 1}
    assert 0 in ends
    for one, status in zip(both, ends, strict=True):
        said = crash.said_by(project, one)
        assert len(said) == status, said
        assert all("held by process" in line for line in said)
    assert crash.content(project) == cases.expected
    assert crash.computed_twice(project) == []


def of_range(project: Path, shards: str, **order: object) -> Order:
    """What a batch scheduler starts."""
    return Order(folder=project, arguments=(*crash.HERE, "--shards", shards), **order)  # type: ignore[arg-type]


def test_two_ranges_at_once_make_one_store_and_its_manifest(cases: Cases) -> None:
    project = cases.copy("new")

    both = [crash.start(of_range(project, one, seconds=0.02)) for one in ("0:1", "1:2")]
    ends = [crash.end(one) for one in both]

    assert ends == [0, 0]
    assert crash.content(project) == cases.expected
    assert crash.computed_twice(project) == []


def test_whoever_finds_a_store_unfinished_does_not_remove_the_manifest_of_who_finished_it(
    cases: Cases,
) -> None:
    project = cases.copy("new")
    assert crash.end(crash.start(of_range(project, "0:1"))) == 0
    step = rf"remove .*/{crash.MANIFEST.name}$"
    slow = crash.start(of_range(project, "0:1", steps=(step,), signal=signal.SIGSTOP))
    crash.wait_until_stopped(slow)

    last = crash.end(crash.start(of_range(project, "1:2")))
    before = crash.content(project)
    os.kill(slow.pid or 0, signal.SIGCONT)

    assert (last, crash.end(slow)) == (0, 0)
    assert before == cases.expected
    assert crash.content(project) == cases.expected


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_worker_holds_two_images_of_raw_output_and_three_of_codes_at_most(cases: Cases) -> None:
    (cases.folder / "volumes").mkdir()
    project = crash.make_project(cases.folder / "volumes", SHARD_ROWS)
    codes = math.prod(volumes.VOLUME)

    grown = volumes.memory_of_volumes(project)

    # The codes, the same in the order of the file, and what zstd takes for the worst case.
    assert 4 * codes < grown <= 2 * 4 * codes + 3 * codes


def ending(path: Path) -> str:
    """What tells a path from others of the same store, whichever folder it is relative to."""
    return str(Path(*path.parts[-3:]))


def sleeps_and_wakes(cases: Cases, **order: object) -> None:
    """Stops a run at a step, lets another finish the store, and wakes it up."""
    project = cases.copy("new")
    sleeper = crash.start(Order(folder=project, signal=signal.SIGSTOP, **order))  # type: ignore[arg-type]
    crash.wait_until_stopped(sleeper)
    step = crash.steps_of(project, sleeper)
    claims = list((project / STORE).glob("claims/*.json"))
    for path in claims:
        os.utime(path, (1, 1))  # as if its lease were over
    finished = [f"{shard:07d}" for shard in ledger.finished(project / STORE)]
    work = [one for one in (project / STORE).glob("work/*") if one.name[:7] not in finished]

    successor = crash.run(project)
    between = crash.content(project)
    for name in between.keys() - cases.expected.keys():
        if re.search(r"/claims/|/work/|\.tmp$", name):  # of the sleeper, who may be writing it
            del between[name]
    os.kill(sleeper.pid or 0, signal.SIGCONT)
    status = crash.end(sleeper)

    assert successor == 0, step[-1]
    assert between == cases.expected, step[-1]
    assert crash.content(project) == cases.expected, step[-1]
    assert status == 0, step[-1]
    said = crash.said_by(project, sleeper)
    assert [line for line in said if "took it over" in line] == said, step[-1]
    assert len(work) <= len(said) <= len(claims), step[-1]
    assert len(crash.computed_twice(project)) <= 1, step[-1]
    shutil.rmtree(project)


@pytest.mark.parametrize(
    "step", ["during the claim", "before data", "after data", "before the record"]
)
def test_whoever_slept_through_its_lease_says_so_and_changes_nothing(
    step: str, cases: Cases
) -> None:
    sleeps_and_wakes(cases, steps=(STEPS[step],))


@pytest.mark.slow
def test_whoever_slept_at_any_step_changes_nothing(cases: Cases) -> None:
    steps = cases.steps("new")
    # A signal that only stops leaves a file's bytes whole: `tear` is what the next `flush` is.
    numbers = [at for at in unlike(steps) if not steps[at - 1].startswith("tear ")]

    with ThreadPool(AT_ONCE) as threads:
        threads.map(lambda at: sleeps_and_wakes(cases, at=at), numbers)


@pytest.mark.parametrize(
    "step", [STEPS["before the store has its root"], r"open .*/depth/\.zarr\.json"]
)
def test_of_two_who_make_a_store_at_once_the_second_is_refused_what_differs(
    step: str, cases: Cases
) -> None:
    project = cases.copy("new")
    slow = crash.start(Order(folder=project, steps=(step,), signal=signal.SIGSTOP))
    crash.wait_until_stopped(slow)
    (project / "params.yaml").write_text("store: {max_relative_error: 0.01}")

    quick = crash.run(project)
    before = crash.content(project)
    os.kill(slow.pid or 0, signal.SIGCONT)
    status = crash.end(slow)

    assert (quick, status) == (0, 1)
    (said,) = crash.said_by(project, slow)
    assert "codecs.depth.max_relative_error is 0.01 in the store, expected 0.001" in said
    assert crash.content(project).items() <= before.items()
    assert verify(project / STORE).problems == ()


def test_a_lease_is_over_after_its_seconds(cases: Cases) -> None:
    project = cases.copy("new")
    order = Order(folder=project, steps=("look 8",), signal=signal.SIGSTOP, lease=2)

    sleeper = crash.start(order)
    crash.wait_until_stopped(sleeper)
    time.sleep(2)
    status = crash.run(project)
    os.kill(sleeper.pid or 0, signal.SIGCONT)

    assert (status, crash.end(sleeper)) == (0, 0)
    (said,) = crash.said_by(project, sleeper)
    assert re.search(r"this process slept \d+ s, its lease is 2 s", said)
    assert crash.content(project) == cases.expected
    assert crash.computed_twice(project) == [1]


def check_full_disks(cases: Cases, options: list[str]) -> None:
    """Lets disks of some sizes run full: that is one line; with room it goes on."""
    space = shutil.which("unshare")
    if space is None or subprocess.run([space, "-Urm", "true"], check=False).returncode:
        pytest.skip("no user namespaces here, so no small disk")
    parent = cases.folder / "small disks"
    projects = [shutil.copytree(cases.folder / "new", parent / option) for option in options]
    command = [space, "-Urm", sys.executable, "-m", "tests.crash", *map(str, projects)]

    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for option, project, one in zip(options, projects, found, strict=True):
        assert one["status"] == len(one["said"]), (option, one)
        for line in one["said"]:
            assert re.search(r"the disk is full|No space left|GB free", line), (option, one)
        assert one["again"] == 0, (option, one)
        assert crash.content(project) == cases.expected, (option, one)
    assert {one["status"] for one in found} == {0, 1}
    assert {one["finished"] for one in found} == {0, 1, 2}
    shutil.rmtree(parent)


@pytest.mark.slow
def test_on_a_full_disk_what_is_finished_stays_and_with_room_it_goes_on(cases: Cases) -> None:
    check_full_disks(cases, ["size=40k", "size=60k", "size=1m", "nr_inodes=20", "nr_inodes=30"])


@pytest.mark.slow
def test_the_disk_may_be_full_at_any_step(cases: Cases) -> None:
    sizes = [f"size={kib}k" for kib in range(4, 92, 8)]
    check_full_disks(cases, sizes + [f"nr_inodes={number}" for number in range(3, 37, 2)])


def permit(folder: Path, mode: int) -> None:
    """Gives a folder and all folders in it this mode."""
    for path in [folder, *(one for one in folder.rglob("*") if one.is_dir())]:
        path.chmod(mode)


def test_a_folder_that_may_not_be_written_is_one_line(cases: Cases) -> None:
    project = cases.copy("new")
    stores = project / STORE.parents[1]
    stores.mkdir()
    permit(stores, 0o555)

    refused = crash.start(Order(folder=project, is_powerless=True))
    status = crash.end(refused)
    permit(stores, 0o755)

    assert status == 1
    (said,) = crash.said_by(project, refused)
    assert "not permitted" in said
    goes_on(project, cases.expected, after="forbidden", kills=0)


def test_a_finished_store_that_may_not_be_written_needs_nothing(cases: Cases) -> None:
    project = cases.copy("whole")
    permit(project / STORE.parents[1], 0o555)

    process = crash.start(Order(folder=project, is_powerless=True))
    status = crash.end(process)
    permit(project / STORE.parents[1], 0o755)

    assert (status, crash.said_by(project, process)) == (0, [])
    assert crash.content(project) == cases.expected


@pytest.mark.parametrize(
    "step", ["before the claim", "before data", "after data", "after the record"]
)
def test_a_store_that_may_no_longer_be_written_is_one_line(step: str, cases: Cases) -> None:
    project = cases.copy("new")
    order = Order(folder=project, steps=(STEPS[step],), signal=signal.SIGSTOP, is_powerless=True)

    process = crash.start(order)
    crash.wait_until_stopped(process)
    permit(project / STORE.parents[1], 0o555)
    os.kill(process.pid or 0, signal.SIGCONT)
    status = crash.end(process)
    permit(project / STORE.parents[1], 0o755)

    assert status == 1
    (said,) = crash.said_by(project, process)
    assert re.search("not permitted|Permission denied", said)
    goes_on(project, cases.expected, after=step)
