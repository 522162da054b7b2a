"""Where `kdpipe teach` begins before it dies, at which steps, and what it must end as."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from tests import crash
from tests.crash import SHARD_ROWS, STORE, Order

from kdpipe.store.verify import verify

ROOT = Path(__file__).parents[1]
PHOTOS = 2 * SHARD_ROWS
AT_ONCE = 2
"""Kills of different stores that go on side by side."""

STEPS = {
    "before the store has its root": r"link .*\.zarr/\.zarr\.json",
    "before the claim": r"link .*claims/0000001",
    "during the claim": r"remove .*claims/\.0000001",
    "before data": r"look 8",
    "in the middle of data": r"tear .*work/0000001\.[^/]*/depth",
    "after data": r"link .*work/0000001\.[^/]*/depth",
    "between two arrays": r"link .*work/0000001\.[^/]*/bins\.codes",
    "in the middle of the record": r"tear .*work/0000001\.[^/]*/\.0000001\.json",
    "before the record": r"link .*ledger/0000001\.json",
    "after the record": r"remove .*work/0000001\.[^/]*/\.0000001\.json",
    "during the release": r"remove .*claims/0000001\.1\.json",
    "in the middle of the manifest": r"tear .*/\.adabins-small\.json",
    "before the manifest": r"rename .*/\.adabins-small\.json",
    "after the manifest": r"flush .*/stores/photos$",
}


@dataclass(frozen=True)
class Cases:
    """Working folders to begin in, and what each of them must end as."""

    folder: Path
    expected: dict[str, bytes | str]
    _numbers: Iterator[int] = field(default_factory=count)

    def copy(self, case: str) -> Path:
        """A fresh one.

        Args:
            case: `new`: no store. `grown`: one whose last shard is too short now. `torn`: one
                whose writer was killed between two arrays of a shard. `whole`: a finished one.
        """
        return shutil.copytree(self.folder / case, self.folder / str(next(self._numbers)))

    def steps(self, case: str) -> list[str]:
        """All steps from there to the end."""
        project = self.copy(case)
        process = crash.start(Order(folder=project))
        assert crash.end(process) == 0
        steps = crash.steps_of(project, process)
        shutil.rmtree(project)
        return steps


@contextmanager
def made_cases() -> Iterator[Cases]:
    """Makes the folders, and removes them afterwards."""
    with pytest.MonkeyPatch.context() as patch, crash.scratch() as folder:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        for name, photos in (("new", PHOTOS), ("torn", PHOTOS), ("grown", PHOTOS - 4)):
            (folder / name).mkdir()
            crash.make_project(folder / name, photos)
        assert crash.run(folder / "grown") == 0
        crash.make_project(folder / "grown", PHOTOS)
        torn = crash.start(Order(folder=folder / "torn", steps=(STEPS["between two arrays"],)))
        assert crash.end(torn) == -signal.SIGKILL
        for name in ("grown", "torn"):
            crash.forget_looks(folder / name)
        whole = shutil.copytree(folder / "new", folder / "whole")
        assert crash.run(whole) == 0
        assert verify(whole / STORE).problems == ()
        yield Cases(folder, crash.content(whole))


def goes_on(project: Path, expected: dict[str, bytes | str], after: str, kills: int = 1) -> None:
    """Runs the command once more and compares."""
    for path in project.rglob(".*.tmp"):
        os.utime(path, (1, 1))  # as if it were long ago: a young one may be another process's

    status = crash.run(project)

    assert status == 0, after
    assert crash.content(project) == expected, after
    assert len(crash.computed_twice(project)) <= kills, after
    shutil.rmtree(project)


def unlike(steps: list[str]) -> Sequence[int]:
    """Numbers of the steps but for those in which shard 1 is written, just as shard 0 was."""
    again = re.compile(r"/work/0000001\.|/c\.1\.")
    return [at for at, one in enumerate(steps, 1) if not again.search(one)]
