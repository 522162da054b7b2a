"""Student networks: small, and the only ones that run after distillation."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, cast

from kdpipe.cards import StudentCard, load_student_card
from kdpipe.errors import CardError, CheckpointError, UnknownNameError
from kdpipe.nets.checkpoint import as_safetensors, load_state, read_state, sha256_of_file
from kdpipe.nets.device import find_device
from kdpipe.nets.imagenet import weights_file
from kdpipe.strict import build
from kdpipe.students.base import BINS, Student, StudentOutput, UniformBins, bins_of

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "BINS",
    "Student",
    "StudentOutput",
    "UniformBins",
    "bins_of",
    "build_network",
    "load_student",
    "model_path",
    "save_student",
    "used_parameters",
    "weights_digest",
]

MODEL_FILE = "model.safetensors"
_OLD_MODEL_FILE = "model.pt"
CARD_FILE = "card.json"
EXPORTS = ("model.onnx", "model-int8.onnx", "export.json")
"""What `export` writes beside them: float, 8 bits, what was measured."""


def build_network(
    card: StudentCard, *, bins_domain: str = "nyu", encoder_weights: str | None = None
) -> nn.Module:
    """Builds a student for training: random weights, the encoder's of ImageNet if they are named.

    Args:
        card: what to build.
        bins_domain: a data set's domain; `kitti` has 257 bins to 80 m, all others 49 to 10 m.
        encoder_weights: a checkpoint of the encoder, or `imagenet`: timm's, from the hub or its
            cache; used where the card names none.

    Returns:
        A network of RGB (B, 3, H, W) in [0, 1] to `StudentOutput`.

    Raises:
        UnknownNameError: family, encoder or domain.
        CheckpointError: the encoder's weights are missing, unreadable or another network's.
    """
    family = load_family(card.family)
    network = cast("nn.Module", family.build(card, bins_of(bins_domain)))
    weights = card.encoder_weights or encoder_weights
    if weights is not None:
        family.load_encoder(network, weights_file(weights, card.encoder))
    return network


def load_student(
    path_or_name: Path | str,
    checkpoint: Path | str | None = None,
    *,
    bins: str | None = None,
    head: Literal["dpm", "regression"] | None = None,
    device: str = "cpu",
) -> Student:
    """Loads a trained student: a run's folder, or a card's name and a checkpoint.

    Args:
        path_or_name: folder that `distill` wrote, or the name of a card.
        checkpoint: weights for the card, ours or the published ones; a run has its own.
        bins: `nyu` or `kitti`; None: as the run says, or as the checkpoint's head shows.
        head: another head than the card's.
        device: where it runs; `auto`: CUDA where there is one.

    Returns:
        The student, in evaluation mode.

    Raises:
        UnknownNameError: no such card.
        CheckpointError: files are missing, unreadable or another network's.
        DeviceError: the device is not there.
    """
    place = find_device(device)
    folder = Path(path_or_name)
    if (folder / CARD_FILE).is_file():
        card, bins_name, size = _read_card(folder / CARD_FILE)
        weights = Path(checkpoint) if checkpoint is not None else model_path(folder)
    elif isinstance(path_or_name, Path) or len(folder.parts) != 1 or folder.is_dir():
        raise CheckpointError(
            f"{folder} holds no {CARD_FILE}: expected the folder of a finished run. "
            "Run `kdpipe distill`"
        )
    else:
        card, bins_name, size = load_student_card(path_or_name), None, None
        if checkpoint is None:
            raise CheckpointError(
                f"student {path_or_name} has no weights: pass checkpoint=, or a run's folder"
            )
        weights = Path(checkpoint)
    if head is not None:
        if head not in ("dpm", "regression"):
            raise UnknownNameError("heads", head, ("dpm", "regression"))
        card = dataclasses.replace(card, head=head)
    state = read_state(weights)
    family = load_family(card.family)
    usual: str | None = getattr(family, "BINS", None)
    kind = bins_of(bins or bins_name or usual or _bins_in(state, weights))
    network = cast("nn.Module", family.build(card, kind))
    load_state(network, state, str(weights), unused=getattr(network, "is_unused"))  # noqa: B009
    network.eval().to(place)
    return Student(card, network, kind, size, str(place))


def model_path(run_dir: Path) -> Path:
    """A run's weights; those of older versions where there are no others."""
    path, old = run_dir / MODEL_FILE, run_dir / _OLD_MODEL_FILE
    return old if old.is_file() and not path.exists() else path


def weights_digest(run_dir: Path) -> str | None:
    """SHA-256 of a run's weights; None: there are none."""
    path = model_path(run_dir)
    return sha256_of_file(path) if path.is_file() else None


def save_student(
    run_dir: Path, network: nn.Module, card: StudentCard, bins: str, size: tuple[int, int]
) -> None:
    """Writes a run's model.safetensors and card.json, each whole or not at all.

    What was exported from earlier weights is removed.

    Args:
        run_dir: the run's folder; made if missing.
        network: what `build_network` gave, trained.
        card: its card.
        bins: the domain it was built for.
        size: (H, W) in pixels that it was trained at.

    Raises:
        OSError: the disk refuses; nothing half-written is left.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    for name in (*EXPORTS, _OLD_MODEL_FILE):
        (run_dir / name).unlink(missing_ok=True)
    _write(run_dir / MODEL_FILE, as_safetensors(network.state_dict()))
    said = {"card": dataclasses.asdict(card), "bins": bins_of(bins).name, "size": list(size)}
    _write(run_dir / CARD_FILE, (json.dumps(said, indent=2, sort_keys=True) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with half.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        half.unlink(missing_ok=True)


def used_parameters(network: nn.Module) -> int:
    """Parameters that the forward pass reads: an unused head of the other kind is not counted."""
    unused = getattr(network, "is_unused", lambda _name: False)
    return sum(p.numel() for name, p in network.named_parameters() if not unused(name))


def load_family(name: str) -> ModuleType:
    """Imports students/<name>.py.

    Raises:
        UnknownNameError: lists the families there are.
    """
    files = {path.stem for path in Path(__file__).parent.glob("*.py")}
    known = files - {"__init__", "base", "cost"}
    if name not in known:
        raise UnknownNameError("kdpipe/students", name, known)
    return importlib.import_module(f"kdpipe.students.{name}")


def _read_card(path: Path) -> tuple[StudentCard, str, tuple[int, int] | None]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        card = build(StudentCard, said["card"], str(path))
        height, width = said["size"]
        return card, str(said["bins"]), (int(height), int(width))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, CardError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"{path} is no student's card ({reason}): expected card, bins and size. "
            "Run `kdpipe distill` again"
        ) from error


def _bins_in(state: dict[str, Tensor], path: Path) -> str:
    found = state.get("decode_head.conv_out.0.weight")
    count = -1 if found is None else len(found)
    for name, bins in BINS.items():
        if bins.count == count:
            return name
    published = "; a regression student's (Res-KD) wants head='regression' too" * (count == 256)
    raise CheckpointError(
        f"{path} does not show its bins: pass bins={' or bins='.join(map(repr, BINS))}{published}"
    )
