"""Objects of an S3 bucket by the names of files: what a store asks of its paths, on one condition.

A store's code composes names and asks little of them: is it there, how long is it, what does it
hold, what is below it. `S3Path` answers that for `s3://bucket/key`, so that reading, `verify` and
`store info` need not know where a store lives. Whatever else one asks of a path raises: an object
has no name on this machine's disk.

Writing is another matter, S3 has no rename and no link: `write` puts an object on condition that
there is none of its name, or that the one there is still the one that was seen; see s3_claims.py.

Reference: Amazon S3 user guide, "How to prevent object overwrites with conditional writes",
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import contextlib
import email.utils
import fnmatch
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from kdpipe.errors import StoreError
from kdpipe.store.s3_client import CONFLICT, ask, ask_or_none, endpoint, one_line, refusal

if TYPE_CHECKING:
    from datetime import datetime

LARGEST_OBJECT = 5 * 2**30
"""Bytes that one request may put."""

_ATTEMPTS = 4
"""At a download that breaks off, and at a write that meets another one; botocore has its own."""

_AT_ONCE = 1000
"""Objects that one request may remove."""

_PIECE = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An object, but for what it holds."""

    path: S3Path
    size: int
    etag: str
    age: float
    """Seconds since it was written, by the server's clock."""

    @property
    def mark(self) -> int:
        """Of 63 bits; another one where it holds something else."""
        return int.from_bytes(hashlib.sha256(self.etag.encode()).digest()[:8]) >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One object as it was read."""

    content: bytes
    etag: str
    """Names this content: another one under the same name has another etag."""

    age: float
    """Seconds since it was written, by the server's clock."""


class S3Path(PosixPath):
    """s3://bucket/key, with those of Path's methods that a store needs."""

    __slots__ = ()

    def __str__(self) -> str:
        return "s3://" + "/".join(self.parts[1:])

    def __fspath__(self) -> str:
        raise StoreError(f"{self} is no file of this machine: give a store on a local disk")

    def __repr__(self) -> str:
        return f"S3Path({str(self)!r})"

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.parts[1]

    @property
    def key(self) -> str:
        """Name of the object in it."""
        return "/".join(self.parts[2:])

    def absolute(self) -> S3Path:
        """Itself: it is the same for every process."""
        return self

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is such an object, or one below it."""
        return self.is_file() or self.is_dir()

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is such an object."""
        return look(self) is not None

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object below this name."""
        answer = ask(self, "list_objects_v2", Prefix=_prefix(self), MaxKeys=1)
        return bool(answer.get("KeyCount"))

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """The size of an object; all else is 0."""
        there = look(self)
        if there is None:
            raise FileNotFoundError(str(self))
        return os.stat_result((0, 0, 0, 0, 0, 0, there.size, 0, 0, 0))

    def read_bytes(self) -> bytes:
        """What an object holds."""
        return read(self).content

    def open(self, mode: str = "r", *_: Any, **__: Any) -> IO[Any]:  # type: ignore[override]
        """A copy of an object, to be read; on disk where it is large."""
        if mode != "rb":
            raise StoreError(f"{self} cannot be opened as {mode!r}: an object is put as a whole")
        copy = tempfile.SpooledTemporaryFile(max_size=_PIECE)  # noqa: SIM115, it is the caller's
        for piece in _pieces(self, self.stat().st_size):
            copy.write(piece)
        copy.seek(0)
        return copy

    def glob(self, pattern: str, **_: Any) -> Iterator[S3Path]:  # type: ignore[override]
        """Objects below this name that fit a pattern without **."""
        depth = pattern.count("/")
        for one in listed(self):
            name = one.path.relative_to(self).as_posix()
            parts, wanted = name.split("/"), pattern.split("/")
            if len(parts) == depth + 1 and all(map(fnmatch.fnmatchcase, parts, wanted)):
                yield one.path

    def as_posix(self) -> str:
        """As str, without the scheme where it is a relative name."""
        return str(self) if self.parts[:1] == ("s3:",) else "/".join(self.parts)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes an object."""
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(str(self))
        ask(self, "delete_object", Key=self.key)


def location(path: str | os.PathLike[str]) -> Path:
    """A path of this machine, or of S3 where it begins with s3://."""
    if isinstance(path, S3Path):
        return path
    name = os.fspath(path)
    if not name.startswith("s3:/"):  # a Path has made one slash of two
        return Path(name)
    found = S3Path(name)
    if len(found.parts) < 2:
        raise StoreError(f"{name!r} names no bucket, expected s3://bucket/prefix")
    return found


