"""Where a teacher's weights come from, and their digest: part of every store's identity."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.errors import CheckpointError, StoreError
from kdpipe.store import layout
from kdpipe.store.disk import read_json

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One checkpoint."""

    path: Path
    sha256: str
    source: str
    """`fitted`, an address, or `file` for one that the user gave."""


def find_weights(card: TeacherCard, data: str, checkpoint: Path | None) -> Weights:
    """Finds a teacher's checkpoint.

    Args:
        card: of the teacher.
        data: the data set that `fit` saw; its folder's weights.json names the file.
        checkpoint: a file, instead.

    Raises:
        CheckpointError: there is none, or it is not the one that was fitted for this card.
    """
    known = layout.weights_path(data, card.name)
    noted = _read(known)
    if checkpoint is not None:
        digest = _sha256(checkpoint)
        source = str(noted["source"]) if noted and noted.get("sha256") == digest else "file"
        return Weights(path=checkpoint, sha256=digest, source=_kind(source))
    if noted is None:
        from kdpipe.teachers.weights import missing_weights  # torch, for an error only

        raise missing_weights(card, [known])
    path = known.parent / str(noted.get("checkpoint"))
    digest = _sha256(path)
    if digest != noted.get("sha256"):
        raise CheckpointError(
            f"{path} has SHA-256 {digest[:16]}…, {known} says {str(noted.get('sha256'))[:16]}…: "
            f"run `kdpipe fit --teacher {card.name} --data {data}` again"
        )
    if noted.get("fingerprint") != card.fingerprint:
        raise CheckpointError(
            f"{known} is of fingerprint {noted.get('fingerprint')!r}, the card of {card.name} has "
            f"{card.fingerprint!r}: go back to that card, or fit again"
        )
    return Weights(path=path, sha256=digest, source=_kind(str(noted.get("source"))))


def _read(path: Path) -> dict[str, object] | None:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except StoreError as error:
        raise CheckpointError(f"{path} is torn: run `kdpipe fit` again") from error


def _kind(source: str) -> str:
    # A path is of one machine; which file it was is what its digest says.
    return source if source == "fitted" or "://" in source else "file"


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}), expected a checkpoint: check the path"
        ) from error
