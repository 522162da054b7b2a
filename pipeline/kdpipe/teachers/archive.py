"""A checkpoint inside a zip archive (BTS): only that member is unpacked, to a name we choose."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from kdpipe.errors import CheckpointError

MODEL = "model"
"""What the member is called where nothing else is said."""


def is_archive(path: Path) -> bool:
    """Whether a file is a zip of files; what torch.save writes is a zip too, and is none."""
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                return False
        with zipfile.ZipFile(path) as archive:
            return not any(PurePosixPath(name).name == "data.pkl" for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def unpack(archive: Path, target: Path, member: str | None = None) -> None:
    """Writes one member of an archive to `target`, whole or not at all.

    Names in the archive decide nothing about where anything is written.

    Args:
        archive: a zip.
        target: the file to make.
        member: its name in the archive, in whatever folder; None: `model`, or the only file.

    Raises:
        CheckpointError: no such member, or several; torn, encrypted or a link; the disk is full.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            info = _find(archive, opened, member)
            free = shutil.disk_usage(archive.parent).free
            if info.file_size > free:
                raise CheckpointError(
                    f"{archive} unpacks to {info.file_size / 1e6:.1f} MB, its disk has "
                    f"{free / 1e6:.1f} MB: make room, or set KDPIPE_HOME to another disk"
                )
            _write(opened, info, target)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise CheckpointError(
            f"{archive} is torn or no zip ({error}), expected an archive: download it again"
        ) from error


def unpacked(path: Path, folder: Path) -> Path:
    """A checkpoint as it is; that of an archive from `folder`, where it is unpacked once.

    Raises:
        CheckpointError: an archive without a checkpoint.
    """
    if not is_archive(path):
        return path
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = folder / digest[:16] / MODEL
    if not target.exists():
        unpack(path, target)
    return target


def _find(archive: Path, opened: zipfile.ZipFile, member: str | None) -> zipfile.ZipInfo:
    files = [one for one in opened.infolist() if not one.is_dir()]
    name = member or MODEL
    found = [one for one in files if name in (one.filename, PurePosixPath(one.filename).name)]
    if not found and member is None and len(files) == 1:
        found = files
    if len(found) != 1:
        names = ", ".join(sorted(one.filename for one in files)[:5]) or "nothing"
        raise CheckpointError(
            f"{archive} has {len(found) or 'no'} files called {name!r}, expected one: it holds "
            f"{names}. Unpack it and give the checkpoint with --checkpoint FILE"
        )
    mode = found[0].external_attr >> 16
    if found[0].flag_bits & 1 or stat.S_ISLNK(mode):
        what = "encrypted" if found[0].flag_bits & 1 else "a link"
        raise CheckpointError(f"{archive}: {found[0].filename} is {what}, expected a plain file")
    return found[0]


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with opened.open(info) as source, beside.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
