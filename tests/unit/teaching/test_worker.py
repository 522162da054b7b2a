"""One shard: looked at, encoded and written at the same time, and what memory that takes."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from tests.toy_teacher import TEACHER, ToyTeacher, make_photos

from kdpipe import teaching
from kdpipe.store.writer import ShardWriter
from kdpipe.teaching import Options

if TYPE_CHECKING:
    import pytest
    from torch import Tensor

    from kdpipe.teachers.base import TeacherOutput

IMAGES = 12


def test_encoding_runs_beside_the_forward_pass_and_a_slow_disk_does_not_fill_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos(IMAGES)
    look, put = ToyTeacher.look, ShardWriter.put
    writing = threading.Event()
    outputs: list[weakref.ref[Tensor]] = []
    alive, beside = [], []

    def looked(self: ToyTeacher, *seen: Any) -> TeacherOutput:
        beside.append(writing.is_set())
        out = look(self, *seen)
        outputs.append(weakref.ref(out.depth))
        alive.append(sum(one() is not None for one in outputs))
        return out

    def slow(self: ShardWriter, *given: Any) -> None:
        writing.set()
        time.sleep(0.02)
        put(self, *given)
        writing.clear()

    monkeypatch.setattr(ToyTeacher, "look", looked)
    monkeypatch.setattr(ShardWriter, "put", slow)

    teaching.run(TEACHER, "photos", options=Options(workers=0, batch_size=1))

    assert len(alive) == 1 + IMAGES, "the first one measures"
    assert max(alive) == 2
    assert any(beside)
