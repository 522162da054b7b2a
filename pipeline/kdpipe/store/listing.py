"""A folder's files with their sizes, at one question: what makes a look at a store cheap."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdpipe.store import s3
from kdpipe.store.s3 import S3Path


@dataclass(frozen=True, slots=True)
class Stamp:
    """Of a file, as far as it can be seen without reading it."""

    bytes: int
    mtime_ns: int
    """When it was written; of an object on S3, a number that stands for what it holds."""


def stamp_of(path: Path) -> Stamp | None:
    """Of one file; None where it is not there."""
    if isinstance(path, S3Path):
        there = s3.look(path)
        return None if there is None else Stamp(there.size, there.mark)
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return Stamp(found.st_size, found.st_mtime_ns)


def listing(folder: Path) -> dict[str, Stamp]:
    """The entries of a folder by their names; none where there is no such folder."""
    if isinstance(folder, S3Path):
        return {one.path.name: Stamp(one.size, one.mark) for one in s3.listed(folder)}
    found: dict[str, Stamp] = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for one in entries:
            with suppress(OSError):  # gone since, or a link to nowhere
                status = one.stat()
                found[one.name] = Stamp(status.st_size, status.st_mtime_ns)
    return found
