"""The files of cards: found by name, read, checked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, cast

from kdpipe.cards.data import DataCard
from kdpipe.cards.method import MethodCard
from kdpipe.cards.networks import StudentCard, TeacherCard
from kdpipe.errors import CardError, UnknownNameError
from kdpipe.strict import build, read_yaml

logger = logging.getLogger(__name__)

Kind = Literal["data", "teachers", "students", "methods"]

_ENDINGS = {"nyu": ("n", "nyu", "resnet34"), "kitti": ("k", "kitti")}
"""Domain -> how a family's card for it ends, best first; Hu et al.'s only network is indoor."""

_ANY = ("nk", "nyu", "resnet34")
"""The same for other domains."""

_KINDS: dict[Kind, type] = {
    "data": DataCard,
    "teachers": TeacherCard,
    "students": StudentCard,
    "methods": MethodCard,
}


def card_folders(manifests: Path | None = None) -> list[Path]:
    """Folders that are searched for cards, first wins.

    Raises:
        CardError: `manifests` is given and is no folder.
    """
    if manifests is not None and not manifests.is_dir():
        raise CardError(f"{manifests} is no folder of cards: pass --manifests FOLDER, or none")
    package = Path(__file__).parents[1]
    wheel, checkout = package / "manifests", package.parents[1] / "manifests"
    own = [manifests] if manifests is not None else [Path("manifests")]
    return [folder for folder in [*own, wheel, checkout] if folder.is_dir()]


def card_names(kind: Kind, manifests: Path | None = None) -> list[str]:
    """Names of all cards of a kind, sorted."""
    return sorted({p.stem for f in card_folders(manifests) for p in (f / kind).glob("*.yaml")})


def find_card(kind: Kind, name: str, manifests: Path | None = None) -> Path:
    """Finds the file of a card.

    Raises:
        UnknownNameError: there is none of this name.
    """
    known = card_names(kind, manifests)
    if name not in known:  # also keeps a name with a slash from leaving the folder
        raise UnknownNameError(f"manifests/{kind}", name, known)
    return next(p for f in card_folders(manifests) if (p := f / kind / f"{name}.yaml").is_file())


def load_data(name: str, manifests: Path | None = None) -> DataCard:
    """Loads manifests/data/<name>.yaml."""
    return cast("DataCard", _load("data", name, manifests))


def load_teacher_card(name: str, manifests: Path | None = None) -> TeacherCard:
    """Loads manifests/teachers/<name>.yaml."""
    return cast("TeacherCard", _load("teachers", name, manifests))


def resolve_teacher(name: str, domain: str, manifests: Path | None = None) -> str:
    """A teacher's card, also by its family's name: the card for a data set's domain.

    Args:
        name: a card, or what a family's cards begin with (`zoedepth`).
        domain: of the data set.
        manifests: folder of the cards.

    Raises:
        UnknownNameError: neither a card, nor a family with a card for the domain.
    """
    known = card_names("teachers", manifests)
    if name in known:
        return name
    for ending in _ENDINGS.get(domain, _ANY):
        if (resolved := f"{name}-{ending}") in known:
            logger.info("teacher %s is %s for images of domain %r", name, resolved, domain)
            return resolved
    family = [one for one in known if one.startswith(f"{name}-")]
    lacks = f"no card of {name!r} for images of domain {domain!r}" if family else ""
    raise UnknownNameError("manifests/teachers", name, family or known, lacks)


def load_student_card(name: str, manifests: Path | None = None) -> StudentCard:
    """Loads manifests/students/<name>.yaml."""
    return cast("StudentCard", _load("students", name, manifests))


def load_method(name: str, manifests: Path | None = None) -> MethodCard:
    """Loads manifests/methods/<name>.yaml."""
    return cast("MethodCard", _load("methods", name, manifests))


def _load(kind: Kind, name: str, manifests: Path | None) -> object:
    path = find_card(kind, name, manifests)
    card: Any = build(_KINDS[kind], read_yaml(path), str(path))
    if card.name != name:
        raise CardError(f"{path}: name is {card.name!r}, expected {name!r}, as the file is called")
    if kind != "data" and {"_", "+"} & set(name):
        raise CardError(
            f"{path}: the name {name!r} holds '_' or '+', which part the names in a run's: call it "
            f"{name.replace('_', '-').replace('+', '-')!r}"
        )
    return card
