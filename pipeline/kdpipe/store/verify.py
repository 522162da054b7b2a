"""Checks a store: records, sizes, and every byte. It changes nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kdpipe.errors import StoreError
from kdpipe.store.ledger import check_record, finished, read_record
from kdpipe.store.metadata import read_info


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with one shard."""

    shard: int
    message: str


def verify(path: Path, *, quick: bool = False) -> list[Problem]:
    """Looks for shards that are not what their record says.

    Args:
        path: of the store.
        quick: compare records and sizes only, O(shards); else every byte's digest too.

    Returns:
        A problem for each shard that must be taught again; none for a sound store. Shards that
        were never finished are no problem.

    Raises:
        StoreError: there is no store.
    """
    info = read_info(path)
    problems = []
    for shard in finished(path):
        try:
            record = read_record(path, shard)
            if record is None:
                continue
            check_record(path, record, info)
            for name, expected in record.arrays.items() if not quick else ():
                file = info.file(path, name, shard)
                with file.open("rb") as content:
                    found = hashlib.file_digest(content, "sha256").hexdigest()
                if found != expected.sha256:
                    raise StoreError(f"{file}: its bytes changed on disk: teach it again")
        except StoreError as error:
            problems.append(Problem(shard=shard, message=str(error)))
    return problems
