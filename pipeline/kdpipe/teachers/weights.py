"""A teacher's checkpoint: where it is found, and how it gets into its network.

Published files lie in kdpipe's own cache, `$KDPIPE_HOME/weights`, else
`$XDG_CACHE_HOME/kdpipe/weights`, else `~/.cache/kdpipe/weights`, each with a note of its digest.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from safetensors import SafetensorError, safe_open

from kdpipe.errors import CardError, CheckpointError
from kdpipe.nets import checkpoint
from kdpipe.nets.checkpoint import sha256_of_file
from kdpipe.teachers import archive, hub
from kdpipe.teachers.download import Remote, fetch

if TYPE_CHECKING:
    from torch import nn

    from kdpipe.cards import TeacherCard

__all__ = [
    "Found",
    "cache_dir",
    "digest_of",
    "find_published",
    "hub_of",
    "is_here",
    "is_published",
    "load_state",
    "missing_weights",
    "sha256_of_file",
    "source_of",
    "unpacked",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Published weights on this machine, seen to be what they were."""

    path: Path
    sha256: str
    source: str
    """The address they came from; `file`: someone put them there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """What a card's `about` says of its weights."""

    file: str
    """As published; may be an archive."""

    member: str | None
    """Of the archive; None: the file is the checkpoint."""

    url: str | None
    """Direct; None: it must be fetched by hand."""

    sha256: str | None
    """Of the published file."""

    size: int | None

    @property
    def place(self) -> Path:
        """Where the checkpoint belongs in the cache."""
        folder = cache_dir()
        if self.member is None:
            return folder / self.file
        return folder / Path(self.file).stem / Path(self.member).name


def cache_dir() -> Path:
    """Folder of downloaded weights; not made."""
    own, common = os.environ.get("KDPIPE_HOME"), os.environ.get("XDG_CACHE_HOME")
    home = Path(own) if own else (Path(common) if common else Path.home() / ".cache") / "kdpipe"
    return home.expanduser().absolute() / "weights"


def is_published(card: TeacherCard) -> bool:
    """Whether its weights are found, not trained here."""
    return hub_of(card) is not None or _published(card) is not None


def hub_of(card: TeacherCard) -> str | None:
    """Where the Hugging Face hub has its model: `owner/model`, or a folder."""
    name = card.network.get("hub") if card.family == "huggingface" else None
    return None if name is None else str(name)


def digest_of(path: Path) -> str:
    """SHA-256 of a checkpoint's bytes; of a folder, of all files that decide what a model says.

    Raises:
        CheckpointError: the folder holds no model.
    """
    return hub.digest_of(path) if path.is_dir() else sha256_of_file(path)


def is_here(card: TeacherCard) -> bool:
    """Whether its published weights are on this machine; they are not looked into."""
    if (name := hub_of(card)) is not None:
        return hub.find(name, _revision(card), download=False) is not None
    published = _published(card)
    return published is not None and (
        published.place.exists() or (cache_dir() / published.file).exists()
    )


def find_published(card: TeacherCard, *, download: bool = True) -> Found | None:
    """Published weights: from the cache, else downloaded where the card has a direct address.

    Args:
        card: its `about` names `file`, `url` and, where they are published, `sha256` and `size`; or
            its `network` names a model of the hub.
        download: False: only look.

    Returns:
        None where they are not here and cannot be, or must not be, downloaded.

    Raises:
        CheckpointError: the download fails or brings no weights, or a file is not what it was.
        CardError: `about` has a wrong value.
    """
    if (name := hub_of(card)) is not None:
        return _find_in_hub(card, name, download)
    published = _published(card)
    if published is None:
        return None
    place = published.place
    by_hand = cache_dir() / published.file
    if not place.exists() and by_hand.exists() and published.member is not None:
        archive.unpack(by_hand, place, published.member)
    if not place.exists():
        if published.url is None or not download:
            return None
        _fetch(published, published.url, card.weights_sha256)
    return _checked(published, place, card.weights_sha256)


