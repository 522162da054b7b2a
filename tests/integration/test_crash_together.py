"""Several `kdpipe teach` of one store, one of which may sleep: none spoils what another wrote."""

from __future__ import annotations

import os
import re
import shutil
import signal
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
from tests import crash
from tests.crash import STORE, Order
from tests.crash_cases import AT_ONCE, STEPS, Cases, unlike

from kdpipe.store import ledger
from kdpipe.store.claims import LEASE_SECONDS
from kdpipe.store.verify import verify


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
    order = Order(folder=project, steps=("look 8",), signal=signal.SIGSTOP, slept=LEASE_SECONDS)

    sleeper = crash.start(order)
    crash.wait_until_stopped(sleeper)
    (claim,) = (project / STORE).glob("claims/*.json")
    renewed = claim.stat().st_mtime - LEASE_SECONDS
    os.utime(claim, (renewed, renewed))
    status = crash.run(project)
    os.kill(sleeper.pid or 0, signal.SIGCONT)

    assert (status, crash.end(sleeper)) == (0, 0)
    (said,) = crash.said_by(project, sleeper)
    assert re.search(r"this process slept \d+ s, its lease is 600 s", said)
    assert crash.content(project) == cases.expected
    assert crash.computed_twice(project) == [1]
