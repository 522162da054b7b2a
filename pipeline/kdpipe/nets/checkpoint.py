"""Checkpoints as data: read without running code, matched to a network name by name."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from kdpipe.errors import CheckpointError

_WRAPPERS = ("state_dict", "model", "model_state_dict")


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads the state dict in a checkpoint, on the CPU.

    A wrapper {"state_dict": …} or {"model": …} is opened, the prefix `module.` of data-parallel
    training is taken off. Nothing in the file is run: `weights_only=True`.

    Raises:
        CheckpointError: the file is missing, cut short, a web page, or wants to run code.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: expected a checkpoint there") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} {_why_refused(path, str(error))}") from error
    except (OSError, RuntimeError, EOFError, BadZipFile, ValueError, KeyError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({first}): cut short? Download or fit it again"
        ) from error
    return _tensors(path, found)


def load_state(
    network: nn.Module,
    state: Mapping[str, Tensor],
    where: str,
    *,
    unused: Callable[[str], bool] = lambda key: False,
) -> None:
    """Puts a state dict into a network, strictly.

    Args:
        network: what receives it.
        state: names as in the network's own state dict.
        where: the file's name, for the message.
        unused: names which the forward pass never reads: they may be absent, left over or of
            another shape, and are then ignored.

    Raises:
        CheckpointError: another network's: names the first five missing, left over or misshapen.
    """
    own = network.state_dict()
    taken = {
        key: value
        for key, value in state.items()
        if not (unused(key) and (key not in own or own[key].shape != value.shape))
    }
    missing = [key for key in own if key not in taken and not unused(key)]
    extra = [key for key in taken if key not in own]
    misshapen = [
        f"{key} {tuple(value.shape)}, not {tuple(own[key].shape)}"
        for key, value in taken.items()
        if key in own and own[key].shape != value.shape
    ]
    problems = [
        f"{what}: {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for what, keys in (("missing", missing), ("left over", extra), ("misshapen", misshapen))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"{where} holds another network than {type(network).__name__}: {'; '.join(problems)}. "
            "Check the card, its bins and its width"
        )
    network.load_state_dict(taken, strict=False)


def _tensors(path: Path, found: object) -> dict[str, Tensor]:
    for name in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(
            f"{path} holds {type(found).__name__}, expected a state dict, alone or under one of "
            f"{', '.join(_WRAPPERS)}"
        )
    odd = [key for key, value in found.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(
            f"{path} holds {odd[0]!r}, which is no tensor: expected a state dict, alone or under "
            f"one of {', '.join(_WRAPPERS)}"
        )
    return {str(key).removeprefix("module."): value for key, value in found.items()}


def _why_refused(path: Path, reason: str) -> str:
    start = path.read_bytes()[:64].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, expected a checkpoint: the download needs a login or has moved"
    if "Unsupported" in reason or "GLOBAL" in reason:
        return "would run code when loaded, and was refused: expected tensors only"
    return "is no checkpoint: expected a file written by torch.save. Download or fit it again"
