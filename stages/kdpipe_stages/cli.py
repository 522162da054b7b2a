"""`kdpipe`: gathers the commands and turns a known error into one line.

Exit status: 0 done, 1 a known error, 2 wrong usage, 130 interrupted. Each command imports its work
inside itself, so that `kdpipe --help` answers at once.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Annotated

import typer

import kdpipe
from kdpipe.errors import KdpipeError
from kdpipe_stages.audit import audit
from kdpipe_stages.distill import distill
from kdpipe_stages.evaluate import evaluate
from kdpipe_stages.export import export
from kdpipe_stages.fit import fit
from kdpipe_stages.index import index
from kdpipe_stages.listing import listing
from kdpipe_stages.predict import predict
from kdpipe_stages.report import report
from kdpipe_stages.store import store
from kdpipe_stages.teach import teach

INTERRUPTED = 130

_OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENFILE),
}
"""What a disk or a folder says that is no mistake of kdpipe's."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run large depth teachers once, keep what they said, train small students from it.",
)
for command in (index, fit, teach, audit, distill, evaluate, report, predict, export):
    app.command()(command)
app.command("list")(listing)
app.add_typer(store, name="store")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(kdpipe.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and stop.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more, on stderr.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="kdpipe: %(message)s"
    )
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its retries end in an error of ours
    logging.getLogger("kdpipe").setLevel(logging.DEBUG if verbose else logging.INFO)


def main() -> None:
    """Runs the command line."""
    # Before torch loads: OpenMP's threads spin for milliseconds while they wait, which on a busy
    # machine costs ten times the step. A short spin is as fast on a quiet one; none at all is not.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # What Pillow doubts of a file (many pixels, torn notes) it decodes, or refuses with an error.
    warnings.filterwarnings("ignore", module="PIL")
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command and gives its exit status."""
    try:
        app(args=arguments, prog_name="kdpipe", standalone_mode=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status == INTERRUPTED:  # Typer turns a KeyboardInterrupt into this, without a word
            typer.echo("kdpipe: interrupted; what is finished stays, run again to go on", err=True)
        return status
    except KdpipeError as error:
        return _fail(str(error))
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        where = error.filename or "while writing"
        return _fail(f"{error.strerror}: {where}; mend it and run the same command again")
    return 0


def _fail(message: str) -> int:
    typer.echo("kdpipe: " + " ".join(message.split()), err=True)
    return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # A batch scheduler's warning is a Ctrl-C: finish what is safe, leave a valid state.
    raise KeyboardInterrupt
