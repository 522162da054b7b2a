"""`kdpipe teach` with the toy teacher in processes that die, or stop, at a step of our choice.

A step is all that a killed process may leave half done: each call that makes, links, renames,
touches or removes a file or a folder, each flush of a file (once with half of its bytes there, once
with all of them), each look at a batch. Python's audit hooks report the first kind whoever makes
the call, so that no step of the product is forgotten here. The signal comes just before the step.

Processes are forked from a server that has everything imported: a start takes milliseconds.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.toy_teacher import TEACHER, ToyTeacher, load_toy, make_photos
from typer.main import get_command

from kdpipe import teachers
from kdpipe.store import claims, layout, ledger
from kdpipe.store.claims import Owner
from kdpipe.teaching import pool, tally
from kdpipe_stages import cli

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from torch import Tensor

    from kdpipe.cards import TeacherCard
    from kdpipe.teachers.base import Teacher, TeacherOutput

DATA = "photos"
STORE = layout.store_path(DATA, TEACHER)
MANIFEST = layout.manifest_path(DATA, TEACHER)
SHARD_ROWS = 8
HERE = ("--workers", "0")
_CHANGES = ("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.utime")
_LOOKS = Path("looks")
HOLD = Path("hold")
"""While it is in the working folder, a look at a batch does not end."""

_COMMAND = get_command(cli.app)  # once: building it takes as long as teaching
_ORDER = "KDPIPE_TEST_ORDER"
"""Tells Ray's actors which order their driver has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One `kdpipe teach`, and when it gets a signal: never, unless `at` or `steps` says so."""

    folder: Path
    """The working folder."""

    arguments: tuple[str, ...] = HERE
    at: int = 0
    """Number of the step, from 1."""

    steps: tuple[str, ...] = ()
    """Regular expressions; each gives one signal, at the first step that it describes."""

    deadly: tuple[str, ...] = ()
    """Regular expressions; each gives the signal at every step that it describes."""

    fails_on: int | None = None
    """Number of a photo at which the teacher raises."""

    signal: int = signal.SIGKILL
    seconds: float = 0.0
    """That the toy takes for an image."""

    slept: float = 0.0
    """By how much its clock jumps when it goes on after the signal [s]."""

    patience: float | None = 0.1
    """Before a shard that another process holds is tried again [s]; None: as always."""

    is_far: bool = False
    """The processes of each Ray node say that they are of another machine."""

    is_powerless: bool = False
    """Without root's right to write where the mode forbids it."""

    def for_actors(self) -> dict[str, str]:
        """The environment that tells Ray's actors of it."""
        names = ("steps", "deadly", "fails_on", "seconds", "is_far")
        return {_ORDER: json.dumps({one: getattr(self, one) for one in names})}


class Steps:
    """Counts and notes the steps of this process, and sends it the signal."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._waiting = [re.compile(one) for one in order.steps]
        self._lock = threading.Lock()
        self._count = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._log = os.open(order.folder / f"steps-{os.getpid()}", flags)

    def watch(self) -> None:
        """Looks at this process from now on."""
        flush = os.fsync

        def fsync(handle: int) -> None:
            name = Path(f"/proc/self/fd/{handle}").readlink()
            if stat.S_ISREG(os.fstat(handle).st_mode):
                self.reach(f"tear {name}", torn=handle)
            self.reach(f"flush {name}")
            flush(handle)

        os.fsync = fsync  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def reach(self, name: str, torn: int | None = None) -> None:
        """Says that a step comes next.

        Args:
            name: of the step.
            torn: a file of which only half is there, if the process dies now.
        """
        with self._lock:
            self._count += 1
            os.write(self._log, f"{name}\n".encode())
            if self._count != self._order.at and not self._is_awaited(name):
                return
        if torn is not None and self._order.signal == signal.SIGKILL:
            os.ftruncate(torn, os.fstat(torn).st_size // 2)
        os.kill(os.getpid(), self._order.signal)
        awake, slept = claims.awake, self._order.slept
        claims.awake = lambda: awake() + slept

    def _audit(self, event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = values
            if isinstance(path, str) and flags & (os.O_WRONLY | os.O_RDWR):
                self.reach(f"open {path}")
        elif event in _CHANGES:
            names = [str(one) for one in values[:2] if isinstance(one, str | os.PathLike)]
            if names:  # not our own cut of an open file
                self.reach(f"{event} {' -> '.join(names)}")

    def _is_awaited(self, name: str) -> bool:
        if any(re.search(one, name) for one in self._order.deadly):
            return True
        for one in self._waiting:
            if one.search(name):
                self._waiting.remove(one)
                return self._is_first(one.pattern)
        return False

    def _is_first(self, pattern: str) -> bool:
        """Whether no other process had the signal for this step."""
        mark = self._order.folder / f"signal-{pattern.encode().hex()}"
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


class _Watched(ToyTeacher):
    """Says at which rows it looks: a photo's red is its number."""

    steps: Steps
    log: int

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        """See Teacher."""
        numbers = (rgb[:, 0, 0, 0] * 255).round().int().tolist()
        if rgb.max() > 0:  # a black image only measures
            self.steps.reach(f"look {numbers[0]}")
            os.write(self.log, "".join(f"{one}\n" for one in numbers).encode())
            while HOLD.exists():
                time.sleep(0.01)
        return super().look(rgb, focal)


class Actor(pool._Actor):
    """Ray's worker with the toy, its steps watched."""

    def begin(self) -> None:
        """See pool."""
        values = json.loads(os.environ[_ORDER])
        _prepare(Order(folder=self._assignment.folder, **values))
        super().begin()


