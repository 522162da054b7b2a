"""What a command prints: one line for people, or one JSON object; nothing else on stdout."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer


def _store(path: str) -> Path:
    from kdpipe.store.s3 import location  # only where a store is named: --help answers at once

    return location(path)


Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Manifests: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder of the cards; default: ./manifests, then kdpipe's own.")
]
StorePath: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        parser=_store,
        help="Of a store: artifacts/stores/<data>/<teacher>.zarr, or s3://bucket/….",
    ),
]


def say(line: str, values: Mapping[str, object], *, json: bool) -> None:
    """Prints `line`, or `values` as JSON."""
    typer.echo(json_module.dumps(values, default=str) if json else line)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal; gives what is called with done and all."""
    from rich.console import Console
    from rich.progress import Progress

    bars = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bars as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
