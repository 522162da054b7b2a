"""`kdpipe store export | import`: 16-bit PNG of others, from a store and into one."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from kdpipe_stages.output import Json, Manifests, StorePath, bar, say


class Kind(StrEnum):
    """Formats of pictures."""

    tie_kd = "tie-kd"
    mm = "mm"


Format: TypeAlias = Annotated[
    Kind, typer.Option("--format", help="TIE-KD's layout and scale, or millimetres with a CSV.")
]


def export(
    path: StorePath,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder; made if it is not there.")],
    kind: Format,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; default: a few.")] = None,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Write the depth of the store at PATH as 16-bit PNG, in the frames of the images."""
    from kdpipe.store.png import export as library

    with bar(f"writing {out}") as progress:
        done = library(
            path, out, kind.value, manifests=manifests, workers=workers, progress=progress
        )
    if done.beyond:
        what = "unknown there" if kind is Kind.mm else "the largest number there"
        typer.echo(f"kdpipe: {done.beyond} pixels are too deep for {kind}, {what}", err=True)
    if done.removed:
        what = "pictures of rows that have no depth any more are removed"
        typer.echo(f"kdpipe: {done.removed} {what}", err=True)
    line = (
        f"{done.images} pictures in steps of {1000 * done.quantum:.3g} mm, {done.bad} rows without "
        f"depth: {done.path}"
    )
    say(line, asdict(done), json=json)


def import_(
    folder: Annotated[Path, typer.Argument(help="Of an export, or of the pictures themselves.")],
    kind: Format,
    teacher: Annotated[str, typer.Option(help="The card of what made them.")],
    data: Annotated[str, typer.Option(help="The indexed data set that they are of.")],
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Make a store of the 16-bit PNG in FOLDER; its identity says that it was imported."""
    from kdpipe.datasets.indexed import check_known
    from kdpipe.teaching.importing import import_depth
    from kdpipe_stages.names import teacher_for

    check_known(data, manifests)
    with bar(f"reading {folder}") as progress:
        done = import_depth(
            folder,
            kind.value,
            teacher_for(teacher, data, manifests),
            data,
            manifests=manifests,
            progress=progress,
        )
    line = (
        f"{done.written} images imported, {done.kept} kept, {len(done.bad)} without depth, "
        f"{done.unused} pictures of no row: {done.path}"
    )
    say(line, asdict(done), json=json)
