"""`kdpipe index`: a data set as rows."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from kdpipe_stages.output import Json, Manifests, say


def index(
    data: Annotated[
        str | None,
        typer.Option(help="A card in manifests/data; default: the first of params.yaml."),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of its files.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; default: as the card.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first rows of each split.")
    ] = None,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """List DATA as rows and check every file; again: only new and changed files are read."""
    from rich.console import Console
    from rich.progress import Progress

    from kdpipe.datasets.index import find_data, run
    from kdpipe.params import load_params

    start = time.perf_counter()
    card, folder = find_data(
        data or load_params().data[0], root=root, name=name, manifests=manifests
    )
    bars = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bars as bar:
        task = bar.add_task(f"checking {card.name}", total=None)
        done = run(
            card,
            folder,
            limit=limit,
            progress=lambda count, total: bar.update(task, completed=count, total=total),
        )
    splits = done.counts()
    values = {
        "data": card.name,
        "rows": len(done.rows),
        "splits": splits,
        "labelled": done.labelled(),
        "new": done.new,
        "changed": done.changed,
        "kept": done.kept,
        "seconds": round(time.perf_counter() - start, 3),
        "path": str(done.path),
    }
    parts = ", ".join(f"{split} {count}" for split, count in splits.items())
    line = (
        f"{card.name}: {len(done.rows)} rows ({parts}; {done.labelled()} with depth); {done.new} "
        f"new, {done.changed} changed, {done.kept} as before: {done.path}"
    )
    say(line, values, json=json)
