"""Native map to frame: torch's own interpolation, windows, unknown pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdpipe.errors import StoreError
from kdpipe.store.frame import Window, to_frame

sides = st.integers(1, 13)
sizes = st.tuples(sides, sides)


@given(native=sizes, frame=sizes, seed=st.integers(0, 99))
def test_it_is_torchs_bilinear_with_aligned_corners(
    native: tuple[int, int], frame: tuple[int, int], seed: int
) -> None:
    depth = np.random.default_rng(seed).uniform(1, 10, native).astype(np.float32)

    brought = to_frame(depth, frame)

    expected = torch.nn.functional.interpolate(
        torch.from_numpy(depth)[None, None], frame, mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(brought, expected[0, 0], rtol=1e-5)


@given(native=sizes, frame=sizes, data=st.data())
def test_a_window_is_the_same_part_of_the_whole(
    native: tuple[int, int], frame: tuple[int, int], data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    depth = rng.uniform(1, 10, native).astype(np.float32) * (rng.random(native) > 0.2)
    top, left = (data.draw(st.integers(0, side - 1)) for side in frame)
    height = data.draw(st.integers(0, frame[0] - top))
    width = data.draw(st.integers(0, frame[1] - left))

    part = to_frame(depth, frame, Window(top, left, height, width))

    whole = to_frame(depth, frame)[top : top + height, left : left + width]
    assert np.array_equal(part, whole)


def test_a_pixel_that_touches_an_unknown_one_is_unknown_and_no_other() -> None:
    native = np.full((3, 3), 2, np.float32)
    native[1, 1] = 0

    brought = to_frame(native, (5, 5))

    unknown = np.zeros((5, 5), bool)
    unknown[1:4, 1:4] = True
    assert np.array_equal(brought == 0, unknown)
    assert (brought[~unknown] == 2).all()


@pytest.mark.parametrize("window", [(0, 0, 6, 5), (0, 1, 5, 5), (-1, 0, 2, 2), (0, 0, -1, 2)])
def test_a_window_outside_the_frame_is_refused(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(StoreError, match="leaves the frame"):
        to_frame(np.ones((3, 3), np.float32), (5, 5), Window(*window))


def test_the_last_pixel_is_the_last_native_one_although_its_place_rounds_down() -> None:
    native = np.array([[1, 0, 4]], np.float32)  # 49 * (2 / 49) is a little less than 2

    brought = to_frame(native, (1, 50))

    assert brought[0, 0] == 1
    assert brought[0, 49] == 4
    assert not brought[0, 1:49].any()
