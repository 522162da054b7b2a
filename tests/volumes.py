"""What memory it takes to teach probability volumes as large as AdaBins'."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tests import crash
from tests.toy_teacher import TEACHER, ToyTeacher, load_toy

from kdpipe import teachers, teaching
from kdpipe.teachers.base import Bins, TeacherOutput

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from torch import Tensor

    from kdpipe.cards import TeacherCard
    from kdpipe.teachers.base import Teacher

VOLUME = (256, 240, 320)
"""Bins, height and width, for a frame of 480x640."""


class _Volumes(ToyTeacher):
    """Says as much of an image as AdaBins of a frame of 480x640."""

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        """See Teacher."""
        bins, height, width = VOLUME
        edges = torch.linspace(0, 10, bins + 1).repeat(len(rgb), 1)
        softmax = torch.full((len(rgb), *VOLUME), 1 / bins)
        return TeacherOutput(torch.full((len(rgb), height, width), 5.0), Bins(edges, softmax))


def teach_volumes(folder: Path) -> int:
    """Teaches volumes in this process; by how many bytes its memory grew beyond what it was."""
    os.chdir(folder)

    def load(card: TeacherCard | str, **_: object) -> Teacher:
        toy = load_toy(card)
        toy.__class__ = _Volumes
        return toy

    teachers.load_teacher = load
    teaching.run(TEACHER, crash.DATA, options=teaching.Options(workers=0, batch_size=1, limit=1))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _memory("VmRSS")
    teaching.run(TEACHER, crash.DATA, options=teaching.Options(workers=0, batch_size=1))
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(one.split()[1]) for one in lines if one.startswith(f"{name}:"))


def _answer(folder: Path, answer: Connection) -> None:
    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a touched byte is no 2 MiB
    answer.send(teach_volumes(folder))


def memory_of_volumes(folder: Path) -> int:
    """The same in a process of its own."""
    here, there = crash.context.Pipe()
    process = crash.context.Process(target=_answer, args=(folder, there))
    process.start()
    assert crash.end(process) == 0
    return int(here.recv())
