"""`kdpipe fit`: a teacher's weights, trained here or recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdpipe_stages.output import Json, Manifests, say


def fit(
    teacher: Annotated[
        str | None,
        typer.Option(help="A teacher's card, or a family; default: params.yaml's first."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="An indexed data set; default: params.yaml's first.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Take these weights instead of training or looking.")
    ] = None,
    encoder_weights: Annotated[
        str | None, typer.Option(help="Start the encoder from this file, or from `imagenet`.")
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train by the card's recipe what is published too.")
    ] = False,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop then; the same command goes on.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 0,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Make TEACHER's weights ready: find published ones, else train them on DATA."""
    from kdpipe import fit as library
    from kdpipe_stages.names import params_for, teacher_for

    if checkpoint is not None and (train or encoder_weights is not None):
        raise typer.BadParameter(
            "these weights are taken as they are: leave --train and --encoder-weights out",
            param_hint="--checkpoint",
        )
    params = params_for("fit", manifests)
    data = data or params.data[0]
    teacher = teacher_for(teacher or params.teachers[0], data, manifests)
    done = library.run(
        teacher,
        data,
        manifests=manifests,
        params=params,
        checkpoint=checkpoint,
        encoder_weights=encoder_weights,
        train_published=train,
        max_minutes=max_minutes,
        device=device,
        workers=workers,
    )
    line = f"{teacher} is ready, weights from {done.source}: {done.path}"
    if done.source == "fitted":
        how = "fitted" if done.finished else "fitted in part, run it again to go on"
        shown = "".join(f", {name} {value:.4f}" for name, value in done.metrics.items())
        line = f"{teacher} {how}: {done.steps} steps, {done.seconds:.0f} s{shown}: {done.path}"
    values = {
        "teacher": teacher,
        "data": data,
        "source": done.source,
        "steps": done.steps,
        "seconds": done.seconds,
        "finished": done.finished,
        "path": str(done.path),
        **done.metrics,
    }
    say(line, values, json=json)
