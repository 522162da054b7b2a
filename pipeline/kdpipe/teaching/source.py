"""The teacher and the rows that a store is of, found again from what is left of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args, get_type_hints

from kdpipe.cards import load_teacher_card
from kdpipe.errors import StoreError
from kdpipe.params import StoreParams
from kdpipe.rows import read_rows
from kdpipe.store import identity as identities
from kdpipe.store import layout
from kdpipe.store.consensus import read_remains
from kdpipe.store.manifest import read_manifest
from kdpipe.store.metadata import StoreInfo
from kdpipe.strict import digest_of
from kdpipe.teaching.plan import Subject
from kdpipe.teaching.weights import find_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the teacher comes from, as `teach` takes it."""

    fitted_on: str | None = None
    """The data set whose `fit` gave the weights; None: the store's own."""

    checkpoint: Path | None = None
    """The weights themselves, instead."""

    manifests: Path | None = None
    """Folder of the cards."""


def subject_of(path: Path, info: StoreInfo, source: Source) -> Subject:
    """What wrote a store. How it packs its numbers is the store's own affair, not params.yaml's.

    Raises:
        CheckpointError: the weights are not there.
        DataError: the data set was not indexed.
        StaleStoreError: card, weights or data set are not the same any more; names the field.
    """
    params = replace(
        StoreParams(shard_rows=info.shard_rows, bins=info.has_bins),
        precision=info.identity["precision"],  # type: ignore[arg-type]
    )
    subject = _subject(info.teacher, info.data, params, source)
    expected = subject.identity(info.rule, info.shard_rows)
    expected["codecs"] = info.identity["codecs"]
    identities.compare(path, info.identity, expected)
    return subject


def restore_root(path: Path, wanted: str, source: Source) -> StoreInfo:
    """What a lost root said: card, weights and the arrays' zarr.json give a guess to be proved.

    Args:
        path: of the store.
        wanted: digest of the identity, by the store's ledger.
        source: where the teacher comes from.

    Raises:
        StoreError: too much is lost, or what there is now has another identity.
    """
    lost = (
        f"{layout.metadata_path(path)} is lost, the ledger is of identity {wanted}: restore it "
        "from a copy, or remove the store and teach again"
    )
    remains, manifest = read_remains(path), read_manifest(path) or {}
    if remains is None:
        raise StoreError(lost)
    data = str(manifest.get("data", path.parent.name))
    teacher = str(manifest.get("teacher", path.stem))
    subject = _subject(teacher, data, StoreParams(), source)
    for precision in get_args(get_type_hints(StoreParams)["precision"]):
        guess = replace(subject, params=replace(subject.params, precision=precision))
        identity = guess.identity(remains.rule, remains.shard_rows)
        identity["codecs"] = remains.codecs
        if digest_of(identity) == wanted:
            return StoreInfo(identity=identity, rows=remains.rows, arrays=remains.arrays)
    raise StoreError(f"{lost}; {teacher} over {data} as they are now have another identity")


def _subject(teacher: str, data: str, params: StoreParams, source: Source) -> Subject:
    card = load_teacher_card(teacher, source.manifests)
    rows = read_rows(layout.rows_path(data))
    weights = find_weights(card, source.fitted_on or data, source.checkpoint)
    return Subject(card=card, rows=rows, weights=weights, params=params)
