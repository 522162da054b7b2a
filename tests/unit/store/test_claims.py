"""One process writes a shard: the second is refused, the dead and the sleeping lose their claim."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from kdpipe.errors import ClaimError
from kdpipe.store import claims, layout
from kdpipe.store.claims import Claim, tidy
from kdpipe.store.disk import as_json, read_json

HOLD = """
import sys, time
from pathlib import Path
from kdpipe.store.claims import Claim
claim = Claim.take(Path(sys.argv[1]), 3, "other", lease=float(sys.argv[2]))
print("held", flush=True)
time.sleep(600)
"""


def hold_elsewhere(store: Path, lease: float = 600) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store), str(lease)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def test_of_many_who_try_at_once_one_gets_the_claim(tmp_path: Path) -> None:
    def attempt(_: int) -> bool:
        try:
            Claim.take(tmp_path, 3, "run")
        except ClaimError:
            return False
        return True

    with ThreadPool(8) as threads:
        won = threads.map(attempt, range(40))

    assert won.count(True) == 1


def test_a_second_process_is_told_who_holds_the_shard(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path)

    with pytest.raises(ClaimError, match=rf"held by process {other.pid} on .*run other"):
        Claim.take(tmp_path, 3, "mine")
    Claim.take(tmp_path, 4, "mine").release()

    other.kill()
    other.wait()


def test_the_claim_of_a_killed_process_is_broken_at_once(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait()

    claim = Claim.take(tmp_path, 3, "mine")

    claim.hold()
    claim.release()
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_process_that_slept_through_its_lease_loses_the_shard(tmp_path: Path) -> None:
    sleeper = Claim.take(tmp_path, 3, "sleeper", lease=0.05)
    time.sleep(0.1)

    with pytest.raises(ClaimError, match="slept"):
        sleeper.hold()
    Claim.take(tmp_path, 3, "successor")
    with pytest.raises(ClaimError):
        sleeper.hold()


def test_an_owner_notices_a_successor_and_leaves_it_its_claim(tmp_path: Path) -> None:
    first = Claim.take(tmp_path, 3, "first", lease=100)
    os.utime(first.path, (1, 1))  # as if it had not been renewed for long, seen from elsewhere
    second = Claim.take(tmp_path, 3, "second")

    with pytest.raises(ClaimError, match="took it over"):
        first.hold()
    first.release()
    second.hold()


def test_holding_renews_the_lease(tmp_path: Path) -> None:
    claim = Claim.take(tmp_path, 3, "mine", lease=100)
    os.utime(claim.path, (1, 1))

    claim.hold()

    assert time.time() - claim.path.stat().st_mtime < 50


def test_a_claim_of_another_machine_is_respected_until_its_lease_is_over(tmp_path: Path) -> None:
    mine = Claim.take(tmp_path, 3, "other", lease=100)
    away = replace(mine.owner, host="elsewhere/1", pid=1)
    mine.path.write_bytes(as_json({name: getattr(away, name) for name in away.__slots__}))

    with pytest.raises(ClaimError, match="on elsewhere"):
        Claim.take(tmp_path, 3, "mine")
    os.utime(mine.path, (time.time() - 101,) * 2)
    Claim.take(tmp_path, 3, "mine").hold()


def test_after_a_restart_of_the_machine_old_claims_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Claim.take(tmp_path, 3, "before")
    monkeypatch.setattr(claims, "_boot", lambda: "another boot")

    Claim.take(tmp_path, 3, "after").hold()


def test_an_unreadable_claim_is_respected_until_its_lease_is_over(tmp_path: Path) -> None:
    path = layout.claim_path(tmp_path, 3, 1)
    path.parent.mkdir()
    path.write_text("{")

    with pytest.raises(ClaimError, match="unreadable claim"):
        Claim.take(tmp_path, 3, "mine")
    os.utime(path, (1, 1))
    Claim.take(tmp_path, 3, "mine").hold()


def test_what_is_no_claim_is_let_be_and_a_folder_is_an_unreadable_one(tmp_path: Path) -> None:
    folder = layout.claim_path(tmp_path, 3, 1)
    folder.mkdir(parents=True)
    names = ("notes.json", "0000004.json", "0000004.a.json", "4.1.json", "²²²²²²².1.json")
    for name in names:
        (folder.parent / name).write_text("{}")

    with pytest.raises(ClaimError, match=r"shard 3 .* unreadable claim"):
        claims.refuse_living(tmp_path)
    with pytest.raises(ClaimError, match="unreadable claim"):
        Claim.take(tmp_path, 3, "mine")
    Claim.take(tmp_path, 4, "mine")
    tidy(tmp_path, "mine")
    claims.give_back(tmp_path, 4, "mine")

    assert {one.name for one in folder.parent.iterdir()} == {folder.name, *names}


REFUSING = """
import ctypes, json, platform, struct, sys
from pathlib import Path
from kdpipe.errors import StoreError
from kdpipe.store.claims import Claim
from kdpipe.store.disk import create_exclusively
calls = json.loads(sys.argv[2])[platform.machine()]
refuse = [(0x15, 0, 1, one) for one in calls]  # BPF: is it this call? else the one after the next
steps = [(0x20, 0, 0, 0)]
for step in refuse:
    steps += [step, (0x06, 0, 0, 0x00050001)]  # SECCOMP_RET_ERRNO, EPERM, as FAT says
