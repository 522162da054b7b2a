"""One shard: looked at, encoded and written at the same time, and what memory that takes."""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.toy_teacher import TEACHER, ToyTeacher, load_toy, make_photos

from kdpipe import teaching
from kdpipe.datasets import read_image
from kdpipe.errors import DataError
from kdpipe.rows import read_rows
from kdpipe.store import layout
from kdpipe.store.claims import Claim
from kdpipe.store.ledger import read_record
from kdpipe.store.metadata import read_info, write_info
from kdpipe.store.writer import ShardWriter, open_writer
from kdpipe.teaching import Options
from kdpipe.teaching.encoding import Encoder
from kdpipe.teaching.measuring import measure

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from kdpipe.teachers.base import TeacherOutput

IMAGES = 12


@pytest.mark.parametrize("workers", [1, 3])
def test_images_encoded_at_the_same_time_are_the_bytes_of_one_after_the_other(
    workers: int, tmp_path: Path
) -> None:
    make_photos(IMAGES)
    teaching.run(TEACHER, "photos", options=Options(workers=0, batch_size=5))
    before, rows = layout.store_path("photos", TEACHER), read_rows(layout.rows_path("photos"))
    info, expected = read_info(before), read_record(before, 0)
    images, toy = np.stack([read_image(rows, number) for number in range(8)]), load_toy(TEACHER)

    write_info(tmp_path / "again.zarr", info)
    claim = Claim.take(tmp_path / "again.zarr", 0, "run")
    assert expected is not None
    with open_writer(info, claim) as writer, ThreadPoolExecutor(workers) as threads:
        encoder = Encoder(info, writer, threads if workers > 1 else None)
        encoder.put(list(enumerate(rows[:8])), toy.predict(images))
        record = writer.commit(replace(expected, arrays={}, statistics=encoder.statistics()))

    assert (record.digest, record.arrays) == (expected.digest, expected.arrays)


def test_thousands_of_sizes_need_few_looks_before_the_first_shard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng, look = np.random.default_rng(0), ToyTeacher.look
    sizes = {(int(h), int(w)) for h, w in rng.integers(8, 80, (50, 2))} | {(80, 10), (12, 81)}
    looks: list[tuple[int, ...]] = []

    def looked(self: ToyTeacher, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        looks.append(tuple(rgb.shape[-2:]))
        if rgb.shape[-2] == 80:
            raise DataError("the toy takes no such height")
        return look(self, rgb, focal)

    monkeypatch.setattr(ToyTeacher, "look", looked)
    seen = measure(load_toy(TEACHER), sorted(sizes), has_focal=False)

    heights, widths = zip(*(size for size in sizes if size[0] != 80), strict=True)
    assert seen.native == (-(-max(heights) // 2), -(-max(widths) // 2))
    assert len(sizes) == 52
    assert len(looks) <= 10


def test_encoding_runs_beside_the_forward_pass_and_a_slow_disk_does_not_fill_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos(IMAGES)
    look, append, put = ToyTeacher.look, ShardWriter.append, Encoder.put
    looked_on = threading.Event()
    outputs: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    beside: list[bool] = []
    written: list[int] = []

    def held(some: list[weakref.ref[Tensor]]) -> int:
        return sum(one() is not None for one in some)

    def looked(self: ToyTeacher, *seen: Any) -> TeacherOutput:
        out = look(self, *seen)
        outputs.append(weakref.ref(out.depth))
        patience = time.monotonic() + 60  # the thread that has written drops its output itself
        while held(outputs[1 : 1 + len(written)]) and time.monotonic() < patience:
            time.sleep(0.001)
        alive.append(held(outputs))
        if len(alive) == 3:  # the first one only measures, the second is being written
            looked_on.set()
        return out

    def slow(self: ShardWriter, *given: Any) -> None:
        beside.append(looked_on.wait(60 if all(beside) else 0))
        time.sleep(0.02)
        append(self, *given)

    def noted(self: Encoder, *given: Any) -> None:
        put(self, *given)
        written.append(1)

    monkeypatch.setattr(ToyTeacher, "look", looked)
    monkeypatch.setattr(Encoder, "put", noted)
    monkeypatch.setattr(ShardWriter, "append", slow)

    teaching.run(TEACHER, "photos", options=Options(workers=0, batch_size=1))

    assert len(alive) == 1 + IMAGES
    assert max(alive) == 2
    assert all(beside), "the disk waited for the next image's look, and it came"
