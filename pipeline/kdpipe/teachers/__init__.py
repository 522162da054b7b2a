"""Teachers: images -> depth [m] and bins. One file a family; a card names its family."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from kdpipe.cards import TeacherCard, load_teacher_card
from kdpipe.errors import UnknownNameError
from kdpipe.nets.unfilled import Unfilled
from kdpipe.teachers.base import PRECISIONS, Bins, Teacher, TeacherOutput
from kdpipe.teachers.weights import find_published, load_state, missing_weights, unpacked

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Bins",
    "Teacher",
    "TeacherOutput",
    "build_network",
    "load_family",
    "load_teacher",
    "make_teacher",
]

_OTHER = {"__init__", "archive", "base", "download", "hub", "weights"}
"""Files here that are no family."""


class Family(Protocol):
    """What teachers/<family>.py holds.

    Beside that it may have `load_network(card, path)`, where weights bring their own architecture.
    """

    RENAMES: tuple[tuple[str, str], ...]
    """Start of an entry's name in older checkpoints -> its start in ours."""

    def build(self, card: TeacherCard) -> nn.Module:
        """The network with random weights."""

    def make_teacher(
        self, card: TeacherCard, network: nn.Module, device: str, mirror: bool | None
    ) -> Teacher:
        """That network, with weights, as a teacher."""


_Load: TypeAlias = Callable[[TeacherCard, Path], "nn.Module"]


def family_names() -> list[str]:
    """Families there are a file for, sorted."""
    return sorted({p.stem for p in Path(__file__).parent.glob("*.py")} - _OTHER)


def load_family(name: str) -> Family:
    """Imports teachers/<name>.py.

    Raises:
        UnknownNameError: there is no such file.
    """
    known = family_names()
    if name not in known:
        raise UnknownNameError("kdpipe/teachers", name, known)
    return cast("Family", importlib.import_module(f"kdpipe.teachers.{name}"))


def build_network(card: TeacherCard) -> nn.Module:
    """The card's network with random weights, to be trained: `forward` takes RGB in [0, 1].

    Raises:
        UnknownNameError: no such family.
        CardError: the card's `network:` is not what the family expects.
    """
    return load_family(card.family).build(card)


def make_teacher(
    card: TeacherCard,
    network: nn.Module,
    *,
    device: str = "cpu",
    mirror: bool | None = None,
    precision: str = "fp32",
) -> Teacher:
    """A network that has its weights already, as a teacher; it is moved and set to evaluation.

    Raises:
        DeviceError: the device is not there.
        UnknownNameError: no such precision.
    """
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    teacher = load_family(card.family).make_teacher(card, network, device, mirror)
    teacher.precision = precision
    return teacher


def load_teacher(
    card: TeacherCard | str,
    *,
    checkpoint: Path | str | None = None,
    device: str = "cpu",
    mirror: bool | None = None,
    precision: str = "fp32",
) -> Teacher:
    """A teacher with the weights of a file.

    Args:
        card: itself, or its name in manifests/teachers.
        checkpoint: published, or written by `kdpipe fit`, or a folder of transformers; loaded as
            data, never as code. None: the card's published weights, from the cache or downloaded
            into it.
        device: a torch device's name.
        mirror: overrides the card's.
        precision: `fp32`, or `bf16` or `fp16` for automatic mixed precision; depth and
            probabilities are float32 whatever it is.

    Raises:
        CheckpointError: none is given and none can be found; or it is missing, torn, unsafe or
            another network's, or is not the file of the card's `weights_sha256`.
        DeviceError: the device is not there.
        UnknownNameError: no such card or precision.
    """
    card = load_teacher_card(card) if isinstance(card, str) else card
    family = load_family(card.family)
    path = _find(card) if checkpoint is None else unpacked(Path(checkpoint))
    load: _Load | None = getattr(family, "load_network", None)
    if load is not None:
        network = load(card, path)
    else:
        with Unfilled():
            network = family.build(card)
        digest = card.weights_sha256
        load_state(network, path, renames=family.RENAMES, sha256=digest, take=True)
    return make_teacher(card, network, device=device, mirror=mirror, precision=precision)


def _find(card: TeacherCard) -> Path:
    found = find_published(card)
    if found is None:
        raise missing_weights(card)
    return found.path
