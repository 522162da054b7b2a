"""`kdpipe evaluate`: a student, or a teacher straight from its store, against measured depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from kdpipe_stages.output import Json, Manifests, say

if TYPE_CHECKING:
    from kdpipe.evaluate import Evaluation


def evaluate(
    run: Annotated[
        str | None, typer.Option(help="A folder of artifacts/students, as `distill` named it.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="A card in manifests/students; names the run in parts.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="A card in manifests/teachers; alone: judge its store, of T,T2 their mean."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="A data set; default: the run's own.")] = None,
    aux: Annotated[str | None, typer.Option(help="With --student: unlabelled data sets.")] = None,
    mix: Annotated[str | None, typer.Option(help="With --aux: as `distill` was told.")] = None,
    ratio: Annotated[float | None, typer.Option(help="With --aux: as `distill` was told.")] = None,
    method: Annotated[
        str | None, typer.Option(help="With --student; default: params.yaml's, or none.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="With --student; default: 0.")] = None,
    split: Annotated[str | None, typer.Option(help="Default: as params.yaml says.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Of the tables, e.g. nyu-eigen; default: the data card's.")
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option("--mirror/--no-mirror", help="Average with the mirrored image."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one forward pass.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Judge a student (--run, or --student with its parts) or a teacher's store (--teacher)."""
    from dataclasses import asdict

    from kdpipe import evaluate as library
    from kdpipe.cards import load_method, load_student_card
    from kdpipe.params import load_params
    from kdpipe.store.layout import Run
    from kdpipe.training.mixes import mix_of
    from kdpipe_stages.names import listed, teachers_for

    parts = {"--aux": aux, "--mix": mix, "--ratio": ratio, "--method": method, "--seed": seed}
    _refuse_unused(run, student, {"--teacher": teacher, **parts})
    if run is None and student is None and mirror is not None:
        raise typer.BadParameter("a store is judged as it is", param_hint="--mirror")
    params = load_params()
    if run is None:
        data = data or params.data[0]
        if teacher not in (None, "none"):
            teacher = "+".join(teachers_for(str(teacher), data, manifests))
    if run is None and student is not None:
        load_student_card(student, manifests)
        further = listed(aux) if aux and aux != "none" else ()
        method = method or (params.methods[0] if teacher else "none")
        run = Run(
            data=str(data),
            aux=further,
            mix=mix_of(mix, ratio, further, load_method(method, manifests)).tag,
            ratio=ratio,
            teacher=teacher or "none",
            student=student,
            method=method,
            seed=seed or 0,
        ).name
    done = library.run(
        run=run,
        teacher=None if run else teacher or params.teachers[0],
        data=data,
        split=split,
        protocol=protocol,
        mirror=mirror,
        batch_size=batch_size,
        device=device,
        manifests=manifests,
    )
    say(_line_of(done), {**asdict(done.summary), "path": str(done.path)}, json=json)


def _line_of(done: Evaluation) -> str:
    found, errors = done.summary, done.summary.metrics
    return (
        f"{found.run} on {found.images} images of {found.data} {found.split}, {found.protocol}: "
        f"abs_rel {errors['abs_rel']:.4f}, rmse {errors['rmse']:.4f} m, "
        f"delta1 {errors['delta1']:.4f}: {done.path}"
    )


def _refuse_unused(
    run: str | None, student: str | None, parts: Mapping[str, str | float | None]
) -> None:
    """What is given beside a run that says it all, or without the student that it is of.

    Raises:
        BadParameter: names the option.
    """
    if run is not None:
        for option, value in {"--student": student, **parts}.items():
            if value is not None:
                raise typer.BadParameter("--run says it already: leave out one", param_hint=option)
    if run is None and student is None:
        for option, value in parts.items():
            if value is not None and option != "--teacher":
                raise typer.BadParameter("it goes with --student", param_hint=option)
