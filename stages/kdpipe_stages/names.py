"""What a name on the command line stands for."""

from __future__ import annotations

from pathlib import Path


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
