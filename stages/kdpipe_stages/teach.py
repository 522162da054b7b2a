"""`kdpipe teach`: run a teacher once over a data set and keep what it said."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from kdpipe_stages.output import Json, Manifests, say


def teach(
    teacher: Annotated[
        str | None,
        typer.Option(help="A teacher's card, or a family; default: params.yaml's first."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="An indexed data set; default: the first of params.yaml.")
    ] = None,
    fitted_on: Annotated[
        str | None, typer.Option(help="The data set whose `fit` gave the weights; default: DATA.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The weights themselves, instead of fitted ones.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(help="Of the network; default: params.yaml's."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Ray actors; 0: this process.")] = 1,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="May be a fraction.")] = 0.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one forward pass.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, …; auto: a GPU if seen.")] = "auto",
    shards: Annotated[
        str | None, typer.Option(metavar="A:B", help="Only these, for batch schedulers.")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Of a running Ray cluster.")] = None,
    retry_bad: Annotated[
        bool, typer.Option("--retry-bad", help="Try unreadable images again.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Run TEACHER over DATA once and keep its output; shards already there are kept."""
    from kdpipe import teaching
    from kdpipe.params import load_params
    from kdpipe_stages.names import teacher_for

    params = load_params()
    data = data or params.data[0]
    options = teaching.Options(
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        batch_size=batch_size,
        device=device,
        ray_address=ray_address,
        shards=_range(shards),
        limit=limit,
        retry_bad=retry_bad,
    )
    done = teaching.run(
        teacher_for(teacher or params.teachers[0], data, manifests),
        data,
        fitted_on=fitted_on,
        checkpoint=checkpoint,
        precision=precision,
        manifests=manifests,
        options=options,
    )
    speed = f" at {done.written / done.seconds:.2f} images/s" if done.seconds else ""
    if len(done.workers) > 1:
        each = done.workers.values()
        speed += f" ({len(each)} workers, {min(each):.2f} to {max(each):.2f} each)"
    line = (
        f"{done.written} images taught{speed}, {done.kept} kept, {len(done.bad)} unreadable, "
        f"{done.bytes / 1e6:.1f} MB: {done.path}"
    )
    for row, reason in done.bad.items():
        typer.echo(f"kdpipe: no depth for {row!r}: {reason}", err=True)
    say(line, asdict(done), json=json)


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal()):
        raise typer.BadParameter(f"found {text!r}, expected A:B, e.g. 0:4", param_hint="--shards")
    return int(first), int(last)
