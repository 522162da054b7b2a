"""`kdpipe list`: the cards there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        Kind | None, typer.Argument(help="One kind; of teachers and students it says more.")
    ] = None,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """List the teachers, students, data sets and methods there are."""
    from kdpipe.cards import card_names

    if kind is Kind.teachers:
        told = {name: _teacher(name, manifests) for name in card_names("teachers", manifests)}
        head = ["family", "depth", "bins", "weights", "licence"]
        say(_table("teacher", head, told), {"teachers": told}, json=json)
        return
    if kind is Kind.students:
        told = {name: _student(name, manifests) for name in card_names("students", manifests)}
        head = list(next(iter(told.values()), {}))
        say(_table("student", head, told), {"students": told}, json=json)
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


def _student(name: str, manifests: Path | None) -> dict[str, object]:
    from kdpipe.cards import load_student_card
    from kdpipe.students.cost import SIZE, cost_of

    card = load_student_card(name, manifests)
    cost = cost_of(card)
    height, width = SIZE
    return {
        "family": card.family,
        "encoder": card.encoder,
        "head": card.head,
        "M parameters": round(cost.parameters / 1e6, 2),
        f"GMAC at {height}x{width}": round(cost.macs / 1e9, 1),
        "of them decoder": round(cost.decoder_macs / 1e9, 1),
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


def _table(what: str, head: Sequence[str], told: Mapping[str, Mapping[str, object]]) -> str:
    rows = [[what, *head]]
    rows += [[name, *(str(values[key]) for key in head)] for name, values in told.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )
