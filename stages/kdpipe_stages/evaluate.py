"""`kdpipe evaluate`: a student, or a teacher straight from its store, against measured depth."""

from __future__ import annotations

from typing import Annotated

import typer

from kdpipe_stages.output import Json, Manifests, say


def evaluate(
    run: Annotated[
        str | None, typer.Option(help="A folder of artifacts/students, as `distill` named it.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="A card in manifests/students; names the run in parts.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A card in manifests/teachers; alone: judge its store.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A data set; default: the run's own.")] = None,
    aux: Annotated[str | None, typer.Option(help="With --student: unlabelled data sets.")] = None,
    method: Annotated[str, typer.Option(help="With --student.")] = "none",
    seed: Annotated[int, typer.Option(help="With --student.")] = 0,
    split: Annotated[str | None, typer.Option(help="Default: as params.yaml says.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Of the tables, e.g. nyu-eigen; default: the data card's.")
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option("--mirror/--no-mirror", help="Average with the mirrored image."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one forward pass.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Judge a student (--run, or --student with its parts) or a teacher's store (--teacher)."""
    from kdpipe import evaluate as library
    from kdpipe.cards import load_student_card
    from kdpipe.params import load_params
    from kdpipe.store.layout import Run

    if run is None:
        data = data or load_params().data[0]
    if student is not None and run is None:
        load_student_card(student, manifests)
        others = tuple(aux.split(",")) if aux and aux != "none" else ()
        run = Run(
            data=str(data),
            aux=others,
            teacher=teacher or "none",
            student=student,
            method=method,
            seed=seed,
        ).name
    if run is None and teacher is None:
        teacher = load_params().teachers[0]
    done = library.run(
        run=run,
        teacher=None if run is not None else teacher,
        data=data,
        split=split,
        protocol=protocol,
        mirror=mirror,
        batch_size=batch_size,
        device=device,
        manifests=manifests,
    )
    found = done.metrics
    line = (
        f"{done.summary['run']} on {done.summary['images']} images of {done.summary['data']} "
        f"{done.summary['split']}, {done.summary['protocol']}: abs_rel {found['abs_rel']:.4f}, "
        f"rmse {found['rmse']:.4f} m, delta1 {found['delta1']:.4f}: {done.path}"
    )
    say(line, {**done.summary, "path": str(done.path)}, json=json)
