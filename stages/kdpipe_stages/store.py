"""`kdpipe store`: what a store is, whether it is whole, and what else can be done with one."""

from __future__ import annotations

import typer

from kdpipe_stages.store_info import info
from kdpipe_stages.store_png import export, import_
from kdpipe_stages.store_repair import repair
from kdpipe_stages.store_rm import rm
from kdpipe_stages.store_verify import verify

store = typer.Typer(
    no_args_is_help=True,
    help="Look into a store, check it, mend it, take it elsewhere, remove it.",
)
for command in (info, verify, repair, export, rm):
    store.command()(command)
store.command("import")(import_)
