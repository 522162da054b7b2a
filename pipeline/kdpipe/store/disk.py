"""Files that appear whole or not at all, and stay after the power goes; objects of S3 do so."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from kdpipe.errors import StoreError
from kdpipe.store import s3
from kdpipe.store.s3 import S3Path

_NO_LINKS = {
    *(errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EINVAL)
}
"""What file systems say to a link, or to a rename that replaces nothing, that they do not know."""


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turns a full, read-only or forbidden disk into one line.

    Raises:
        StoreError: instead of OSError with one of these numbers.
    """
    in_the_way = "something else is where a file or a folder of the store belongs: move it away"
    told = {
        errno.ENOSPC: "the disk is full: make room",
        errno.EDQUOT: "the quota is used up: make room",
        errno.EROFS: "the disk is read-only: write elsewhere",
        errno.EACCES: "it is not permitted: mend the permissions",
        errno.EPERM: "it is not permitted: mend the permissions",
        errno.EIO: "the disk failed: mend it",
        **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), in_the_way),
    }
    try:
        yield
    except OSError as error:
        if error.errno not in told:
            raise
        where = error.filename or where if told[error.errno] == in_the_way else where
        raise StoreError(
            f"{where} cannot be written, {told[error.errno]}, and run the same command again; "
            "finished shards stay"
        ) from error


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def as_json(values: object) -> bytes:
    """Canonical, readable JSON."""
    return (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict[str, object]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it is torn, or no object.
    """
    return parse_json(path.read_bytes(), path)


def parse_json(content: bytes, path: Path) -> dict[str, object]:
    """Reads the JSON object that a file held.

    Raises:
        StoreError: it is torn, or no object.
    """
    try:
        values = json.loads(content)
    except ValueError as error:
        raise StoreError(f"{path} is torn or no JSON ({error}): remove the store and teach") from (
            error
        )
    if not isinstance(values, dict):
        raise StoreError(f"{path} holds {type(values).__name__}, expected keys and values")
    return cast("dict[str, object]", values)


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file as a whole."""
    if isinstance(path, S3Path):
        s3.replace(path, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _write_beside(path, content)
    beside.replace(path)
    sync_folder(path.parent)


def create_exclusively(path: Path, content: bytes, work: Path | None = None) -> bool:
    """Creates a file with all of its content, if there is none of this name.

    Args:
        path: of the file.
        content: of the file.
        work: a folder of the same disk where it grows; None: beside its final name.

    Returns:
        Whether this call created it; of several processes one gets True.

    Raises:
        FileNotFoundError: somebody took `work` away: nothing was created.
    """
    if isinstance(path, S3Path):
        return s3.write(path, content, over=None) is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _write_beside(path if work is None else work / path.name, content)
    try:
        created = link_exclusively(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return created


def link_exclusively(source: Path, target: Path) -> bool:
    """Gives a finished file its second, final name, if nothing has that name yet.

    A rename would replace what a faster process finished; a link does not. On a disk without links
    (FAT, exFAT) the file is renamed, by the call of Linux that replaces nothing.

    Returns:
        Whether this call made the name.

    Raises:
        StoreError: the disk can do neither.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            _rename_exclusively(source, target)
        except FileExistsError:
            return False
        except OSError as other:
            if other.errno not in _NO_LINKS:
                raise
            raise StoreError(
                f"{target} cannot be linked ({error.strerror}), nor renamed without replacing "
                f"({other.strerror}): a store needs a disk that can, e.g. ext4, XFS or NFS: move "
                "artifacts/stores to one, or set store.root to an s3:// address"
            ) from error
    try:
        sync_folder(target.parent)
    except OSError:
        target.unlink(missing_ok=True)  # what may be gone after a crash must not count before it
        raise
    return True


def _rename_exclusively(source: Path, target: Path) -> None:
    """renameat2 of Linux with RENAME_NOREPLACE, which Python has not.

    Raises:
        OSError: as the call says, FileExistsError where something has the name; ENOSYS: there is no
            such call here.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    here, no_replace = -100, 1  # AT_FDCWD: as any other path
    if rename(here, os.fsencode(source), here, os.fsencode(target), no_replace) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source), None, str(target))


def _write_beside(path: Path, content: bytes) -> Path:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)  # a full disk names none
        raise
    return beside
