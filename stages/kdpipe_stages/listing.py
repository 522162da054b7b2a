"""`kdpipe list`: the cards there are."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdpipe_stages.output import Json, Manifests, say

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard


class Kind(StrEnum):
    """Folders of manifests/."""

    teachers = "teachers"
    students = "students"
    data = "data"
    methods = "methods"


def listing(
    kind: Annotated[
        Kind | None, typer.Argument(help="One kind only; of teachers it says more.")
    ] = None,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """List the teachers, students, data sets and methods there are."""
    from kdpipe.cards import card_names

    if kind is Kind.teachers:
        told = {name: _teacher(name, manifests) for name in card_names("teachers", manifests)}
        say(_table(told), {"teachers": told}, json=json)
        return
    kinds = [kind] if kind else list(Kind)
    names = {one.value: card_names(one.value, manifests) for one in kinds}
    lines = [f"{one}: {', '.join(known) or 'none'}" for one, known in names.items()]
    say("\n".join(lines), names, json=json)


def _teacher(name: str, manifests: Path | None) -> dict[str, object]:
    from kdpipe.cards import load_teacher_card

    card = load_teacher_card(name, manifests)
    return {
        "family": card.family,
        "depth": f"{card.min_depth:g}-{card.max_depth:g} m" if card.is_metric else "relative",
        "bins": card.bins,
        "weights": _weights(card),
        "licence": str(card.about.get("licence", "unknown")),
    }


def _weights(card: TeacherCard) -> str:
    """Whether they are on this machine, and else how they come here."""
    from kdpipe.store import layout
    from kdpipe.teachers.weights import hub_of, is_here, is_published

    noted = sorted(Path().glob(str(layout.weights_path("*", card.name))))
    if noted:
        return f"here, for {', '.join(path.parent.parent.name for path in noted)}"
    if is_here(card):
        return "here"
    if not is_published(card):
        return "fitted on your data"
    is_direct = hub_of(card) is not None or "url" in card.about
    return "downloaded by fit" if is_direct else "fetched by hand"


def _table(told: Mapping[str, Mapping[str, object]]) -> str:
    head = ["teacher", "family", "depth", "bins", "weights", "licence"]
    rows = [head] + [
        [name, *(str(values[key]) for key in head[1:])] for name, values in told.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )
