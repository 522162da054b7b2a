"""`kdpipe list`: the cards there are."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from kdpipe_stages.output import Json, Manifests, say


class Kind(StrEnum):
    """Folders of manifests/."""

    teachers = "teachers"
    students = "students"
    data = "data"
    methods = "methods"


def listing(
    kind: Annotated[Kind | None, typer.Argument(help="One kind only.")] = None,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """List the teachers, students, data sets and methods there are."""
    from kdpipe.cards import card_names

    kinds = [kind] if kind else list(Kind)
    names = {one.value: card_names(one.value, manifests) for one in kinds}
    lines = [f"{one}: {', '.join(known) or 'none'}" for one, known in names.items()]
    say("\n".join(lines), names, json=json)
