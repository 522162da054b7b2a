"""`kdpipe store repair`: teach again what is broken, and only that."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kdpipe_stages.output import Json, Manifests, StorePath, say


def repair(
    path: StorePath,
    fitted_on: Annotated[
        str | None,
        typer.Option(help="The data set whose `fit` gave the weights."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The weights themselves, instead of fitted ones.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Ray actors; 0: this process.")] = 0,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="May be a fraction.")] = 0.0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images of one forward pass; default: as it was.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, …; auto: a GPU if seen.")] = "auto",
    ray_address: Annotated[str | None, typer.Option(help="Of a running Ray cluster.")] = None,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Mend the store at PATH: what is broken is taught again by its teacher, and only that."""
    from kdpipe.errors import StoreError
    from kdpipe.teaching import Options
    from kdpipe.teaching import repair as library
    from kdpipe.teaching.source import Source

    options = Options(
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        batch_size=batch_size or library.batch_size_of(path),
        device=device,
        ray_address=ray_address,
    )
    source = Source(fitted_on=fitted_on, checkpoint=checkpoint, manifests=manifests)
    done = library.repair(path, source=source, options=options)
    for one in done.problems:
        typer.echo(f"kdpipe: {one}", err=True)
    if done.changed:
        typer.echo(
            f"kdpipe: shards {', '.join(map(str, done.changed))} have other bytes than before: "
            "another device, number of threads or batch size taught them",
            err=True,
        )
    shards = ", ".join(map(str, done.shards)) or "none"
    line = (
        f"shards taught again: {shards} ({done.images} images); small files written again: "
        f"{len(done.rewritten)}; {done.seconds:.1f} s: {path}"
    )
    say(line, asdict(done), json=json)
    if done.left:
        raise StoreError(
            f"{done.left[0].file} is one of {len(done.left)} files that kdpipe did not write, "
            "expected none: move them away"
        )