def source_of(card: TeacherCard, sha256: str) -> str:
    """Where a checkpoint of this digest was downloaded from, if it was; else `file`."""
    published = _published(card)
    note = _read_note(published.place) if published is not None else {}
    return note.get("source", "file") if note.get("sha256") == sha256 else "file"


def unpacked(path: Path) -> Path:
    """A checkpoint as it is given; of a zip archive, the `model` in it.

    Raises:
        CheckpointError: an archive without such a file.
    """
    return archive.unpacked(path, cache_dir() / "unpacked")


def load_state(
    network: nn.Module,
    path: Path,
    *,
    renames: Sequence[tuple[str, str]] = (),
    sha256: str | None = None,
    take: bool = False,
) -> None:
    """Fills a network from a checkpoint; every entry must be there, and no other.

    A wrapper `{model | state_dict: …}`, the prefix `module.` and half precision are accepted. What
    `network.is_unused(key)`, where it has that, says the forward pass never reads may be absent.

    Args:
        network: changed only if everything fits.
        path: what `torch.save` wrote; nothing in it is run. A folder of transformers, where the
            network has `read_folder(path)`.
        renames: start of an entry's name in older files -> its start in `network`.
        sha256: the file's expected digest; None: not checked.
        take: the file's tensors become the network's, which may be unfilled: its memory is then
            needed once.

    Raises:
        CheckpointError: missing, another digest, torn, no checkpoint, unsafe, or of another
            network.
    """
    read = getattr(network, "read_folder", None) if path.is_dir() else None
    if read is None:
        state = checkpoint.read_state(path, sha256=sha256, mapped=not take)
    else:
        if sha256 is not None and (found := digest_of(path)) != sha256.lower():
            raise CheckpointError(
                f"{path} has SHA-256 {found[:16]}…, its card says {sha256[:16].lower()}…: download "
                "it again, or take the card of this folder"
            )
        state = read(path)
    renamed = {_rename(key, renames): value for key, value in state.items()}
    unused = getattr(network, "is_unused", lambda _key: False)
    checkpoint.load_state(network, renamed, str(path), unused=unused, names=state, take=take)


def missing_weights(card: TeacherCard, looked: Sequence[Path] = ()) -> CheckpointError:
    """The error for weights that are not there: where they are published, and what to do.

    Args:
        card: its `about` says where the weights are.
        looked: places that were searched.
    """
    where = str(card.about.get("weights", "see its card"))
    published = _published(card)
    named = f", file {published.file}" if published else ""
    searched = f" Looked for {', '.join(map(str, looked))}." if looked else ""
    advice = "give the file with --checkpoint FILE (checkpoint= in Python)"
    if published is not None:
        advice = f"save it as {cache_dir() / published.file}, or {advice}"
    elif card.fit is not None and hub_of(card) is None:
        advice = f"run `kdpipe fit --teacher {card.name}` first, or {advice}"
    return CheckpointError(
        f"{card.name} has no weights here.{searched} Published: {where}{named}. To go on, {advice}."
    )


def _find_in_hub(card: TeacherCard, name: str, download: bool) -> Found | None:
    folder = hub.find(name, _revision(card), download=download)
    if folder is None:
        return None
    found = digest_of(folder)
    if card.weights_sha256 is not None and found != card.weights_sha256.lower():
        raise CheckpointError(
            f"{name} has SHA-256 {found[:16]}…, its card says {card.weights_sha256[:16].lower()}…: "
            "the model was changed; set network.revision in the card to the commit it was made for"
        )
    is_local = Path(name).expanduser().is_dir()
    return Found(path=folder, sha256=found, source="file" if is_local else f"{hub.SITE}/{name}")


def _revision(card: TeacherCard) -> str | None:
    revision = card.network.get("revision")
    return None if revision is None else str(revision)


