"""Native map to frame: torch's own interpolation, windows, unknown pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdpipe.errors import StoreError
from kdpipe.store.frame import BICUBIC_PADDED, RULES, Window, native_line, to_frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def padded_frame(depth: NDArray[np.float32], frame: tuple[int, int]) -> NDArray[np.float32]:
    """What torch makes of it: the padded frame, cropped."""
    top, left = (int(3 * math.sqrt(side / 2)) for side in frame)
    size = (frame[0] + 2 * top, frame[1] + 2 * left)
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(depth)[None, None], size, mode="bicubic", align_corners=False
    )
    return whole[0, 0, top : top + frame[0], left : left + frame[1]].numpy()


@given(native=sizes, frame=sizes, seed=st.integers(0, 99))
def test_padded_it_is_torchs_bicubic_cropped(
    native: tuple[int, int], frame: tuple[int, int], seed: int
) -> None:
    depth = np.random.default_rng(seed).uniform(1, 10, native).astype(np.float32)

    brought = to_frame(depth, frame, rule=BICUBIC_PADDED)

    np.testing.assert_allclose(brought, padded_frame(depth, frame), rtol=1e-5, atol=1e-5)


def test_padded_at_a_published_size_it_is_torchs_too() -> None:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(1, 10, (1, 1, 9, 12)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (384, 512), mode="bilinear")[0, 0].numpy()
    native = (smooth + rng.uniform(0, 0.1, smooth.shape)).astype(np.float32)

    brought = to_frame(native, (480, 640), rule=BICUBIC_PADDED)

    np.testing.assert_allclose(brought, padded_frame(native, (480, 640)), rtol=1e-5)


def test_padded_a_constant_stays_and_an_unknown_pixel_reaches_two_lines() -> None:
    native = np.full((12, 12), 2, np.float32)
    native[6, 6] = 0

    brought = to_frame(native, (2, 2), rule=BICUBIC_PADDED)  # padded to 8x8, 1.5 lines a pixel

    # Pixels 0 and 1 lie at native 4.75 and 6.25, and read lines 3 to 6 and 5 to 8.
    assert not brought.any()
    native[6, 6], native[9, 9] = 2, 0
    known = to_frame(native, (2, 2), rule=BICUBIC_PADDED)
    np.testing.assert_allclose(known, np.full((2, 2), 2), rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@given(native=sizes, frame=sizes, data=st.data())
def test_a_window_is_the_same_part_of_the_whole(
    rule: str, native: tuple[int, int], frame: tuple[int, int], data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    depth = rng.uniform(1, 10, native).astype(np.float32) * (rng.random(native) > 0.2)
    top, left = (data.draw(st.integers(0, side - 1)) for side in frame)
    height = data.draw(st.integers(0, frame[0] - top))
    width = data.draw(st.integers(0, frame[1] - left))

    part = to_frame(depth, frame, Window(top, left, height, width), rule)

    whole = to_frame(depth, frame, rule=rule)[top : top + height, left : left + width]
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


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("frame", [48, 61, 120])
def test_a_frame_s_pixels_lie_on_the_native_map_where_its_depth_comes_from(
    frame: int, rule: str
) -> None:
    line = np.arange(1, 33, dtype=np.float32)[None]  # depth says which column it is of, from 1

    brought = to_frame(line, (1, frame), rule=rule)[0] - 1

    scale, offset = native_line(32, frame, rule)
    places = scale * np.arange(frame) + offset
    # The cubic of the padded rule bends a ramp by a few hundredths between two columns.
    np.testing.assert_allclose(brought, places, atol=0.1 if rule == BICUBIC_PADDED else 1e-5)
