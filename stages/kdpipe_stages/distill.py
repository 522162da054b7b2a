"""`kdpipe distill`: a student, from stores and labels."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from kdpipe_stages.output import Json, Manifests, say


class OnMissing(StrEnum):
    """What to do where a store is not finished."""

    error = "error"
    subset = "subset"


def distill(
    student: Annotated[
        str | None, typer.Option(help="A card in manifests/students; default: params.yaml's first.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Whose stores are read; default: params.yaml's first, if --method does."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The labelled data set; default: params.yaml's first.")
    ] = None,
    aux: Annotated[
        str | None, typer.Option(help="Unlabelled data sets to learn from too: A[,B].")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="A card in manifests/methods, none: labels only; default: params.yaml's."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation.")] = 0,
    on_missing: Annotated[
        OnMissing, typer.Option(help="Where a store is not finished.")
    ] = OnMissing.error,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop then; the same command goes on.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 0,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Train STUDENT on DATA by METHOD, from what TEACHER said once; goes on where it stopped."""
    from kdpipe import distill as library
    from kdpipe.cards import load_method
    from kdpipe.params import load_params
    from kdpipe_stages.names import teacher_for

    params = load_params()
    student, data = student or params.students[0], data or params.data[0]
    method = method or params.methods[0]
    if teacher is None and load_method(method, manifests).teacher:
        teacher = params.teachers[0]
    named = None if teacher in (None, "none") else teacher_for(str(teacher), data, manifests)
    done = library.run(
        student,
        data,
        teacher=named,
        aux=tuple(aux.split(",")) if aux and aux != "none" else (),
        method=method,
        seed=seed,
        manifests=manifests,
        params=params,
        on_missing=on_missing.value,
        max_minutes=max_minutes,
        device=device,
        workers=workers,
    )
    how = "trained" if done.finished else "trained in part, run it again to go on"
    shown = "".join(f", {name} {value:.4f}" for name, value in done.metrics.items())
    values = {
        "run": done.run,
        "steps": done.steps,
        "seconds": done.seconds,
        "finished": done.finished,
        "path": str(done.path),
        **done.metrics,
    }
    line = f"{done.run} {how}: {done.steps} steps, {done.seconds:.0f} s{shown}: {done.path}"
    say(line, values, json=json)
