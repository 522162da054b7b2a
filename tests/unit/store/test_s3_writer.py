"""Writers of a store on S3: one a shard, whole or not at all, whatever breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.s3_photos import STORE, be_alone, write_shard
from tests.s3_server import Break, Server, place
from tests.unit.store.conftest import info_of, put, record_of

from kdpipe.errors import ClaimError, LostClaimError, StoreError
from kdpipe.store import claims, ledger, open_store, s3, s3_claims
from kdpipe.store.claims import Claim, tidy
from kdpipe.store.metadata import create_info, write_info
from kdpipe.store.verify import verify
from kdpipe.store.writer import open_writer

if TYPE_CHECKING:
    from kdpipe.store.s3 import S3Path

STEPS = 12
"""Requests of a shard: see its claim, claim, look at four names, renew, put four, its record."""


@pytest.mark.parametrize(("at", "how"), [(8, "before"), (9, "after"), (11, "after")])
def test_a_writer_that_loses_the_server_leaves_the_shard_unfinished_or_whole(
    at: int, how: Break, s3_store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_server(at, how, s3_store, monkeypatch)


@pytest.mark.slow
def test_a_writer_may_lose_the_server_at_any_step(
    s3_store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(STEPS):  # after one step the server is as before the next
        lose_the_server(at, "before", s3_store, monkeypatch)
        s3.remove([one.path for one in s3.listed(STORE)])
        create_info(STORE, info_of())


def lose_the_server(at: int, how: Break, s3_store: Server, patch: pytest.MonkeyPatch) -> None:
    """A writer whose requests break from one of them on, and what the next one makes of it."""
    s3_store.gate.breaks(range(at, 1000), how)

    with pytest.raises(StoreError, match="does not answer"):
        write_shard(0, note=1.0)

    s3_store.gate.mend()
    be_alone(patch)
    done = ledger.finished(STORE)
    assert done == ([0] if (at, how) == (STEPS - 1, "after") else [])
    assert verify(STORE, quick=True).problems == ()
    if not done:
        write_shard(0, note=2.0)
    assert verify(STORE).problems == ()
    assert open_store(STORE).known(0)


@pytest.mark.parametrize("at", [1, 9, 11])
def test_a_lost_answer_is_asked_for_again_and_our_own_write_is_no_one_elses(
    at: int, s3_store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    s3_store.gate.breaks(range(at, at + 1), "after")

    write_shard(0)

    assert ledger.finished(STORE) == [0]
    assert len(s3_store.gate.asked) > STEPS


def test_the_second_of_two_writers_is_told_who_the_first_is(s3_store: Server) -> None:
    first = Claim.take(STORE, 0, "first")

    with pytest.raises(ClaimError, match=r"held by process \d+ .*run first"):
        Claim.take(STORE, 0, "second")

    first.release()
    Claim.take(STORE, 0, "second").release()
    assert ledger.finished(STORE) == []


def test_of_two_who_claim_at_once_one_does(
    s3_store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = s3_claims._read

    def look_and_sleep(path: S3Path) -> None:
        monkeypatch.setattr(s3_claims, "_read", look)
        Claim.take(STORE, 0, "faster")

    monkeypatch.setattr(s3_claims, "_read", look_and_sleep)

    with pytest.raises(ClaimError, match="by another process just now"):
        Claim.take(STORE, 0, "slower")


@pytest.mark.parametrize("when", ["before its data", "between two arrays", "before its record"])
def test_a_writer_that_slept_through_its_lease_finishes_and_spoils_nothing(
    when: str, s3_store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, puts, info = s3.write, [0], info_of()
    wakes = {"before its data": 1, "between two arrays": 3, "before its record": 5}[when]

    def sleep(path: S3Path, content: object, *, over: str | None) -> str | None:
        puts[0] += 1
        if puts[0] - 1 == wakes:
            monkeypatch.setattr(s3, "write", real)
            be_alone(monkeypatch)
            write_shard(0, note=1.0)
        return real(path, content, over=over)  # type: ignore[arg-type]

    slow = Claim.take(STORE, 0, "slow")
    with open_writer(info, slow) as writer:
        put(writer, 0)  # other bytes than its successor's
        monkeypatch.setattr(s3, "write", sleep)
        with pytest.raises(ClaimError, match=r"took it over|by another process"):
            writer.commit(record_of(info, 0, note=2.0))
    slow.release()

    record = ledger.read_record(STORE, 0)
    assert record is not None
    assert record.environment["seconds"] == 1.0
    assert verify(STORE).problems == ()


def test_a_lease_that_ran_out_is_noticed_by_its_owner_and_broken_by_others(
    s3_store: Server,
) -> None:
    slow = Claim.take(STORE, 0, "slow", lease=-1.0)

    other = Claim.take(STORE, 0, "other")

    with pytest.raises(LostClaimError, match="this process slept"):
        slow.hold()
    slow.release()
    other.hold()
    with pytest.raises(ClaimError, match="run other"):
        Claim.take(STORE, 0, "third")


def test_a_claim_is_renewed_while_its_owner_works(
    s3_store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Claim.take(STORE, 0, "test", lease=10_000.0)
    s3_store.gate.mend()
    claim.hold()
    assert s3_store.gate.asked == []

    now = claims.awake()
    monkeypatch.setattr(claims, "awake", lambda: now + 5_000)
    claim.hold()

    assert [one.split()[0] for one in s3_store.gate.asked] == ["PUT"]


def test_a_grown_tail_stays_readable_until_its_longer_self_is_there(s3_store: Server) -> None:
    write_shard(2)
    write_info(STORE, info_of(12))
    claim = Claim.take(STORE, 2, "test")

    assert open_store(STORE).known(9)
    claim.release()
    assert ledger.finished(STORE) == [2]
    write_shard(2, rows=12)

    assert open_store(STORE).known(11)
    assert verify(STORE).problems == ()


def test_dead_workers_claims_are_given_back(s3_store: Server) -> None:
    write_shard(1)
    Claim.take(STORE, 0, "run")
    Claim.take(STORE, 1, "run")
    Claim.take(STORE, 2, "another run")

    tidy(STORE, "run")

    assert ledger.finished(STORE) == [1]
    Claim.take(STORE, 0, "next")
    Claim.take(STORE, 1, "next")
    with pytest.raises(ClaimError, match="another run"):
        Claim.take(STORE, 2, "next")


def test_a_server_without_conditional_writes_is_refused(
    s3_store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_checked", set())
    s3_store.gate.forgets_conditions = True

    with pytest.raises(StoreError, match="ignores conditional writes"):
        s3.check_conditions(place("elsewhere"))

    assert list(s3.listed(place("elsewhere"))) == []
