"""Where Ray keeps logs and sockets for one command, and the end of all that it started there."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

_LONGEST = 10
"""Ray puts sockets far below it, whose paths may have 107 characters."""

_SECONDS_TO_DIE = 2.0
_SECONDS_TO_BE_DEAD = 10.0
"""Once killed, on a busy machine: what lives on would write into the folder that is removed."""


def make_folder() -> Path:
    """A folder for Ray's logs and sockets; those of killed commands are cleared away first."""
    wanted = Path(tempfile.gettempdir())
    base = wanted if len(str(wanted)) <= _LONGEST else Path("/tmp")
    namespace = Path("/proc/self/ns/pid")  # containers that share /tmp number their own processes
    mine = f"kdpipe-{namespace.stat().st_ino if namespace.exists() else 0:x}-"
    for folder in base.glob(f"{mine}*"):
        pid = folder.name.removeprefix(mine).partition("-")[0]
        if namespace.exists() and not Path("/proc", pid).exists():
            end_all(folder)
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{mine}{os.getpid()}-", dir=base))


def end_all(folder: Path) -> None:
    """Ends what Ray started for us: interrupted, it leaves some of it behind."""
    patience = time.monotonic() + _SECONDS_TO_DIE
    while (pids := _users(folder)) and time.monotonic() < patience + _SECONDS_TO_BE_DEAD:
        if time.monotonic() > patience:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _users(folder: Path) -> list[int]:
    """Other living processes that have a file below our own temporary folder open: Ray's logs.

    Their environment would say too whose they are, but some of Ray's overwrite it.
    """
    pids = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):  # none where there is no /proc
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(f"{folder}/"):
                pids.add(int(link.parts[2]))
    return sorted(pids - {os.getpid()})
