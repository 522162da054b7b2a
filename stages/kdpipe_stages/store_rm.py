"""`kdpipe store rm`: remove a store and its manifest."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kdpipe_stages.output import Json, StorePath, say


def rm(
    path: StorePath,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove the store at PATH and the manifest beside it; asks first."""
    from kdpipe.errors import StoreError
    from kdpipe.store.removal import find_removable, remove

    what = find_removable(path)
    said = f"{path} ({what.files} files, {what.bytes / 1e6:.1f} MB)"
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(
                f"nobody is there to be asked whether {said} may go: pass --yes", param_hint="--yes"
            )
        typer.echo(f"Remove {said}? [y/N] ", nl=False, err=True)  # Typer's own asks on stdout too
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise StoreError(f"{path} stays: it was not to be removed")
    remove(what)
    values = {"path": str(path), "files": what.files, "bytes": what.bytes}
    say(f"removed {said}", values, json=json)
