"""`kdpipe teach` on Ray: workers and nodes die, come and go; the store ends the same."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests import crash
from tests.crash import SHARD_ROWS, STORE, Order
from tests.toy_teacher import TEACHER, make_photos

from kdpipe import teachers
from kdpipe.cards import load_teacher_card
from kdpipe.rows import make_rows, write_rows
from kdpipe.store import layout, ledger
from kdpipe.store.disk import as_json
from kdpipe.store.verify import verify
from kdpipe.teaching.temporary import end_all

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILLED_ONCE = [r"tear .*work/0000001\.[^/]*/depth", r"remove .*claims/0000004\.1\.json"]
"""In the middle of a shard, and just after one; the other steps are the same in any process."""

DEADLY, RAISING, SHARDS = 5, 6, 8


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A data set in `new`, and in `whole` also what an uninterrupted process made of it."""
    with pytest.MonkeyPatch.context() as patch, crash.scratch() as folder:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        (folder / "new").mkdir()
        crash.make_project(folder / "new", SHARD_ROWS * SHARDS)
        assert crash.run(shutil.copytree(folder / "new", folder / "whole")) == 0
        yield folder


@pytest.fixture
def project(folder: Path, tmp_path: Path) -> Iterator[Path]:
    yield shutil.copytree(folder / "new", folder / tmp_path.name)
    shutil.rmtree(folder / tmp_path.name)


def twice(project: Path) -> Counter[int]:
    """Shard -> how often it was begun again."""
    return Counter(crash.computed_twice(project))


def wait_for(done: Callable[[], object], process: BaseProcess, project: Path) -> None:
    """Waits while the process lives."""
    until = time.monotonic() + 300
    while not done():
        assert process.is_alive(), crash.said_by(project, process)
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_dead_worker_costs_its_shard_once_more_and_one_that_always_dies_is_reported(
    folder: Path, project: Path
) -> None:
    order = Order(
        folder=project,
        arguments=("--workers", "2"),
        steps=tuple(KILLED_ONCE),
        deadly=(f"look {DEADLY * SHARD_ROWS}$",),  # as the kernel does where memory runs out
        fails_on=RAISING * SHARD_ROWS + 3,
    )

    driver = crash.start(order)
    status = crash.end(driver)

    assert status == 1
    *failed, said = crash.said_by(project, driver)
    assert all(re.match(r"kdpipe: shard [156] failed, attempt \d of 3: ", one) for one in failed)
    assert re.search(r"2 shards not taught: its worker died .*--batch-size.*\(6 of 8 shards", said)
    died = [bytes.fromhex(one.name[7:]).decode() for one in project.glob("signal-*")]
    assert sorted(died) == sorted(KILLED_ONCE)
    assert ledger.finished(project / STORE) == [0, 1, 2, 3, 4, 7]
    again = twice(project)
    assert (again.pop(DEADLY, 0), again.pop(RAISING)) == (0, 2)  # it dies before it notes a look
    assert again == {1: 1}
    assert crash.claimed(project) == []
    assert crash.run(project) == 0
    assert crash.content(project) == crash.content(folder / "whole")


