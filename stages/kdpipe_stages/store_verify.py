"""`kdpipe store verify`: whether a store is what its ledger says."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from kdpipe_stages.output import Json, StorePath, bar, say


def verify(
    path: StorePath,
    quick: Annotated[
        bool, typer.Option("--quick", help="Records and sizes only, no array is read.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads; default: one a processor.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare every byte of the store at PATH with its ledger; nothing is changed."""
    from kdpipe.errors import StoreError
    from kdpipe.store.verify import verify as library

    with bar(f"reading {path}") as progress:
        done = library(path, quick=quick, workers=workers, progress=progress)
    looked = "sizes" if quick else f"{done.bytes / 1e6:.1f} MB"
    lines = [str(problem) for problem in done.problems]
    lines.append(
        f"{done.finished} of {done.shards} shards are finished, {len(done.broken)} of them broken; "
        f"{looked} checked in {done.seconds:.1f} s: {path}"
    )
    values = {**asdict(done), "broken": done.broken, "sound": not done.problems}
    say("\n".join(lines), values, json=json)
    if done.problems:
        count = len(done.problems)
        raise StoreError(
            f"{path} has {count} problem{'s' if count > 1 else ''}, expected none, the first is "
            f"{done.problems[0].file}: run `kdpipe store repair {path}`"
        )
