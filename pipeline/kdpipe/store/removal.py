"""A store or a shard removed: at no moment does what is left of it look finished."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kdpipe.errors import ClaimError, StoreError
from kdpipe.store import layout, s3, s3_claims
from kdpipe.store.claims import Claim, refuse_living
from kdpipe.store.disk import disk_errors, sync_folder
from kdpipe.store.ledger import finished
from kdpipe.store.manifest import manifest_beside, read_manifest
from kdpipe.store.metadata import read_info
from kdpipe.store.s3 import S3Path
from kdpipe.store.s3_claims import S3Claim
from kdpipe.store.strangers import strangers

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo


_OURS = re.compile(
    r"(?:(?:depth|extent|bins|bins/[a-z]+)/)?zarr\.json"
    r"|(?:depth|extent|bins/[a-z]+)/c(?:\.\d+)+"
    r"|ledger/(?:\d+\.json|consolidated\.parquet)"
    r"|claims/\d+\.\d+\.json|work/\d+\.[0-9a-z]+/.*|(?:.*/)?\.[^/]*\.tmp"
)
"""Names of a store's files or objects, for one whose own root no longer says them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removable:
    """What would go."""

    path: Path
    manifest: Path | None
    """Beside it; None where there is none, or a file of someone else."""

    leftovers: tuple[Path, ...]
    """Of removals of the same store that were killed."""

    files: int
    bytes: int


def find_removable(path: Path) -> Removable:
    """Looks at what `remove` would remove, and whether it may.

    Args:
        path: of a store, whole or damaged, or of one whose removal was killed.

    Raises:
        ClaimError: a living process is writing it.
        StoreError: it is no store of kdpipe's, or holds files of someone else.
    """
    if isinstance(path, S3Path):
        return _find_on_s3(path)
    path = Path(os.path.normpath(path))
    leftovers = tuple(sorted(path.parent.glob(f".{path.name}.*.removed")))
    if path.is_symlink():
        raise StoreError(f"{path} is a link to {path.readlink()}: give the store itself")
    if path.exists() or not leftovers:
        _check(path)
        refuse_living(path)
    folders = [one for one in (path, *leftovers) if one.is_dir()]
    sizes = [
        file.lstat().st_size for folder in folders for file in folder.rglob("*") if file.is_file()
    ]
    said = read_manifest(path) or {}
    manifest = manifest_beside(path) if {"identity", "shards"} <= said.keys() else None
    return Removable(
        path=path, manifest=manifest, leftovers=leftovers, files=len(sizes), bytes=sum(sizes)
    )


def remove(what: Removable) -> None:
    """Removes a store and its manifest.

    The manifest goes first, then the store gets a hidden name in one step, then its root and its
    ledger go, then its arrays. Killed in between, the same command goes on.

    Raises:
        ClaimError: a process began to write it just now; it stays.
        StoreError: the disk refuses.
    """
    if isinstance(what.path, S3Path):
        _remove_on_s3(what.path, what.manifest)
        return
    with disk_errors(what.path):
        if what.manifest is not None:
            what.manifest.unlink(missing_ok=True)
            sync_folder(what.manifest.parent)
        gone = list(what.leftovers)
        if what.path.exists():
            gone.append(_hide(what.path))
        for folder in gone:
            layout.metadata_path(folder).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(layout.record_path(folder, 0).parent)
            shutil.rmtree(folder)


def remove_shard(path: Path, info: StoreInfo, shard: int, run: str) -> None:
    """Removes a shard that must be written again, its record first.

    Args:
        path: of the store.
        info: of the store.
        shard: to be removed.
        run: for whom it is claimed meanwhile.

    Raises:
        ClaimError: a living process is writing it.
        StoreError: the disk refuses.
    """
    claim = Claim.take(path, shard, run)
    if isinstance(claim, S3Claim):
        try:
            claim.take_record_away()  # the arrays' objects are leftovers now
        finally:
            claim.release()
        return
    folder = layout.work_dir(path, shard, claim.owner.token)
    record = layout.record_path(path, shard)
    files = [info.file(path, one.name, shard) for one in info.arrays]
    try:
        with disk_errors(path):
            folder.mkdir(parents=True)
            claim.hold()
            # Moved, not removed: a successor takes the folder away before it writes the shard, and
            # a process that slept meanwhile can then no more remove what its successor wrote.
            for file in (record, *files):
                with contextlib.suppress(FileNotFoundError):
                    file.rename(folder / f"gone.{file.parent.name}.{file.name}")
                if file == record and record.parent.is_dir():
                    sync_folder(record.parent)
        if not folder.is_dir():
            raise ClaimError(
                f"shard {shard} of {path}: another process took it over, nothing of it was "
                "removed: run the same command again"
            )
    finally:
        claim.release()


def _find_on_s3(path: S3Path) -> Removable:
    objects = list(s3.listed(path))
    if layout.metadata_path(path).exists() or not objects:
        info = read_info(path)
        for file in strangers(path, info):
            raise _stranger(path, file)
    else:  # its root is damaged, or its removal was killed
        for one in objects:
            if not _OURS.fullmatch("/".join(one.path.relative_to(path).parts)):
                raise _stranger(path, one.path)
    s3_claims.refuse_living(path)
    manifest, said = manifest_beside(path), read_manifest(path) or {}
    return Removable(
        path=path,
        manifest=manifest if {"identity", "shards"} <= said.keys() else None,
        leftovers=(),
        files=len(objects),
        bytes=sum(one.size for one in objects),
    )


def _remove_on_s3(path: S3Path, manifest: Path | None) -> None:
    """The root goes first, then the ledger, so that what is left looks like no store."""
    if manifest is not None:
        manifest.unlink(missing_ok=True)
    layout.metadata_path(path).unlink(missing_ok=True)
    for part in (cast("S3Path", layout.record_path(path, 0).parent), path):
        s3.remove([one.path for one in s3.listed(part)])


def _stranger(path: Path, file: Path) -> StoreError:
    return StoreError(
        f"{path} holds {file.relative_to(path).as_posix()}, which kdpipe did not write: move it "
        "away, then remove the store"
    )


def _hide(path: Path) -> Path:
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.removed")
    path.rename(hidden)
    sync_folder(path.parent)
    try:
        refuse_living(hidden)
    except ClaimError:
        hidden.rename(path)
        raise
    return hidden


def _check(path: Path) -> None:
    try:
        info = read_info(path)
    except StoreError:
        known = {layout.metadata_path(path), layout.record_path(path, 0).parent}
        known |= {layout.claim_path(path, 0, 0).parent, layout.work_dir(path, 0, "").parent}
        arrays = {layout.DEPTH, layout.EXTENT, layout.BIN_CODES.partition("/")[0]}
        known |= {path / name for name in arrays}
        if not finished(path) or not known.issuperset(path.iterdir()):
            raise
        # Its root is damaged, its ledger says what it was.
        for file in sorted(one for one in path.rglob("*") if not one.is_dir()):
            if not _OURS.fullmatch(file.relative_to(path).as_posix()):
                raise _stranger(path, file) from None
        return
    for file in strangers(path, info):
        raise _stranger(path, file)
