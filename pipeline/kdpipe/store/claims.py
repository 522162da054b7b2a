"""Exclusive claims: one process writes a shard, whoever else tries is told who that is.

A claim is a file that exactly one process can create. A claim whose process is dead, or whose lease
ran out, is broken by creating the next generation of the same shard: again only one process can,
and the old owner finds out the next time it looks. A store on S3 has claims of another kind, see
s3_claims.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from kdpipe.errors import CardError, ClaimError, LostClaimError, StoreError
from kdpipe.store import layout
from kdpipe.store.disk import as_json, create_exclusively, disk_errors, read_json
from kdpipe.store.manifest import manifest_beside
from kdpipe.store.s3 import S3Path
from kdpipe.strict import build

_NAME = re.compile(r"([0-9]{7,})\.([0-9]+)\.json")

LEASE_SECONDS = 600.0
"""A claim that was not renewed for so long may be broken, also by another machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who holds a claim."""

    run: str
    """One command, whatever its number of processes."""

    token: str
    """One claim."""

    host: str
    boot: str
    """Changes when the machine starts again: its processes are gone then."""

    pid: int
    started: str
    """Tells a process from a later one of the same number."""

    lease: float
    """Seconds after the last renewal until others may break the claim."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition('/')[0]} (run {self.run})"

    @property
    def is_gone(self) -> bool:
        """Whether the process is surely dead; one on another machine is never surely dead."""
        if self.host != _host():
            return False
        return self.boot != _boot() or _started(self.pid) != self.started


def this_process(run: str, lease: float) -> Owner:
    """This process as the owner of a new claim."""
    return Owner(
        run=run,
        token=secrets.token_hex(8),
        host=_host(),
        boot=_boot(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        lease=lease,
    )


class Claim:
    """The right to write one shard, taken with `take` and proved with `hold`."""

    def __init__(self, store: Path, shard: int, generation: int, owner: Owner) -> None:
        self.store = store
        self.shard = shard
        self.owner = owner
        self._generation = generation
        self._renewed = awake()

    @property
    def path(self) -> Path:
        """The claim's own file."""
        return layout.claim_path(self.store, self.shard, self._generation)

    @classmethod
    def take(cls, store: Path, shard: int, run: str, lease: float = LEASE_SECONDS) -> Claim:
        """Claims a shard.

        Raises:
            ClaimError: a living process holds it; the message says which.
            StoreError: the disk refuses.
        """
        if isinstance(store, S3Path):
            from kdpipe.store.s3_claims import S3Claim  # which is a Claim

            return S3Claim.take_on_s3(store, shard, run, lease)
        generations = _generations(store, shard)
        if generations:
            _refuse_living(store, shard, generations[-1])
        generation = generations[-1] + 1 if generations else 1
        claim = cls(store, shard, generation, this_process(run, lease))
        with disk_errors(store):
            created = create_exclusively(claim.path, as_json(asdict(claim.owner)))
        if not created:
            raise ClaimError(f"shard {shard} of {store} was claimed by another process just now")
        return claim

    def hold(self) -> None:
        """Proves that the claim is still ours, and renews its lease.

        Raises:
            LostClaimError: the lease ran out, or another process took the shard over.
        """
        now = awake()
        if self._slept() > self.owner.lease or not self._is_ours():
            raise self.lost()
        with contextlib.suppress(FileNotFoundError):  # broken since: the next `hold` says so
            os.utime(self.path)
        self._renewed = now

    def lost(self) -> LostClaimError:
        """What to raise when the shard is not ours any more."""
        slept = self._slept()
        why = "another process took it over"
        if slept > self.owner.lease:
            why = f"this process slept {slept:.0f} s, its lease is {self.owner.lease:.0f} s"
        return LostClaimError(
            f"shard {self.shard} of {self.store}: {why}: this attempt wrote nothing; it is tried "
            "once more, or run the same command again"
        )

    def release(self) -> None:
        """Gives the shard back; does nothing where another process has taken it over.

        What the disk refuses stays: it is over with this process, or with its lease.
        """
        # An interrupt may come after the work folder was made and before its writer could clear it.
        shutil.rmtree(layout.work_dir(self.store, self.shard, self.owner.token), ignore_errors=True)
        if not self._is_ours():
            return
        for generation in _generations(self.store, self.shard):
            if generation <= self._generation:
                _give_back(layout.claim_path(self.store, self.shard, generation), self.shard)

    def _slept(self) -> float:
        return awake() - self._renewed

    def _is_ours(self) -> bool:
        newest = _generations(self.store, self.shard)[-1:]
        owner = _owner(self.path)
        return newest == [self._generation] and owner is not None and owner == self.owner


def tidy(store: Path, run: str) -> None:
    """Removes what a run's dead processes left, and what is of no use to anyone.

    Call it when all processes of the run are dead. Claims of dead processes on shards that are not
    finished stay: whoever claims such a shard breaks them, and clears its work.

    Args:
        store: to be tidied.
        run: whose claims are given back, finished or not.
    """
    if isinstance(store, S3Path):
        from kdpipe.store import s3_claims

        s3_claims.give_back(store, run)
        return
    for shard, _, path in sorted(_all(store)):
        owner = _owner(path)
        if owner is None:
            continue
        is_over = owner.is_gone and layout.record_path(store, shard).exists()
        if owner.run == run or is_over:
            _give_back(path, shard)
    for path in _half_written(store):
        with contextlib.suppress(OSError, StoreError):
            if _age(path) > LEASE_SECONDS:
                path.unlink()


def give_back(store: Path, shard: int, run: str) -> None:
    """Gives back the claim of a run's worker that died, perhaps on another machine.

    Should it live on, it finds its claim and its work folder gone, as one that slept does.
    """
    if isinstance(store, S3Path):
        from kdpipe.store import s3_claims

        s3_claims.give_back(store, run, {shard})
        return
    for generation in _generations(store, shard):
        path = layout.claim_path(store, shard, generation)
        owner = _owner(path)
        if owner is not None and owner.run == run:
            _give_back(path, shard)


def refuse_living(store: Path) -> None:
    """Refuses a store that somebody is writing.

    Raises:
        ClaimError: a claim is held by a living process; the message says which.
    """
    if isinstance(store, S3Path):
        from kdpipe.store import s3_claims

        s3_claims.refuse_living(store)
        return
    newest = {shard: generation for shard, generation, _ in sorted(_all(store))}
    for shard, generation in newest.items():
        _refuse_living(store, shard, generation)


def _refuse_living(store: Path, shard: int, generation: int) -> None:
    path = layout.claim_path(store, shard, generation)
    owner = _owner(path)
    if owner is not None and owner.is_gone:
        return
    try:
        age = _age(path)
        if age < 0:  # the clock was set back since: the lease begins anew, now
            os.utime(path)
    except FileNotFoundError:
        return  # given back since
    if age > (owner.lease if owner is not None else LEASE_SECONDS):
        return
    raise ClaimError(
        f"shard {shard} of {store} is held by {owner or 'an unreadable claim'}, renewed "
        f"{max(age, 0):.0f} s ago: wait for it, stop it, or remove {path} if it is gone"
    )


def _owner(path: Path) -> Owner | None:
    try:
        return build(Owner, read_json(path), str(path))
    except (OSError, CardError, StoreError):
        return None  # an unreadable claim is respected until its lease is over


def _age(path: Path) -> float:
    """Seconds since a file was written or touched, by its disk's clock: machines' clocks differ."""
    probe = path.with_name(f".now.{secrets.token_hex(4)}.tmp")
    with disk_errors(path.parent):
        probe.touch()
        try:
            return probe.stat().st_mtime - path.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)


