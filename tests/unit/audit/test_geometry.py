"""Moving an image before the teacher or after it: the difference is measured, not assumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import pyarrow.parquet as pq
import pytest
from tests.toy_teacher import TEACHER, ToyTeacher

from kdpipe import audit
from kdpipe.audit.geometry import FACTOR, PART
from kdpipe.errors import DataError
from kdpipe.store import Store, layout

if TYPE_CHECKING:
    from torch import Tensor

    from kdpipe.rows import Rows
    from kdpipe.teachers.base import TeacherOutput


def moved(count: int = 4) -> Mapping[str, Any]:
    done = audit.run(TEACHER, "photos", again=audit.Again(geometry=count))
    assert json.loads(done.path.read_text()) == done.summary
    return cast("Mapping[str, Any]", done.summary["geometry"])


def test_a_teacher_of_colours_moves_with_its_image_but_for_distance(
    taught: tuple[Rows, Store],
) -> None:
    found = moved()

    # Its depth is a pixel's colour, so an enlarged image is as far away to it as before.
    assert found["flip"]["abs_rel"] < 0.02
    assert found["crop"]["abs_rel"] < 0.02
    assert found["crop"]["part"] == PART
    assert found["scale"]["abs_rel"] == pytest.approx(FACTOR - 1, abs=0.02)
    assert found["scale"]["ratio"] == pytest.approx(FACTOR, abs=0.02)
    assert found["scale"]["abs_rel_undivided"] < 0.02


def test_a_teacher_that_knows_left_from_right_does_not_flip(
    taught: tuple[Rows, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = ToyTeacher.look
    before = moved()

    def leaning(self: ToyTeacher, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        out = look(self, rgb, focal)
        out.depth[..., : out.depth.shape[-1] // 2] *= 1.5
        return out

    monkeypatch.setattr(ToyTeacher, "look", leaning)

    # Half of the pixels are 1.5 times what the store says.
    assert before["flip"]["abs_rel"] < 0.02
    assert moved()["flip"]["abs_rel"] == pytest.approx(0.25, abs=0.02)


def test_each_image_has_its_own_columns(taught: tuple[Rows, Store]) -> None:
    found = moved(3)

    table = pq.read_table(layout.audit_path("photos", TEACHER).with_suffix(".parquet")).to_pylist()
    lines = [line for line in table if line["geometry_flip"] is not None]
    assert [line["id"] for line in lines] == found["ids"]
    for name in ("flip", "crop", "scale"):
        mean = sum(line[f"geometry_{name}"] for line in lines) / 3
        assert found[name]["abs_rel"] == pytest.approx(mean)
    assert all(line["geometry_scale_undivided"] < 0.05 for line in lines)


def test_what_the_teacher_cannot_take_is_said(
    taught: tuple[Rows, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = ToyTeacher.look

    def picky(self: ToyTeacher, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        if min(rgb.shape[-2:]) < 64:
            raise DataError("too small for the toy")
        return look(self, rgb, focal)

    monkeypatch.setattr(ToyTeacher, "look", picky)

    found = moved()

    assert found["crop"] == {
        "part": PART,
        "images": 0,
        "refused": ["too small for the toy"],
        "abs_rel": None,
        "ratio": None,
    }
    assert found["flip"]["images"] == 4
