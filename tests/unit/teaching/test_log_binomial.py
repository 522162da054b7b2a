"""A teacher whose bins have no codec yet, and whose map is of the padded frame."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tests.toy_teacher import make_photos
from torch import Tensor, nn

from kdpipe import teachers, teaching
from kdpipe.cards import TeacherCard, load_teacher_card
from kdpipe.datasets import read_image
from kdpipe.nets.log_binomial import LogBinomialBins
from kdpipe.store import open_store
from kdpipe.teachers.base import BICUBIC_PADDED, Teacher, TeacherOutput
from kdpipe.teaching import Options

if TYPE_CHECKING:
    import pytest

TEACHER = "zoedepth-small"


class Padded(Teacher):
    """Depth follows the green channel, on a map of its own size."""

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        depth = 0.5 + 9 * torch.nn.functional.interpolate(rgb[:, 1:2], (10, 14))[:, 0]
        seeds = torch.ones(len(rgb), 4, 1, 1)
        bins = LogBinomialBins(depth / 20, torch.ones_like(depth), seeds, (seeds,))
        return TeacherOutput(depth, bins, BICUBIC_PADDED)


def load(card: TeacherCard | str, **_: object) -> Teacher:
    card = load_teacher_card(card) if isinstance(card, str) else card
    return Padded(replace(card, mirror=False), nn.Identity(), "cpu")


def test_only_depth_is_stored_which_is_said_and_comes_to_the_frame_by_its_own_rule(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(teachers, "load_teacher", load)
    caplog.set_level(logging.INFO, "kdpipe.teaching")
    rows = make_photos(5)

    weights = Path("weights.pt")
    weights.write_bytes(b"of the toy")

    done, again = (
        teaching.run(TEACHER, "photos", checkpoint=weights, options=Options(workers=0))
        for _ in range(2)
    )

    assert (done.written, again.written, again.kept) == (5, 0, 5)
    said = [r.getMessage() for r in caplog.records if r.name == "kdpipe.teaching"]
    assert said == ["zoedepth-small: its log-binomial bins are not stored yet, only depth"]
    store = open_store(done.path)
    assert store.info.rule == BICUBIC_PADDED
    assert not store.info.has_bins
    for number, row in enumerate(rows):
        out = load(TEACHER).predict(read_image(rows, number)[None])
        expected = out.depth_in_frame(row.height, row.width)[0]
        np.testing.assert_allclose(store.native_depth(number), out.depth[0], rtol=1.001e-3)
        np.testing.assert_allclose(store.depth(number), expected, rtol=0, atol=0.02)
        assert np.array_equal(store.depth(number, (2, 3, 4, 5)), store.depth(number)[2:6, 3:8])