def _half_written(store: Path) -> Iterator[Path]:
    """The small files that a process was killed at, or is at; work folders go with their claim."""
    yield from store.parent.glob(f".{manifest_beside(store).name}.*.tmp")
    work = layout.work_dir(store, 0, "").parent
    for folder, folders, names in os.walk(store):
        folders[:] = [one for one in folders if Path(folder, one) != work]
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):
                yield Path(folder, name)


def _give_back(path: Path, shard: int) -> None:
    """Removes a claim, and before it the work of its owner."""
    owner = _owner(path)
    if owner is not None:
        store = path.parents[1]
        shutil.rmtree(layout.work_dir(store, shard, owner.token), ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()


def _generations(store: Path, shard: int) -> list[int]:
    return sorted(generation for one, generation, _ in _all(store) if one == shard)


def _all(store: Path) -> Iterator[tuple[int, int, Path]]:
    """Shard, generation and path of each claim; what has another name is none of ours."""
    for path in layout.claim_path(store, 0, 0).parent.glob("*.json"):
        found = _NAME.fullmatch(path.name)
        if found is not None:
            yield int(found[1]), int(found[2]), path


@cache
def _host() -> str:
    namespace = Path("/proc/self/ns/pid")  # containers of one machine number their own processes
    return f"{socket.gethostname()}/{namespace.stat().st_ino if namespace.exists() else 0}"


@cache
def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _started(pid: int) -> str:
    """Start of a living process in ticks since boot; empty where there is none (or no /proc)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def awake() -> float:
    """Seconds that go on while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
