"""The toy teacher in the place of every network; a store of its depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.toy_teacher import TEACHER, ToyTeacher, load_toy

from kdpipe import teachers, teaching
from kdpipe.store import layout, ledger
from kdpipe.teaching import Options

STORE = layout.store_path("photos", TEACHER)
MANIFEST = layout.manifest_path("photos", TEACHER)


def teach(**options: Any) -> teaching.Done:
    """Teaches the photos, in this process."""
    return teaching.run(TEACHER, "photos", options=Options(workers=0, **options))


def digests() -> list[str]:
    """Of each finished shard's record."""
    records = [ledger.read_record(STORE, shard) for shard in ledger.finished(STORE)]
    return [one.digest for one in records if one is not None]


@pytest.fixture(autouse=True)
def toy_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[ToyTeacher]:
    """Every teacher is the toy; the working folder is temporary."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teachers, "load_teacher", load_toy)
    monkeypatch.setattr(ToyTeacher, "fails_on", None)
    return ToyTeacher
