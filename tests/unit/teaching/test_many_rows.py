"""What a finished store costs does not grow with the rows of a shard: no record is read for it."""

from __future__ import annotations

import os

from tests.toy_teacher import TEACHER, make_photos

from kdpipe import teaching
from kdpipe.store import layout, ledger, open_store
from kdpipe.store.verify import verify
from kdpipe.teaching import Options
from kdpipe.training.teachers import check_store

STORE = layout.store_path("photos", TEACHER)


def scribble() -> None:
    """Makes every record's bytes others, of the same number and time: to read one is an error."""
    for shard in ledger.finished(STORE):
        path = layout.record_path(STORE, shard)
        before = path.stat()
        path.write_bytes(b"?" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_finished_store_is_resumed_verified_and_opened_without_its_records() -> None:
    rows = make_photos(20)
    options = Options(workers=0)
    first = teaching.run(TEACHER, "photos", options=options)
    manifest = layout.manifest_path("photos", TEACHER).read_bytes()
    scribble()

    again = teaching.run(TEACHER, "photos", options=options)

    assert (first.written, again.written, again.kept) == (20, 0, 20)
    assert layout.manifest_path("photos", TEACHER).read_bytes() == manifest
    assert verify(STORE, quick=True).problems == ()
    assert open_store(STORE).ids == [row.id for row in rows]
    assert check_store(open_store(STORE), rows) == {}
