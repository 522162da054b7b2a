"""Checkpoints of other people: read as data, matched to the last entry, or refused in one line."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdpipe.errors import CheckpointError

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard

_WRAPPERS = ("model", "state_dict")
"""Keys of a checkpoint under which the state dict itself may lie."""


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def missing_weights(card: TeacherCard, looked: Sequence[Path] = ()) -> CheckpointError:
    """The error for weights that are not there: where they are published, and what to do.

    Args:
        card: its `about` says where the weights are.
        looked: places that were searched.
    """
    published = str(card.about.get("weights", "see the paper"))
    file = card.about.get("file")
    named = f" as {file}" if file else ""
    searched = f" Looked in {', '.join(map(str, looked))}." if looked else ""
    advice = "give the file with --checkpoint FILE (checkpoint= in Python)"
    if card.fit is not None:
        advice = f"run `kdpipe fit --teacher {card.name}`, or {advice}"
    return CheckpointError(
        f"{card.name} has no weights here.{searched} Published: {published}{named}. "
        f"To go on, {advice}."
    )


def load_state(
    network: nn.Module,
    path: Path,
    *,
    renames: Sequence[tuple[str, str]] = (),
    sha256: str | None = None,
) -> None:
    """Fills a network from a checkpoint; every entry must be there, and no other.

    A wrapper `{model | state_dict: ...}`, the prefix `module.` and half precision are accepted.
    Nothing in the file is run. The file is mapped, not read, where its format allows, so loading
    needs little more memory than the network.

    Args:
        network: changed only if everything fits.
        path: what `torch.save` wrote.
        renames: start of an entry's name in older files -> its start in `network`.
        sha256: the file's expected digest; None: not checked.

    Raises:
        CheckpointError: missing, another digest, torn, not a checkpoint, unsafe, or of another
            network.
    """
    state = read_state(path, sha256=sha256)
    renamed = {_rename(key, renames): value for key, value in state.items()}
    check_state(renamed, network, path)
    network.load_state_dict(renamed)


def read_state(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """The state dict of a checkpoint, without wrapper and `module.`.

    Raises:
        CheckpointError: see `load_state`.
    """
    loaded = _read(path, sha256)
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(
            f"{path} holds {_describe(loaded)}, expected a state dict of named tensors, or one "
            "under 'model' or 'state_dict': is it a checkpoint?"
        )
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds {_describe(value)} under {key!r}, expected named tensors only, or "
                "them under 'model' or 'state_dict': is it a checkpoint?"
            )
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def check_state(state: Mapping[str, Tensor], network: nn.Module, path: Path) -> None:
    """Compares names and shapes with a network's.

    Raises:
        CheckpointError: with counts, and the first five of each kind.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in state]
    extra = [key for key in state if key not in own]
    other = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    differences = [
        f"{len(found)} {what} ({', '.join(found[:5])}{', …' if len(found) > 5 else ''})"
        for what, found in (
            ("missing", missing),
            ("left over", extra),
            ("of another shape", other),
        )
        if found
    ]
    if differences:
        raise CheckpointError(
            f"{path} belongs to another network: of {len(own)} entries "
            f"{'; '.join(differences)}. Check that card and file belong together."
        )


def _read(path: Path, sha256: str | None) -> object:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is missing"
        raise CheckpointError(f"{path} {what}, expected a checkpoint file: check the path")
    try:
        _check_start(path)
        if sha256 is not None and (found := sha256_of_file(path)) != sha256.lower():
            raise CheckpointError(
                f"{path} has SHA-256 {found[:16]}…, its card says {sha256[:16]}…: download it "
                "again, or take the card of this file"
            )
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_say_refused(path, error)) from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}): check its permissions and disk"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise CheckpointError(
            f"{path} is torn or no PyTorch checkpoint ({_first_line(error)}): download it again"
        ) from error


def _check_start(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(512).lstrip()
    if not start:
        raise CheckpointError(f"{path} is empty, expected a checkpoint: download it again")
    if start[:1] == b"<":
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint: the download met a confirmation or error "
            "page; open the link in a browser and save the file itself"
        )


def _say_refused(path: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "GLOBAL" in text or "global" in text:
        name = text.partition("GLOBAL ")[2].split(" ")[0] or "code"
        return (
            f"{path} names {name}, which would be run on loading, expected tensors only: refused. "
            "Take a file from a source you trust that holds a plain state dict."
        )
    return f"{path} is torn or no PyTorch checkpoint ({_first_line(error)}): download it again"


def _rename(key: str, renames: Sequence[tuple[str, str]]) -> str:
    for old, new in renames:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def _describe(value: object) -> str:
    return "nothing" if isinstance(value, Mapping) and not value else f"a {type(value).__name__}"
