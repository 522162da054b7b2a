"""What a command prints: one line for people, or one JSON object; nothing else on stdout."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Manifests: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder of the cards; default: ./manifests, then kdpipe's own.")
]


def say(line: str, values: Mapping[str, object], *, json: bool) -> None:
    """Prints `line`, or `values` as JSON."""
    typer.echo(json_module.dumps(values, default=str) if json else line)
