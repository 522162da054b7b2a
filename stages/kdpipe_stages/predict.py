"""`kdpipe predict`: depth of any image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdpipe_stages.output import Json, bar, say


def predict(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE…", help="Files, and folders that are searched.")
    ],
    run: Annotated[
        str, typer.Option(help="A folder of artifacts/students, as `distill` named it, or a path.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; made if missing.")],
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror",
            help="Average with the mirrored image; default: as params.yaml evaluates.",
        ),
    ] = None,
    colour_max: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1e5, help="Far end of the colours [m]; default: the student's range."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    json: Json = False,
) -> None:
    """Write the depth of each IMAGE: 16-bit PNG, float NPY [m], coloured picture."""
    from kdpipe import predict as library

    with bar("predicting") as progress:
        done = library.run(
            images,
            run=run,
            output=output,
            mirror=mirror,
            colour_max=colour_max,
            device=device,
            progress=progress,
        )
    for reason in done.failed.values():
        typer.echo(f"kdpipe: no depth: {' '.join(reason.split())}", err=True)
    unit = "millimetres" if done.units_per_metre == 1000 else f"1/{done.units_per_metre} m"
    line = (
        f"{len(done.names)} depth maps (PNG in {unit}, NPY in metres, colours 0 to "
        f"{done.colour_max:g} m), {len(done.failed)} images failed: {done.folder}"
    )
    values = {
        "path": str(done.folder),
        "images": done.names,
        "failed": done.failed,
        "units_per_metre": done.units_per_metre,
        "colour_max": done.colour_max,
    }
    say(line, values, json=json)
    if done.failed:
        raise typer.Exit(1)