def _published(card: TeacherCard) -> _Published | None:
    about, where = card.about, f"teachers/{card.name}: about"
    url, member = _text(about, "url", where), _text(about, "member", where)
    file = _text(about, "file", where)
    if url is None and file is None:
        return None
    file = file or Path(unquote(urlsplit(url or "").path)).name
    if file in ("", ".", "..") or Path(file).name != file:
        raise CardError(f"{where}.file: found {file!r}, expected the name of a file")
    if member is None and file.lower().endswith(".zip"):
        member = archive.MODEL
    size = about.get("size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool)):
        raise CardError(f"{where}.size: found {size!r}, expected a number of bytes")
    digest = _text(about, "sha256", where)
    return _Published(file=file, member=member, url=url, sha256=digest, size=size)


def _text(about: Mapping[str, object], key: str, where: str) -> str | None:
    value = about.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise CardError(f"{where}.{key}: found {value!r}, expected text")
    return value


def _fetch(published: _Published, url: str, sha256: str | None) -> None:
    member = published.member
    known = published.sha256 or (sha256 if member is None else None)
    remote = Remote(url=url, sha256=known, size=published.size)

    def keep(part: Path, target: Path) -> None:
        ready = part if member is None else target.with_name(f"{target.name}.part")
        try:
            if member is not None:
                archive.unpack(part, ready, member)
            found = sha256_of_file(ready)
            if sha256 is not None and found != sha256.lower():
                raise CheckpointError(
                    f"{target.name} in {url} has SHA-256 {found[:16]}…, its card says "
                    f"{sha256[:16].lower()}…: nothing was kept; take the card of this file"
                )
            _look_inside(ready, target)
        except CheckpointError as error:
            ready.unlink(missing_ok=True)
            said = str(error)
            for path in (ready, part):  # which nobody will find
                said = said.replace(str(path), f"what {url} gave")
            raise CheckpointError(said) from error
        _write_note(target, url, found, ready.stat().st_size)
        ready.replace(target)

    fetch(remote, cache_dir() / published.file, published.place, keep)


def _look_inside(path: Path, target: Path) -> None:
    """Refuses what holds no tensors, whatever it is called; it is mapped, not read.

    Raises:
        CheckpointError: a page of text, an archive that was cut off, a pickle with code.
    """
    if target.suffix != ".safetensors":
        checkpoint.read_state(path)
        return
    try:
        with safe_open(path, "pt"):
            pass
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is torn or no safetensors file ({error}): download it again"
        ) from error


def _checked(published: _Published, place: Path, sha256: str | None) -> Found:
    """Compares a cached checkpoint with its card, and with what it was at first use."""
    note, plain = _read_note(place), published.member is None
    size, found = place.stat().st_size, sha256_of_file(place)
    again = " to have it downloaded again" if published.url else " and fetch it again"
    advice = f"remove it and {_note_path(place).name}{again}"
    card_digest = sha256 or (published.sha256 if plain else None)
    for who, bytes_known, digest in (
        ("its card says", published.size if plain else None, card_digest),
        ("at its first use it had", note.get("size"), note.get("sha256")),
    ):
        if bytes_known is not None and str(bytes_known) != str(size):
            raise CheckpointError(f"{place} has {size} bytes, {who} {bytes_known}: {advice}")
        if digest is not None and found != digest.lower():
            raise CheckpointError(
                f"{place} has SHA-256 {found[:16]}…, {who} {digest[:16].lower()}…: {advice}"
            )
    source = note.get("source") or "file"
    if not note:
        try:
            _look_inside(place, place)
        except CheckpointError:
            if not plain:  # it was unpacked here
                place.unlink()
            raise
        _write_note(place, source, found, size)
    return Found(path=place, sha256=found, source=source)


def _note_path(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _read_note(place: Path) -> dict[str, str]:
    try:
        values = json.loads(_note_path(place).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckpointError(
            f"{_note_path(place)} is torn, expected the digest of {place.name}: remove both"
        ) from error
    return {str(key): str(value) for key, value in values.items()}


def _write_note(place: Path, source: str, sha256: str, size: int) -> None:
    values = {"source": source, "sha256": sha256, "size": size}
    beside = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    beside.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    beside.replace(_note_path(place))


def _rename(key: str, renames: Sequence[tuple[str, str]]) -> str:
    for old, new in renames:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
