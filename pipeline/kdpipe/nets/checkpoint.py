"""Checkpoints as data: read without running code, matched to a network to the last entry."""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kdpipe.errors import CheckpointError

logger = logging.getLogger(__name__)

_RECONSTRUCT = getattr(np, "_core").multiarray._reconstruct  # noqa: B009, private, but what files name
_NUMPY: list[Any] = [
    _RECONSTRUCT,
    (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
]
"""Names that make plain arrays and nothing else: BTS files keep their scores as arrays."""

SAFETENSORS = ".safetensors"

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_WRAPPERS = (*_AVERAGED, "state_dict", "model", "model_state_dict", "module")
"""Keys of a checkpoint under which the state dict itself may lie, also one in another; weights
averaged over a training (EMA) are what their authors evaluate, so they come first."""

_DEEPEST = 3
"""Wrappers in one another that are opened: a file may hold one that holds itself."""

_PREFIXES = ("module.", "_orig_mod.", "ema_model.")
"""Of data-parallel training, of torch.compile, of weights that were averaged beside a training."""

_MARKS = {
    "adaptive_bins_layer.": "AdaBins",
    "conditional_log_binomial": "ZoeDepth",
    "daspp_24": "BTS",
    "neck.multi_att": "Depthformer",
    "MFF.": "a network of Hu et al.",
    "decode_head.upsample_custom": "a student of TIE-KD",
    "backbone.embeddings": "a model of the Hugging Face hub",
}
"""Part of an entry's name -> whose checkpoint it is."""


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(path: Path, *, sha256: str | None = None, mapped: bool = True) -> dict[str, Tensor]:
    """Reads the state dict in a checkpoint, on the CPU.

    A wrapper {"state_dict": …} or {"model": …} is opened, averaged weights (EMA) before others, and
    prefixes like `module.` of data-parallel training are taken off. Nothing in the file is run:
    `weights_only=True`. Where its format allows, the file is mapped, not read: what nobody looks
    at costs no memory.

    Args:
        path: what `torch.save` wrote, zip or the older format; or *.safetensors.
        sha256: the file's expected digest; None: not checked.
        mapped: False reads it all, so that its tensors may outlive the file.

    Raises:
        CheckpointError: the file is missing, has another digest, is cut short, a web page, no
            checkpoint, or wants to run code.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is missing"
        raise CheckpointError(f"{path} {what}, expected a checkpoint file: check the path")
    try:
        can_be_mapped = path.suffix != SAFETENSORS and _is_zip(path)
        if sha256 is not None and (found := sha256_of_file(path)) != sha256.lower():
            raise CheckpointError(
                f"{path} has SHA-256 {found[:16]}…, its card says {sha256[:16].lower()}…: download "
                "it again, or take the card of this file"
            )
        if path.suffix == SAFETENSORS:
            content = load_file(path)  # mapped
            kept = content if mapped else {name: value.clone() for name, value in content.items()}
            return _tensors(path, kept)
        with (
            warnings.catch_warnings(action="ignore"),  # what it warns of, it then refuses
            torch.serialization.safe_globals(_NUMPY),
        ):
            mmap = mapped and can_be_mapped
            loaded: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} {_why_refused(path, error)}") from error
    except OSError as error:
        reason = error.strerror or _first_line(error)
        raise CheckpointError(
            f"{path} cannot be read ({reason}), expected a checkpoint: check its permissions"
        ) from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is torn or no safetensors file ({_first_line(error)}): download or train it "
            "again"
        ) from error
    except _TORN as error:
        raise CheckpointError(f"{path} {_say_torn(error)}") from error
    return _tensors(path, loaded)


def as_safetensors(state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of a state dict; the format has no strides and no tensor twice."""
    whole: dict[str, Tensor] = {}
    seen = set[int]()
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        whole[name] = value.clone() if place in seen else value
        seen.add(place)
    return save(whole, dict(metadata) if metadata else None)


def load_state(
    network: nn.Module,
    state: Mapping[str, Tensor],
    where: str,
    *,
    unused: Callable[[str], bool] = lambda key: False,
    names: Iterable[str] = (),
    take: bool = False,
) -> None:
    """Puts a state dict into a network, strictly; half precision is cast.

    Args:
        network: what receives it; changed only if everything fits.
        state: names as in the network's own state dict.
        where: the file's name, for the message.
        unused: names which the forward pass never reads: they may be absent, left over or of
            another shape, and are then ignored.
        names: of the entries in the file, where `state` was given others.
        take: the network's own tensors, which may be unfilled, give way to those of `state`
            instead of being filled from them; parameters that are unused and absent become 0.

    Raises:
        CheckpointError: another network's: counts, and names the first five missing, left over or
            of another shape.
    """
    own = network.state_dict()
    taken = {
        key: value
        for key, value in state.items()
        if not (unused(key) and (key not in own or own[key].shape != value.shape))
    }
    problems = _misfits(own, taken, unused)
    if problems:
        raise CheckpointError(
            f"{where} holds another network than {type(network).__name__} with {len(own)} entries: "
            f"{'; '.join(problems)}. {looks_like(names or state)}Check that card and file belong "
            "together"
        )
    _check_finite(taken, where)
    if take:
        unfilled = {one.data_ptr() for one in network.parameters()}  # and no computed buffer
        for key in own.keys() - taken.keys():
            if own[key].data_ptr() in unfilled:
                own[key].zero_()
        taken = {key: value.to(own[key].dtype) for key, value in taken.items() if key in own}
    del own  # some of it may be copies
    network.load_state_dict(taken, strict=False, assign=take)


def _misfits(
    own: Mapping[str, Tensor], taken: Mapping[str, Tensor], unused: Callable[[str], bool]
) -> list[str]:
    """How the entries differ from the network's own, one kind of difference each."""
    missing = [key for key in own if key not in taken and not unused(key)]
    extra = [key for key in taken if key not in own]
    misshapen = [
        f"{key} {tuple(value.shape)}, not {tuple(own[key].shape)}"
        for key, value in taken.items()
        if key in own and own[key].shape != value.shape
    ]
    return [
        f"{len(keys)} {what}: {', '.join(keys[:5])}{', …' if len(keys) > 5 else ''}"
        for what, keys in (
            ("missing", missing),
            ("left over", extra),
            ("of another shape", misshapen),
        )
        if keys
    ]


def _check_finite(state: Mapping[str, Tensor], where: str) -> None:
    for key, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(
                f"{where} holds values that are no numbers (NaN or infinite) in {key}, expected "
                "finite weights: the training that wrote it diverged; take another file"
            )


_TORN = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
)
"""What torch raises for a file that is cut short, or is something else."""


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(512).lstrip()
    if not start:
        raise CheckpointError(f"{path} is empty, expected a checkpoint: download it again")
    if start[:1] == b"<":
        raise CheckpointError(
            f"{path} is a web page, expected a checkpoint: the download met a login, confirmation "
            "or error page. Open the address in a browser and save the file itself"
        )
    whole_zip = zipfile.is_zipfile(path)
    if start.startswith(b"PK") and not whole_zip:  # a zip's table of contents is at its end
        raise CheckpointError(f"{path} is torn, its end is missing: download it again")
    return whole_zip


