"""`kdpipe teach` without room, or the right to write: one line; with it, it goes on."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests import crash, volumes
from tests.crash import SHARD_ROWS, STORE, Order
from tests.crash_cases import STEPS, Cases, goes_on


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_worker_holds_two_images_of_raw_output_and_three_of_codes_at_most(cases: Cases) -> None:
    (cases.folder / "volumes").mkdir()
    project = crash.make_project(cases.folder / "volumes", SHARD_ROWS)
    codes = math.prod(volumes.VOLUME)

    grown = volumes.memory_of_volumes(project)

    # The codes, the same in the order of the file, and what zstd takes for the worst case.
    assert 4 * codes < grown <= (2 * 4 + 3) * codes, grown / codes


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
            assert re.search(r"the disk is full|No space left|[GM]B free", line), (option, one)
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
