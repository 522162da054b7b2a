"""Claims and records on S3: one object a shard says who writes it, and what it holds.

There is no rename and no link, but an object can be put on condition that there is none of its name
(If-None-Match: *), or that the one there is still the one that was seen (If-Match: its etag). The
object `ledger/NNNNNNN.json` of a shard is only ever changed so:

    nothing, a record, or the claim of one who is gone
      -> a claim, which holds the record that was there, if any: it goes on to count
      -> the same claim, renewed
      -> the same claim without the record: from now on the shard's other objects are written
      -> the record; or, given up, the record that was there; or nobody's claim

A record is put in the place of its writer's own claim. Who slept through his lease while another
one took over holds the etag of an object that is not there any more (a claim bears a token, so no
two are alike) and can neither renew, nor finish, nor give back: the shard that he wrote never
counts. Of two who take a shard at once, the server lets one.

Objects of arrays are written between the last two steps, each on condition that it is as it was
seen before the claim was proved: absent, or the leftover of one etag. They are never removed, so a
sleeper cannot remove, and what a successor changed since refuses his write. One case is left: he
sleeps for longer than his lease between the proof and the write, his successor writes, byte for
byte, the leftover that both saw, and his own bytes are others (another batch size). Then his write
goes through, his record does not, and `verify` names that shard.

A claim without a record is never longer than `_LONGEST`: a listing tells which shards are finished.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from kdpipe.errors import CardError, ClaimError, StoreError
from kdpipe.store import layout, s3
from kdpipe.store.claims import LEASE_SECONDS, Claim, Owner, awake, this_process
from kdpipe.store.disk import as_json
from kdpipe.strict import build

if TYPE_CHECKING:
    from kdpipe.store.s3 import Found, S3Path

_LONGEST = 1024
"""Bytes of a claim without a record."""

_BEGINS = b'{\n "claim":'
_RENEWED_OF_A_LEASE = 0.1


_given_up: set[str] = set()
"""Tokens of this process's former claims: the server may not have heard that they are over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What an object of the ledger says."""

    owner: Owner | None
    """Who claims the shard; None: nobody, or a claim that cannot be read."""

    is_claim: bool
    record: bytes | None
    """None: the shard is not finished."""


class S3Claim(Claim):
    """See Claim; its proof is the etag of what it wrote last."""

    store: S3Path

    def __init__(self, store: S3Path, shard: int, owner: Owner) -> None:
        super().__init__(store, shard, 0, owner)
        self._etag = ""
        self._count = 0
        self._record: bytes | None = None
        self._is_over = False

    @property
    def path(self) -> S3Path:
        """The shard's object of the ledger."""
        return _path(self.store, self.shard)

    @classmethod
    def take_on_s3(cls, store: S3Path, shard: int, run: str, lease: float) -> S3Claim:
        """See Claim.take."""
        s3.check_conditions(store)
        claim = cls(store, shard, this_process(run, lease))
        found = _read(claim.path)
        if found is not None:
            state = _state(found.content)
            _refuse_living(claim.path, shard, state, found.age)
            claim._record = state.record
        etag = s3.write(claim.path, claim._content(), over=None if found is None else found.etag)
        if etag is None:
            raise ClaimError(f"shard {shard} of {store} was claimed by another process just now")
        claim._etag = etag
        return claim

    def hold(self) -> None:
        """Proves that the claim is still ours; renews its lease now and then.

        Raises:
            LostClaimError: the lease ran out, or another process took the shard over.
            StoreError: the server does not answer.
        """
        if self._slept() > self.owner.lease:
            raise self.lost()
        if self._slept() > _RENEWED_OF_A_LEASE * self.owner.lease:
            self._put(self._content())

    def take_record_away(self) -> None:
        """From now on the shard is not finished, and its arrays may be written.

        Raises:
            LostClaimError: another process took the shard over.
        """
        self._record = None
        self._put(self._content())

    def finish(self, record: bytes) -> None:
        """Puts the record in the claim's place.

        Raises:
            LostClaimError: another process took the shard over; nothing was written.
        """
        self._put(record)
        self._is_over = True

    def release(self) -> None:
        """See Claim.release."""
        _given_up.add(self.owner.token)
        if self._is_over:
            return
        nobody = as_json({"claim": None, "count": 0, "record": None, "token": self.owner.token})
        with contextlib.suppress(StoreError):  # it is over with this process, or with its lease
            s3.write(self.path, self._record or nobody, over=self._etag)

    def _content(self) -> bytes:
        return _claim(self.owner, self._count, self._record)

    def _put(self, content: bytes) -> None:
        now, self._count = awake(), self._count + 1
        etag = s3.write(self.path, content, over=self._etag)
        if etag is None:
            raise self.lost()
        self._etag, self._renewed = etag, now


