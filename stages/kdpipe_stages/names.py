"""What a name on the command line stands for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kdpipe.params import Params


def listed(names: str) -> tuple[str, ...]:
    """The names in A[,B], without blanks around them.

    Raises:
        KdpipeError: one of them is empty.
    """
    found = tuple(one.strip() for one in names.split(","))
    if not all(found):
        from kdpipe.errors import KdpipeError

        raise KdpipeError(f"{names!r}: found an empty name, expected NAME[,NAME]: see the commas")
    return found


def teacher_for(name: str, data: str, manifests: Path | None = None) -> str:
    """The card that a teacher's name means for a data set: itself, or that of a family's name.

    Args:
        name: a card, or a family (`zoedepth` is `zoedepth-n` on NYU).
        data: a data set; read only where a family must be resolved.
        manifests: folder of the cards.

    Raises:
        UnknownNameError: nothing has this name.
        DataError: the data set decides, and was not indexed yet.
    """
    from kdpipe.cards import card_names, resolve_teacher

    known = card_names("teachers", manifests)
    if name in known or not any(one.startswith(f"{name}-") for one in known):
        return name  # where nothing has this name, who loads the card says so
    from kdpipe.datasets.indexed import rows_of

    return resolve_teacher(name, rows_of(data, manifests).card.domain, manifests)


def teachers_for(names: str, data: str, manifests: Path | None = None) -> tuple[str, ...]:
    """The cards that T[,T2] means for a data set, see `teacher_for`."""
    return tuple(teacher_for(one, data, manifests) for one in listed(names))


def params_for(section: Literal["fit", "distill"], manifests: Path | None = None) -> Params:
    """Reads params.yaml for a command that takes its settings from a section of it.

    Args:
        section: a name in it that is of no card would else be passed over, and defaults be taken.
        manifests: folder of the cards.

    Raises:
        CardError: params.yaml is not what it should be.
        UnknownNameError: the section has settings for what is no card.
    """
    from kdpipe.cards import card_names
    from kdpipe.errors import UnknownNameError
    from kdpipe.params import load_params

    params = load_params()
    named = params.fit if section == "fit" else params.distill
    known = card_names("teachers" if section == "fit" else "students", manifests)
    for name in named:
        if name not in known:
            lacks = f"settings for {name!r}, which is no card"
            raise UnknownNameError(f"params.yaml: {section}", name, known, lacks)
    return params