def _tensors(path: Path, found: object) -> dict[str, Tensor]:
    for _ in range(_DEEPEST):
        inside = found if isinstance(found, Mapping) else {}
        name = next((one for one in _WRAPPERS if isinstance(inside.get(one), Mapping)), None)
        if name is None:
            break
        if name in _AVERAGED:
            logger.info("%s: the averaged weights under %r are taken", path, name)
        found = inside[name]
    advice = f"expected a state dict, alone or under one of {', '.join(_WRAPPERS)}"
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path} holds {_describe(found)}, {advice}")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path} holds {_describe(value)} as {key!r}, {advice}")
    return _plain_names(found)


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    averaged = {key: value for key, value in state.items() if key.startswith("ema_model.")}
    plain = {}
    for key, value in (averaged or state).items():
        while prefix := next((one for one in _PREFIXES if key.startswith(one)), ""):
            key = key.removeprefix(prefix)
        if key != "n_averaged":  # of torch's AveragedModel
            plain[key] = value
    return plain


def looks_like(names: Iterable[str]) -> str:
    """A sentence and a space on whose checkpoint has entries of these names; empty: unknown."""
    keys = list(names)
    found = [name for mark, name in _MARKS.items() if any(mark in key for key in keys)]
    return f"It looks like {found[0].removesuffix('.')}. " if found else ""


def _why_refused(path: Path, error: Exception) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    with path.open("rb") as file:
        is_pickle = file.read(1) == b"\x80"
    if named or is_pickle:
        name = f" (it names {named[1]})" if named else ""
        return (
            f"would run code when loaded{name} and was refused, expected tensors only: "
            "take a plain state dict from a source you trust"
        )
    return "is no checkpoint, expected a file written by torch.save: download or fit it again"


def _say_torn(error: Exception) -> str:
    reason = "" if isinstance(error, KeyError) else f" ({_first_line(error)})"  # a byte's number
    return f"is torn or no checkpoint of torch.save{reason}: download or fit it again"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def _describe(value: object) -> str:
    return "nothing" if isinstance(value, Mapping) and not value else f"a {type(value).__name__}"