def read(path: S3Path, start: int = 0, size: int | None = None) -> Found:
    """Reads an object or a part of it.

    Raises:
        FileNotFoundError: there is none.
        StoreError: the server does not answer, or not as one of S3.
    """
    asked = {"Key": path.key}
    if size is not None:
        if size == 0:
            return Found(content=b"", etag="", age=0.0)
        asked["Range"] = f"bytes={start}-{start + size - 1}"
    for attempt in range(_ATTEMPTS):
        answer = ask_or_none(path, "get_object", **asked)
        if answer is None:
            raise FileNotFoundError(str(path))
        with one_line(path, is_last=attempt + 1 == _ATTEMPTS):
            content = cast("bytes", answer["Body"].read())
            age = _server_time(answer) - _seconds(answer["LastModified"])
            return Found(content=content, etag=str(answer["ETag"]), age=age)
    raise AssertionError


def look(path: S3Path) -> Listed | None:
    """An object without what it holds; None where there is none."""
    answer = ask_or_none(path, "head_object", Key=path.key)
    if answer is None:
        return None
    age = _server_time(answer) - _seconds(answer["LastModified"])
    return Listed(path=path, size=int(answer["ContentLength"]), etag=str(answer["ETag"]), age=age)


def write(path: S3Path, content: bytes | BinaryIO, *, over: str | None) -> str | None:
    """Puts an object as a whole, or not at all.

    Args:
        path: its name.
        content: all of it.
        over: etag of the object that it replaces; None: there must be none of its name.

    Returns:
        Its etag; None where another one, or none, is there: nothing was written.

    Raises:
        StoreError: the server does not answer, or not as one of S3.
    """
    token = secrets.token_hex(8)
    condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
    asked = {"Key": path.key, "Body": content, "Metadata": {"kdpipe": token}, **condition}
    for attempt in range(_ATTEMPTS):
        answer = ask_or_none(path, "put_object", **asked)
        if answer is not None and "ETag" in answer:
            return str(answer["ETag"])
        if answer is None or answer["Code"] not in CONFLICT:
            break
        time.sleep(0.1 * 2**attempt)  # another write of the same name is under way
    # An answer may have been lost and the request repeated: then what is in the way is our own.
    there = ask_or_none(path, "head_object", Key=path.key)
    if there is not None and there["Metadata"].get("kdpipe") == token:
        return str(there["ETag"])
    return None


def replace(path: S3Path, content: bytes) -> None:
    """Puts an object, whatever is there."""
    ask(path, "put_object", Key=path.key, Body=content)


def listed(folder: S3Path) -> Iterator[Listed]:
    """All objects below a name, by their keys."""
    token: dict[str, str] = {}
    while True:
        answer = ask(folder, "list_objects_v2", Prefix=_prefix(folder), **token)
        now = _server_time(answer)
        for one in answer.get("Contents", ()):
            yield Listed(
                path=S3Path("s3:", folder.bucket, one["Key"]),
                size=int(one["Size"]),
                etag=str(one["ETag"]),
                age=now - _seconds(one["LastModified"]),
            )
        if not answer.get("IsTruncated"):
            return
        token = {"ContinuationToken": answer["NextContinuationToken"]}


def remove(paths: Sequence[S3Path]) -> None:
    """Removes objects, whether they are there or not."""
    for start in range(0, len(paths), _AT_ONCE):
        part = paths[start : start + _AT_ONCE]
        keys = [{"Key": one.key} for one in part]
        answer = ask(part[0], "delete_objects", Delete={"Objects": keys, "Quiet": True})
        for error in answer.get("Errors", ()):
            raise StoreError(refusal(part[0], error))


def check_conditions(folder: S3Path) -> None:
    """Tries whether the server keeps the conditions of writes, once a process and bucket.

    Raises:
        StoreError: it does not: two writers would write over each other.
    """
    if _where(folder) in _checked:
        return
    probe = folder / f".kdpipe-{secrets.token_hex(4)}.tmp"
    try:
        first = write(probe, b"1", over=None)
        kept = first is not None and write(probe, b"2", over=None) is None
        second = write(probe, b"2", over=first) if kept else None
        kept = second is not None and write(probe, b"3", over=first) is None
    finally:
        with contextlib.suppress(StoreError):
            ask(probe, "delete_object", Key=probe.key)
    if not kept:
        raise StoreError(
            f"the server of {folder} ignores conditional writes (If-None-Match, If-Match), two "
            "writers would write over each other: take a server that has them, or a local disk"
        )
    _checked.add(_where(folder))


_checked: set[tuple[str, str]] = set()


def _prefix(folder: S3Path) -> str:
    return f"{folder.key}/" if folder.key else ""


def _where(path: S3Path) -> tuple[str, str]:
    return endpoint(), path.bucket


def _pieces(path: S3Path, size: int) -> Iterator[bytes]:
    for start in range(0, size, _PIECE):
        yield read(path, start, min(_PIECE, size - start)).content


def _server_time(answer: dict[str, Any]) -> float:
    said = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    return email.utils.parsedate_to_datetime(said).timestamp() if said else time.time()


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