def recorded(content: bytes) -> bytes | None:
    """The record that an object of the ledger is or holds; None: the shard is not finished."""
    return _state(content).record


def finished(store: S3Path) -> list[int]:
    """Numbers of the shards that have a record, sorted: one listing."""
    return [
        shard
        for shard, one in ledger(store)
        if one.size > _LONGEST or ((found := _read(one.path)) and recorded(found.content))
    ]


def give_back(store: S3Path, run: str, shards: set[int] | None = None) -> None:
    """Gives back claims of a run whose processes are dead.

    Args:
        store: which they wrote.
        run: whose claims they are.
        shards: these only; None: all.
    """
    for shard, one in ledger(store):
        if shards is not None and shard not in shards:
            continue
        if one.size > _LONGEST and one.age > LEASE_SECONDS:
            continue  # a record, or the claim of one who is gone: it is broken by who comes next
        found = _read(one.path)
        owner = None if found is None else _state(found.content).owner
        if found is not None and owner is not None and owner.run == run:
            claim = S3Claim(store, shard, owner)
            claim._etag, claim._record = found.etag, recorded(found.content)
            claim.release()


def refuse_living(store: S3Path) -> None:
    """Refuses a store that somebody is writing.

    Raises:
        ClaimError: a claim is held by a living process; the message says which.
    """
    for shard, one in ledger(store):
        if one.age <= LEASE_SECONDS and (found := _read(one.path)) is not None:
            _refuse_living(one.path, shard, _state(found.content), found.age)


def _refuse_living(path: S3Path, shard: int, state: _State, age: float) -> None:
    owner = state.owner
    if not state.is_claim or (owner is not None and (owner.is_gone or owner.token in _given_up)):
        return
    lease = LEASE_SECONDS if owner is None else owner.lease
    if age <= lease:
        raise ClaimError(
            f"shard {shard} of {path.parents[1]} is held by "
            f"{owner or 'an unreadable claim'}, renewed {max(age, 0):.0f} s ago: wait for "
            f"it, stop it, or remove {path} if it is gone"
        )


def _claim(owner: Owner, count: int, record: bytes | None) -> bytes:
    """A claim's object. Its count makes it another one than before; latin-1 keeps every byte."""
    host, _, namespace = owner.host.partition("/")
    short = replace(owner, host=f"{host[:64]}/{namespace}") if len(host) > 64 else owner
    text = None if record is None else record.decode("latin-1")
    return as_json({"claim": asdict(short), "count": count, "record": text})


def _state(content: bytes) -> _State:
    if not content.startswith(_BEGINS):
        return _State(owner=None, is_claim=False, record=content)
    try:
        values = cast("dict[str, Any]", json.loads(content))
        text = values["record"]
        record = None if text is None else str(text).encode("latin-1")
        if values["claim"] is None:
            return _State(owner=None, is_claim=False, record=record)
        owner = build(Owner, values["claim"], "a claim")
    except (CardError, KeyError, TypeError, ValueError):
        return _State(owner=None, is_claim=True, record=None)
    return _State(owner=owner, is_claim=True, record=record)


def ledger(store: S3Path) -> Iterator[tuple[int, s3.Listed]]:
    """Numbers of the shards that have a claim or a record, and the objects."""
    for one in s3.listed(_path(store, 0).parent):
        name = one.path.name
        if name.endswith(".json") and name[:-5].isdecimal():
            shard = int(name[:-5])
            if _path(store, shard) == one.path:
                yield shard, one


def _read(path: S3Path) -> Found | None:
    try:
        return s3.read(path)
    except FileNotFoundError:
        return None


def _path(store: S3Path, shard: int) -> S3Path:
    return cast("S3Path", layout.record_path(store, shard))
