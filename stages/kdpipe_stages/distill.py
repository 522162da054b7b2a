"""`kdpipe distill`: a student, from stores and labels."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from kdpipe_stages.compare import Wish, train
from kdpipe_stages.compare import compare as compare_methods
from kdpipe_stages.output import Json, Manifests, say

if TYPE_CHECKING:
    from kdpipe.distill import Distilled


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
        typer.Option(help="Whose stores are read, T[,T2]; default: the first of params.yaml."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The labelled data set; default: params.yaml's first.")
    ] = None,
    aux: Annotated[
        str | None, typer.Option(help="Unlabelled data sets to learn from too: A[,B].")
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="x|u|x+u|x+u-prime",
            help="--data alone, --aux alone, both, or both with the truth of --aux.",
        ),
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Share of --aux in a batch; default: as large as it is.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="A card in manifests/methods, none: labels only; default: params.yaml's."
        ),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="M1,M2", help="Methods, in one table, instead of one.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="With --compare: trainings of each; default: 1.")
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
    trainers: Annotated[
        int, typer.Option(min=1, help="Processes that share each batch, through Ray Train.")
    ] = 1,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Train STUDENT on DATA by METHOD, from what TEACHER said once; goes on where it stopped."""
    from kdpipe.cards import load_method
    from kdpipe_stages.names import listed, params_for, teachers_for

    params = params_for("distill", manifests)
    student, data = student or params.students[0], data or params.data[0]
    if compare is not None and (method is not None or seed):
        raise typer.BadParameter("it stands for --method and --seed", param_hint="--compare")
    if compare is None and seeds is not None:
        raise typer.BadParameter("it goes with --compare; of one: --seed", param_hint="--seeds")
    named_methods = None if compare is None else list(listed(compare))
    methods = named_methods or [method or params.methods[0]]
    if teacher is None and any(load_method(one, manifests).teacher for one in methods):
        teacher = params.teachers[0]
    named = () if teacher in (None, "none") else teachers_for(str(teacher), data, manifests)
    more = listed(aux) if aux and aux != "none" else ()
    wish = Wish(
        student=student,
        data=data,
        teachers=named,
        aux=more,
        mix=mix,
        ratio=ratio,
        params=params,
        manifests=manifests,
        on_missing=on_missing.value,
        max_minutes=max_minutes,
        device=device,
        workers=workers,
        trainers=trainers,
    )
    if compare is not None:
        table, values = compare_methods(methods, seeds or 1, wish)
        say(table, values, json=json)
        if values["failed"]:
            raise typer.Exit(1)
    else:
        say(*_said_of(train(wish, methods[0], seed)), json=json)


def _said_of(done: Distilled) -> tuple[str, Mapping[str, object]]:
    """A line for people, and the same as values."""
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
    return line, values