def _prepare(order: Order) -> None:
    """Makes the toy this process's teacher, and watches its steps."""
    os.chdir(order.folder)
    os.environ["TOY_SECONDS"] = str(order.seconds)
    if order.is_far:
        claims._host = lambda: f"node {os.getppid()}"  # type: ignore[assignment]
    _Watched.fails_on = order.fails_on
    _Watched.steps = Steps(order)
    _Watched.log = os.open(_LOOKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def load(card: TeacherCard | str, **_: object) -> Teacher:
        toy = load_toy(card)
        toy.__class__ = _Watched
        return toy

    teachers.load_teacher = load
    _Watched.steps.watch()


def _teach(order: Order) -> None:
    """Runs the command; what it says goes to a file."""
    os.chdir(order.folder)
    err = os.open(f"said-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(err, 1)
    os.dup2(err, 2)
    if order.patience is not None:
        tally._SECONDS_TO_WAIT_FOR_A_CLAIM = order.patience
    if order.arguments[: len(HERE)] == HERE:
        _prepare(order)
    else:  # the signal is for an actor
        os.environ |= order.for_actors()
        pool._Actor = Actor  # type: ignore[misc]
    if order.is_powerless:
        _drop_privileges()
    cli.app = _COMMAND  # type: ignore[assignment]
    sys.exit(cli.run(["teach", "--teacher", TEACHER, "--data", DATA, *order.arguments]))


def _drop_privileges() -> None:
    """Gives up every capability: root then needs a file's mode like everybody else."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


context = multiprocessing.get_context("forkserver")
_children = threading.Lock()
"""Each start also asks how the others ended: of two who ask at once, one gets no answer."""

_FIRST_CALL = "kdpipe_stages.names kdpipe.datasets.folder PIL.PngImagePlugin pyarrow.dataset"
context.set_forkserver_preload([__name__, "typer._adapters", *_FIRST_CALL.split()])


def start(order: Order) -> BaseProcess:
    """Starts `teach` in a process of its own."""
    process = context.Process(target=_teach, args=(order,))
    with _children:
        process.start()
    return process


def end(process: BaseProcess) -> int:
    """Waits for it and gives its exit status, < 0 where a signal ended it."""
    assert wait([process.sentinel], 600), "it hangs"
    with _children:
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def run(folder: Path) -> int:
    """Runs `teach` to its end and gives its exit status."""
    return end(start(Order(folder=folder)))


def wait_until_stopped(process: BaseProcess) -> None:
    """Waits until a process has stopped itself."""
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.005)


def steps_of(folder: Path, process: BaseProcess) -> list[str]:
    """What a process did, and at last was about to do."""
    return (folder / f"steps-{process.pid}").read_text().splitlines()


def said_by(folder: Path, process: BaseProcess) -> list[str]:
    """The lines in which it spoke of errors."""
    lines = (folder / f"said-{process.pid}").read_text().splitlines()
    return [one for one in lines if one.startswith("kdpipe:") or "Traceback" in one]


def claimed(folder: Path) -> list[Owner]:
    """Who has a claim, dead or alive."""
    found = []
    for path in (folder / STORE).glob("claims/*.json"):
        with suppress(FileNotFoundError):  # given back just now
            found.append(Owner(**json.loads(path.read_bytes())))
    return found


def owners(folder: Path) -> list[int]:
    """Living processes that hold a claim."""
    return [one.pid for one in claimed(folder) if not one.is_gone]


def content(folder: Path) -> dict[str, bytes | str]:
    """Every file of the store and beside it; of the ledger all but the environment."""
    files: dict[str, bytes | str] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in (folder / STORE.parent).rglob("*")
        if path.is_file() and not (path.parent.name == "ledger" and path.suffix != ".tmp")
    }
    for shard in ledger.finished(folder / STORE):
        record = ledger.read_record(folder / STORE, shard)
        assert record is not None
        files[f"ledger {shard}"] = record.digest
    return files


def computed_twice(folder: Path) -> list[int]:
    """Shards that a teacher began more than once, named as often as that is too often."""
    looks = Counter(int(line) for line in (folder / _LOOKS).read_text().splitlines())
    firsts = sorted(row for row in looks if row % SHARD_ROWS == 0)
    return [row // SHARD_ROWS for row in firsts for _ in range(looks[row] - 1)]


def forget_looks(folder: Path) -> None:
    """Counts from here."""
    (folder / _LOOKS).unlink(missing_ok=True)


def make_project(folder: Path, photos: int) -> Path:
    """A working folder with a data set of so many photos; those that are there stay."""
    before = Path.cwd()
    os.chdir(folder)
    make_photos(photos)
    os.chdir(before)
    return folder


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: flushing takes no time there, and proves as much."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="kdpipe crash ", dir=parent) as folder:
        yield Path(folder)


def fill(folder: Path, option: str) -> dict[str, object]:
    """Teaches onto a small disk until it is full, makes room, and goes on.

    Call it in a mount namespace of its own; a copy of the result stays in `folder`.
    """
    where = folder / STORE.parents[1]
    where.mkdir()
    _mount(where, option)
    full = start(Order(folder=folder))
    status = end(full)
    finished = ledger.finished(folder / STORE)
    _mount(where, "remount,size=100m,nr_inodes=0")
    again = run(folder)
    shutil.copytree(where, folder / "copy")
    subprocess.run(["umount", where], check=True)
    where.rmdir()
    (folder / "copy").rename(where)
    said = said_by(folder, full)
    return {"status": status, "said": said, "finished": len(finished), "again": again}


def _mount(where: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", where], check=True)


if __name__ == "__main__":
    from tests import crash  # the one that processes can be forked for

    for argument in sys.argv[1:]:
        project = Path(argument)
        print(json.dumps(crash.fill(project, project.name)))
