"""`kdpipe audit`: what a store holds, before anyone trains from it."""

from __future__ import annotations

from typing import Annotated

import typer

from kdpipe_stages.output import Json, Manifests, say


def audit(
    teacher: Annotated[
        str | None, typer.Option(help="A card in manifests/teachers; default: params.yaml's first.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set that was taught; default: params.yaml's first.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads; default: one a processor.")
    ] = None,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Check TEACHER's store over DATA: coverage, depth range, agreement with truth, entropy."""
    from kdpipe import audit as library
    from kdpipe.params import load_params
    from kdpipe_stages.names import teacher_for

    params = load_params()
    data = data or params.data[0]
    done = library.run(
        teacher_for(teacher or params.teachers[0], data, manifests),
        data,
        workers=workers,
        manifests=manifests,
    )
    found = done.summary
    line = (
        f"{found['finished']} of {found['rows']} rows taught, {found['bad']} bad, "
        f"coverage {found['coverage']:.1%}: {done.path}"
    )
    say(line, {**found, "path": str(done.path)}, json=json)
