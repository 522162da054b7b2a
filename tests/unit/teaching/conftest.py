"""The toy teacher in the place of every network."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.toy_teacher import ToyTeacher, load_toy

from kdpipe import teachers


@pytest.fixture(autouse=True)
def toy_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[ToyTeacher]:
    """Every teacher is the toy; the working folder is temporary."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teachers, "load_teacher", load_toy)
    monkeypatch.setattr(ToyTeacher, "fails_on", None)
    return ToyTeacher
