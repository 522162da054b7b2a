"""Where a teacher's weights come from, and their digest: part of every store's identity."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.cards import load_teacher_card
from kdpipe.errors import CheckpointError, StoreError
from kdpipe.store import layout
from kdpipe.store.disk import read_json

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard
    from kdpipe.teachers import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One checkpoint."""

    path: Path
    sha256: str
    source: str
    """`fitted`, an address, or `file` for one that the user gave."""


def find_weights(card: TeacherCard, data: str, checkpoint: Path | None) -> Weights:
    """Finds a teacher's checkpoint: the given one, the fitted one, a published one.

    Args:
        card: of the teacher.
        data: the data set that `fit` saw; its folder's weights.json names the file.
        checkpoint: a file, or a folder of transformers, instead.

    Raises:
        CheckpointError: there is none, its download fails, or it is not the one that was fitted or
            found for this card.
    """
    return _find(card, data, checkpoint)


def load_teacher(
    card: TeacherCard | str,
    *,
    checkpoint: Path | str | None = None,
    fitted_on: str | None = None,
    device: str = "cpu",
    mirror: bool | None = None,
    precision: str = "fp32",
) -> Teacher:
    """A teacher with its weights: given, fitted below this folder, cached, or downloaded.

    Args:
        card: itself, or its name in manifests/teachers.
        checkpoint: published, or written by `kdpipe fit`, or a folder of transformers; loaded as
            data, never as code.
        fitted_on: the data set whose `fit` gave the weights; None: the only one that did.
        device: a torch device's name.
        mirror: average with the mirrored image; None: as the card says.
        precision: `fp32`, or `bf16` or `fp16` for automatic mixed precision.

    Raises:
        CheckpointError: there are no weights, those of several data sets, or another network's.
        DeviceError: the device is not there.
        UnknownNameError: no such card or precision.
    """
    from kdpipe import teachers  # torch, where it is needed

    card = load_teacher_card(card) if isinstance(card, str) else card
    data = _fitted_on(card) if fitted_on is None and checkpoint is None else fitted_on
    if data is not None and checkpoint is None:
        checkpoint = _find(card, data, None).path
    return teachers.load_teacher(
        card, checkpoint=checkpoint, device=device, mirror=mirror, precision=precision
    )


def _fitted_on(card: TeacherCard) -> str | None:
    """The data set that the card's only fitted weights are of; None: there are none."""
    known = sorted(Path().glob(str(layout.weights_path("*", card.name))))
    if len({str((_read(path) or {}).get("sha256")) for path in known}) > 1:
        names = [path.parent.parent.name for path in known]
        raise CheckpointError(
            f"{card.name} has weights of {', '.join(names)} here: say which, fitted_on={names[0]!r}"
        )
    return known[0].parent.parent.name if known else None


def _find(card: TeacherCard, data: str, checkpoint: Path | None) -> Weights:
    known = layout.weights_path(data, card.name)
    noted = _read(known)
    if checkpoint is not None:
        return _given(card, checkpoint, noted)
    if noted is None:
        return _published(card, known)
    if noted.get("cached"):  # its place is another one on each machine
        weights = _published(card, known)
    else:
        path = known.parent / str(noted.get("checkpoint"))
        weights = Weights(path=path, sha256=_sha256(path), source=_kind(str(noted.get("source"))))
    if weights.sha256 != noted.get("sha256"):
        raise CheckpointError(
            f"{weights.path} has SHA-256 {weights.sha256[:16]}…, {known} says "
            f"{str(noted.get('sha256'))[:16]}…: "
            f"run `kdpipe fit --teacher {card.name} --data {data}` again"
        )
    if noted.get("fingerprint") != card.fingerprint:
        raise CheckpointError(
            f"{known} is of fingerprint {noted.get('fingerprint')!r}, the card of {card.name} has "
            f"{card.fingerprint!r}: go back to that card, or fit again"
        )
    return weights


def _given(card: TeacherCard, checkpoint: Path, noted: Mapping[str, object] | None) -> Weights:
    from kdpipe.teachers.weights import source_of, unpacked  # torch, where it is needed

    checkpoint = unpacked(checkpoint)
    digest = _sha256(checkpoint)
    if noted is not None and noted.get("sha256") == digest:
        source = str(noted["source"])
    else:
        source = source_of(card, digest)
    return Weights(path=checkpoint, sha256=digest, source=_kind(source))


def _published(card: TeacherCard, known: Path) -> Weights:
    from kdpipe.teachers.weights import find_published, missing_weights  # torch, as above

    found = find_published(card)
    if found is None:
        raise missing_weights(card, [known])
    return Weights(path=found.path, sha256=found.sha256, source=_kind(found.source))


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
    if path.is_dir():
        from kdpipe.teachers.weights import digest_of  # torch, as above

        return digest_of(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}), expected a checkpoint: check the path"
        ) from error
