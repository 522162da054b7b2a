"""Native map to frame: torch's own interpolation, windows, unknown pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdpipe.errors import StoreError
from kdpipe.store.frame import (
    BICUBIC,
    BICUBIC_PADDED,
    BILINEAR_INVERSE,
    RULES,
    Window,
    native_line,
    to_frame,
)
from kdpipe.teachers import TeacherOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

sides = st.integers(1, 13)
sizes = st.tuples(sides, sides)


def smooth(size: tuple[int, int]) -> NDArray[np.float32]:
    """What a network says: large shapes, and a little of a difference from pixel to pixel."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(1, 10, (1, 1, 9, 12)).astype(np.float32))
    depth = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0, 0].numpy()
    return (depth + rng.uniform(0, 0.1, size)).astype(np.float32)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40)
@given(native=sizes, frame=sizes, seed=st.integers(0, 99))
@example(native=(384, 512), frame=(480, 640), seed=0)
def test_it_is_what_torch_makes_of_the_teacher_s_map(
    rule: str, native: tuple[int, int], frame: tuple[int, int], seed: int
) -> None:
    noise = np.random.default_rng(seed).uniform(1, 10, native).astype(np.float32)
    depth = smooth(native) if native == (384, 512) else noise

    brought = to_frame(depth, frame, rule=rule)

    said = TeacherOutput(torch.from_numpy(depth)[None], rule=rule).depth_in_frame(*frame)
    np.testing.assert_allclose(brought, said[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", [BICUBIC, BICUBIC_PADDED])
def test_beside_a_steep_edge_depth_stays_at_or_above_the_smallest(rule: str) -> None:
    native = np.full((12, 16), 80, np.float32)
    native[:, 6:10] = 0.5

    free = to_frame(native, (31, 45), rule=rule)
    held = to_frame(native, (31, 45), rule=rule, near=0.1)

    assert free.min() < 0
    np.testing.assert_array_equal(held, np.maximum(free, np.float32(0.1)))
    said = TeacherOutput(torch.from_numpy(native)[None], rule=rule, near=0.1)
    assert said.depth_in_frame(31, 45).min() == np.float32(0.1)
    native[6, 8] = 0
    assert not to_frame(native, (31, 45), rule=rule, near=0.1).all(), "unknown is not lifted"


def test_the_inverse_of_depth_is_mixed_and_ends_at_ten_kilometres() -> None:
    native = np.array([[2, 1e8, 1e8]], np.float32)

    brought = to_frame(native, (1, 6), rule=BILINEAR_INVERSE)

    np.testing.assert_allclose(brought, [[2, 2 / 0.75, 2 / 0.25, 1e4, 1e4, 1e4]], rtol=1e-6)


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
@settings(max_examples=40)
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


@pytest.mark.parametrize("rule", RULES)
def test_unknown_are_the_pixels_that_would_change_with_the_unknown_one(rule: str) -> None:
    native, brought = smooth((20, 27)), []

    for metres in (0, 5, 1000):
        native[7, 11] = metres
        brought.append(to_frame(native, (33, 41), rule=rule))

    unknown = brought[0] == 0
    np.testing.assert_array_equal(unknown, brought[1] != brought[2])
    np.testing.assert_array_equal(brought[0][~unknown], brought[1][~unknown])


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
    line = np.arange(1, 33, dtype=np.float32)[None]  # says which column it is of, from 1
    inverse = rule == BILINEAR_INVERSE

    brought = to_frame(np.float32(1) / line if inverse else line, (1, frame), rule=rule)[0]

    scale, offset = native_line(32, frame, rule)
    places = np.clip(scale * np.arange(frame) + offset, 0, 31) + 1
    # A cubic bends a ramp by a few hundredths between two columns.
    cubic = rule in (BICUBIC, BICUBIC_PADDED)
    np.testing.assert_allclose(
        1 / brought if inverse else brought, places, atol=0.12 if cubic else 1e-4
    )
