"""A store that the toy teacher wrote, and can be asked about again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.toy_teacher import TEACHER, ToyTeacher, load_toy, make_photos

from kdpipe import teachers, teaching
from kdpipe.rows import Rows, read_rows
from kdpipe.store import Store, layout, open_store
from kdpipe.teaching import Options

PHOTOS = 20
"""In shards of 8: three of them."""


@pytest.fixture(scope="package")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of two sizes, and what the toy said of them."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(teachers, "load_teacher", load_toy)
        make_photos(PHOTOS, sizes=((64, 96), (96, 64)))
        teaching.run(TEACHER, "photos", options=Options(workers=0))
    return folder


@pytest.fixture
def taught(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Rows, Store]:
    """A copy of it as the working folder, with the toy as every teacher."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teachers, "load_teacher", load_toy)
    monkeypatch.setattr(ToyTeacher, "fails_on", None)
    rows = read_rows(layout.rows_path("photos"))
    return rows, open_store(layout.store_path("photos", TEACHER))
