"""What happens to a shard that fails."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kdpipe.errors import ClaimError, StoreError
from kdpipe.teaching.tally import MAX_ATTEMPTS, Failed, Tally, raise_what_failed
from kdpipe.teaching.worker import Taught

TAUGHT = Taught(
    shard=0, worker="here:1", images=8, bad={}, bytes=1, seconds=1.0, forward_seconds=1.0
)


def drain(tally: Tally, failures: dict[int, Failed]) -> list[int]:
    """Runs to the end; gives the order in which shards were tried."""
    tried = []
    while (shard := tally.next()) is not None:
        tried.append(shard)
        tally.note(failures.get(shard, TAUGHT))
    return tried


def test_a_failing_shard_is_tried_a_few_times_after_the_others_and_then_reported() -> None:
    tally = Tally(queue=deque([0, 1, 2]))

    tried = drain(tally, {1: Failed(shard=1, message="died")})

    assert tried == [0, 1, 2] + [1] * (MAX_ATTEMPTS - 1)
    with pytest.raises(StoreError, match=r"^1 shard not taught: died \(2 of 3 shards were taught"):
        raise_what_failed(tally, 3)


def test_a_held_shard_is_tried_once_more_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    now = iter([100.0, 101.0])  # it is seen to be held, and its turn comes again
    clock = SimpleNamespace(sleep=slept.append, monotonic=lambda: next(now))
    monkeypatch.setattr("kdpipe.teaching.tally.time", clock)
    tally = Tally(queue=deque([0, 1, 2]))

    tried = drain(tally, {0: Failed(shard=0, message="held by X", is_held=True)})

    assert tried == [0, 1, 2, 0]
    assert slept == [2.0]
    with pytest.raises(ClaimError, match="held by X"):
        raise_what_failed(tally, 3)


def test_whoever_lost_a_claim_says_so_though_it_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally = Tally(queue=deque([0, 1]))
    tally.note(Failed(shard=0, message="held", is_held=True))
    assert caplog.messages == []

    tally.note(Failed(shard=1, message="slept 700 s", is_held=True, is_lost=True))

    assert caplog.messages == ["slept 700 s"]
    assert list(tally.queue) == [0, 1, 0, 1]


def test_a_shard_is_finished_once_it_was_taught_and_not_before() -> None:
    tally = Tally(queue=deque([0]))
    tally.note(Failed(shard=0, message="the worker died"))
    assert not tally.has(0)

    tally.note(TAUGHT)
    assert tally.has(0)


def test_a_shard_that_stays_as_it_was_is_tried_once_and_the_others_go_on() -> None:
    tally = Tally(queue=deque([0, 1, 2]))

    tried = drain(tally, {1: Failed(shard=1, message="stays", is_kept=True)})

    assert tried == [0, 1, 2]
    with pytest.raises(StoreError, match=r"^1 shard not taught: stays \(2 of 3"):
        raise_what_failed(tally, 3)


def test_a_full_disk_ends_the_run() -> None:
    tally = Tally(queue=deque([0, 1, 2]))

    tried = drain(tally, {1: Failed(shard=1, message="disk full", is_final=True)})

    assert tried == [0, 1]
    with pytest.raises(StoreError, match=r"disk full \(1 of 3"):
        raise_what_failed(tally, 3)


def test_nothing_is_raised_where_all_went_well() -> None:
    tally = Tally(queue=deque([0, 1]))

    drain(tally, {})

    raise_what_failed(tally, 2)
    assert len(tally.taught) == 2


def test_each_worker_has_its_speed_and_what_others_taught_does_not_count() -> None:
    tally = Tally(queue=deque())
    for one in (
        replace(TAUGHT, seconds=2.0),
        replace(TAUGHT, shard=1, images=4),
        replace(TAUGHT, shard=2, worker="there:2", seconds=4.0),
        replace(TAUGHT, shard=3, worker="there:2", is_new=False, seconds=0.0),
    ):
        tally.note(one)

    assert tally.speeds() == {"here:1": 4.0, "there:2": 2.0}
