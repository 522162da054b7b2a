"""`kdpipe audit`: what a store holds, and whether its teacher still says so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdpipe_stages.output import Json, Manifests, say


def audit(
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="T[,T2]",
            help="A card in manifests/teachers, or several; default: params.yaml's first.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set that was taught; default: params.yaml's first.")
    ] = None,
    relive: Annotated[
        int, typer.Option(min=0, metavar="K", help="Teach K images again and compare all arrays.")
    ] = 0,
    geometry: Annotated[
        int,
        typer.Option(min=0, metavar="K", help="Flip, crop and scale K images before the teacher."),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Which images, spread over the shards.")] = 0,
    fitted_on: Annotated[
        str | None, typer.Option(help="The data set whose `fit` gave the weights; default: DATA.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The weights themselves, instead of fitted ones.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, …; auto: a GPU if seen.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads; default: one a processor.")
    ] = None,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Check TEACHER's store over DATA: coverage, depth range, agreement with truth, entropy."""
    from kdpipe import audit as library
    from kdpipe.errors import StoreError
    from kdpipe.params import load_params
    from kdpipe.teaching.source import Source
    from kdpipe_stages.names import teachers_for

    params = load_params()
    data = data or params.data[0]
    source = Source(fitted_on=fitted_on, checkpoint=checkpoint, manifests=manifests)
    again = library.Again(relive=relive, geometry=geometry, seed=seed, device=device, source=source)
    names = teachers_for(teacher or params.teachers[0], data, manifests)
    done = library.run_each(names, data, again=again, workers=workers, manifests=manifests)
    lines = [_line(one.summary) + f": {one.path}" for one in done]
    found = [{**one.summary, "path": str(one.path)} for one in done]
    say("\n".join(lines), found[0] if len(found) == 1 else {"audits": found}, json=json)
    problems = [one.problem for one in done if one.problem]
    if problems:
        raise StoreError("; ".join(problems))


def _line(found: dict[str, Any]) -> str:
    line = (
        f"{found['finished']} of {found['rows']} rows taught, {found['bad']} bad, "
        f"coverage {found['coverage']:.1%}"
    )
    if relived := found.get("relive"):
        line += f", {len(relived['beyond'])} of {relived['images']} beyond the bound"
    if moved := found.get("geometry"):
        errors = [f"{name} {_percent(moved[name])}" for name in ("flip", "crop", "scale")]
        line += f", moved images differ by {', '.join(errors)}"
    if compared := found.get("disagreement"):
        errors = [f"{name} {_percent(one)}" for name, one in compared["teachers"].items()]
        line += "".join(f", from {one}" for one in errors)
    return line


def _percent(found: dict[str, Any]) -> str:
    return "nowhere" if found["abs_rel"] is None else f"{found['abs_rel']:.1%}"