steps.append((0x06, 0, 0, 0x7FFF0000))
code = b"".join(struct.pack("HBBI", *step) for step in steps)
kept = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(kept))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
try:
    claim = Claim.take(Path(sys.argv[1]), 3, "mine")
    claim.hold()
    print(create_exclusively(claim.path, b"theirs"), claim.path.read_bytes() != b"theirs")
except StoreError as error:
    print(error)
"""
LINKS = {"x86_64": [86, 265], "aarch64": [37]}
LINKS_AND_RENAMES = {"x86_64": [86, 265, 316], "aarch64": [37, 276]}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel is told to refuse")
@pytest.mark.parametrize(
    ("refused", "said", "left"),
    [
        pytest.param(LINKS, "False True", ["0000003.1.json"], id="renamed-without-replacing"),
        pytest.param(LINKS_AND_RENAMES, "cannot be linked (Operation not permitted)", [], id="no"),
    ],
)
def test_a_disk_without_hard_links_is_exclusive_all_the_same_or_one_line(
    refused: dict[str, list[int]], said: str, left: list[str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", REFUSING, str(tmp_path), json.dumps(refused)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert said in done.stdout
    assert [one.name for one in (tmp_path / "claims").iterdir()] == left


def test_a_clock_that_was_set_back_gives_a_living_claim_one_more_lease(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path, lease=50)
    path = layout.claim_path(tmp_path, 3, 1)
    ahead = time.time() + 3600  # renewed an hour before the clock was set back by two
    os.utime(path, (ahead, ahead))

    with pytest.raises(ClaimError, match=rf"held by process {other.pid}"):
        Claim.take(tmp_path, 3, "mine")
    left = path.stat().st_mtime - time.time()
    os.utime(path, (time.time() - 51,) * 2)
    Claim.take(tmp_path, 3, "mine").hold()

    assert -600 < left <= 0
    other.kill()
    other.wait()


def test_a_clock_that_was_set_back_does_not_keep_the_claim_of_the_dead(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path)
    ahead = time.time() + 3600
    os.utime(layout.claim_path(tmp_path, 3, 1), (ahead, ahead))
    other.kill()
    other.wait()

    Claim.take(tmp_path, 3, "mine").hold()


def test_an_owner_does_not_care_for_the_clock(tmp_path: Path) -> None:
    claim = Claim.take(tmp_path, 3, "mine", lease=100)

    for hours in (-48, 48):
        moment = time.time() + 3600 * hours
        os.utime(claim.path, (moment, moment))
        claim.hold()

    assert abs(time.time() - claim.path.stat().st_mtime) < 50


def test_giving_back_takes_along_what_dead_owners_left(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path)
    token = str(read_json(layout.claim_path(tmp_path, 3, 1))["token"])
    layout.work_dir(tmp_path, 3, token).mkdir(parents=True)
    other.kill()
    other.wait()

    Claim.take(tmp_path, 3, "mine").release()

    assert list((tmp_path / "claims").iterdir()) == []
    assert list((tmp_path / "work").iterdir()) == []


def test_tidying_gives_back_a_runs_own_claims_and_those_of_the_dead_on_finished_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Claim.take(tmp_path, 1, "mine")
    Claim.take(tmp_path, 2, "other")
    for shard in (2, 3, 4):
        layout.record_path(tmp_path, shard).parent.mkdir(exist_ok=True)
        layout.record_path(tmp_path, shard).touch()
    with monkeypatch.context() as patch:
        patch.setattr(claims, "_boot", lambda: "before the machine was started again")
        Claim.take(tmp_path, 3, "dead, finished")
        Claim.take(tmp_path, 5, "dead, unfinished")

    tidy(tmp_path, "mine")

    left = sorted(one.name for one in (tmp_path / "claims").iterdir())
    assert left == ["0000002.1.json", "0000005.1.json"]


@pytest.mark.parametrize(
    "name", ["claims/.a.tmp", "ledger/.a.tmp", ".zarr.json.1.tmp", "bins/codes/.zarr.json.1.tmp"]
)
def test_tidying_removes_what_was_half_written_long_ago(name: str, tmp_path: Path) -> None:
    store = tmp_path / "toy.zarr"
    old, new = store / name, (store / name).with_suffix(".new.tmp")
    beside, others = tmp_path / ".toy.json.1.tmp", tmp_path / ".other.json.1.tmp"
    for path in (old, new, beside, others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1, 1) if path != new else None)

    tidy(store, "mine")

    assert [path.exists() for path in (old, new, beside, others)] == [False, True, False, True]