def test_nodes_join_and_leave_a_running_cluster(
    folder: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    order = Order(folder=project, is_far=True)
    for name, value in order.for_actors().items():
        monkeypatch.setenv(name, value)
    settings = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    cluster: Any = Cluster()

    def add(**arguments: object) -> tuple[Any, str]:
        """A node for one worker, and the machine that its processes say they are of."""
        node = cluster.add_node(
            num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False, **arguments
        )
        (raylet,) = node.all_processes["raylet"]
        return node, f"node {raylet.process.pid}"

    def hosts() -> list[str]:
        return sorted(one.host for one in crash.claimed(project))

    try:
        _, first = add(_system_config=settings)
        arguments = ("--workers", "2", "--ray-address", cluster.address)
        (project / crash.HOLD).touch()
        driver = crash.start(Order(folder=project, arguments=arguments, is_far=True))
        wait_for(lambda: hosts() == [first], driver, project)
        node, second = add()
        wait_for(lambda: hosts() == sorted([first, second]), driver, project)
        (raylet,) = node.all_processes["raylet"]
        wait_for(lambda: len(looks(project)) == 2 * SHARD_ROWS, driver, project)
        raylet.process.kill()
        wait_for(lambda: hosts() == [first], driver, project)
        _, third = add()
        wait_for(lambda: hosts() == sorted([first, third]), driver, project)
        (project / crash.HOLD).unlink()
        status = crash.end(driver)
    finally:
        cluster.shutdown()

    assert status == 0, crash.said_by(project, driver)
    assert re.search(r"\(2 workers, .* each\)", (project / f"said-{driver.pid}").read_text())
    assert crash.computed_twice(project) == [1]
    assert crash.content(project) == crash.content(folder / "whole")


def looks(project: Path) -> list[str]:
    """Rows that were looked at."""
    path = project / "looks"
    return path.read_text().splitlines() if path.exists() else []


def test_a_killed_driver_with_and_without_its_workers_goes_on(folder: Path, project: Path) -> None:
    order = Order(folder=project, arguments=("--workers", "2"), seconds=0.1, patience=None)
    pids: list[int | None] = []

    for also_workers in (False, True):
        others = set(crash.owners(project))  # those of a killed driver are still at their shards
        driver = crash.start(order)
        wait_for(lambda: set(crash.owners(project)) - others, driver, project)  # noqa: B023
        wait_for(lambda: len(ledger.finished(project / STORE)) > len(pids), driver, project)
        driver.kill()
        for pid in crash.owners(project) if also_workers else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert crash.end(driver) == -signal.SIGKILL
        pids.append(driver.pid)
    first, second = (list(Path(tempfile.gettempdir()).glob(f"kdpipe-*-{p}-*")) for p in pids)
    for left in second:  # as the next one on Ray would begin
        end_all(left)
    assert crash.run(project) == 0

    assert first == []
    assert len(crash.computed_twice(project)) <= 2 * len(pids)
    assert crash.content(project) == crash.content(folder / "whole")


def make_network() -> None:
    """A card and weights of an AdaBins so small that Ray's start is what takes the time."""
    card = json.loads(json.dumps(load_teacher_card(TEACHER).network))
    small = {**card, "features": 32, "embedding": 16, "patch": 4, "queries": 8, "bins": 8}
    folder = Path("manifests/teachers")
    folder.mkdir(parents=True)
    values = {
        "name": TEACHER,
        "family": "adabins",
        "network": {**small, "hidden_bins": 16, "feed_forward": 16},
        "bins": "companded",
    }
    (folder / f"{TEACHER}.yaml").write_bytes(as_json(values))  # JSON is YAML
    torch.manual_seed(0)
    network = teachers.build_network(load_teacher_card(TEACHER))
    torch.save(network.state_dict(), "toy.pt")


def make_endless_photos() -> None:
    """More images than are taught before anybody looks, few of them different."""
    rows = make_photos(8, sizes=((64, 64),))
    again = [replace(rows[n % 8], id=f"{n:05d}") for n in range(20_000)]
    write_rows(layout.rows_path("photos"), make_rows(rows.card, rows.root, again))


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ray_processes() -> list[str]:
    """Living processes of Ray that no living driver has started: their parents are gone."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            state, parent = rest.split()[:2]
            if state != "Z" and parent == "1" and ("(ray" in name or "(gcs_server" in name):
                found.append(name)
    return found


def test_an_interrupt_stops_every_worker_and_gives_its_claims_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_endless_photos()
    make_network()
    command = [sys.executable, "-c", "from kdpipe_stages.cli import main; main()", "teach"]
    command += ["--teacher", TEACHER, "--data", "photos", "--checkpoint", "toy.pt"]

    before = ray_processes()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (ledger.finished(STORE) and crash.owners(folder)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    workers = crash.owners(folder)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=300)

    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert process.pid not in workers
    assert not any(map(is_alive, workers))
    assert set(ray_processes()) <= set(before)
    assert crash.claimed(folder) == []
    assert verify(STORE).problems == ()
