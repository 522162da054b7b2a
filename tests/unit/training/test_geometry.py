from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdpipe.training.geometry import Intrinsics, Transform

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAME = (48, 64)
Step = Callable[[Transform], Transform]


def ramp(height: int, width: int) -> torch.Tensor:
    """(2, H, W): each pixel holds the position (x, y) of its own centre."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    return torch.from_numpy(np.stack([x, y]))


def inner(transform: Transform) -> NDArray[np.bool_]:
    """Pixels whose centre lies between the frame's outermost pixel centres."""
    x, y = transform.positions()
    height, width = transform.frame
    inside: NDArray[np.bool_] = (x >= 0.5) & (x <= width - 0.5) & (y >= 0.5) & (y <= height - 0.5)
    return inside


def ramp_error(transform: Transform) -> float:
    moved = transform.channels(ramp(*transform.frame)).numpy()
    expected = np.stack(np.broadcast_arrays(*transform.positions()))
    return float(np.abs(moved - expected)[:, inner(transform)].max(initial=0))


def crop(top: float, left: float, part: float) -> Step:
    def step(before: Transform) -> Transform:
        height, width = (max(4, round(side * part)) for side in before.size)
        reach = (before.size[0] - height, before.size[1] - width)
        return before.crop(top * max(0, reach[0]), left * max(0, reach[1]), height, width)

    return step


def resize(part: float) -> Step:
    return lambda before: before.resize(*(max(4, round(side * part)) for side in before.size))


def zoom(scale: float) -> Step:
    return lambda before: before.zoom(scale, at_fixed_focal=True)


share = st.floats(0, 1)
upright = st.one_of(
    st.builds(crop, share, share, st.floats(0.5, 1)),
    st.just(Transform.flip),
    st.builds(resize, st.floats(0.4, 1.6)),
    st.builds(zoom, st.floats(1, 1.5)),
)


def chained(steps: list[Step]) -> Transform:
    transform = Transform.identity(*FRAME)
    for step in steps:
        transform = step(transform)
    return transform


@settings(deadline=None)
@given(st.lists(upright, max_size=5))
def test_a_ramp_comes_back_within_a_twentieth_of_a_pixel(steps: list[Step]) -> None:
    assert ramp_error(chained(steps)) <= 0.05


@settings(deadline=None)
@given(st.lists(upright, max_size=3), st.floats(-10, 10), st.lists(upright, max_size=2))
def test_a_rotated_ramp_comes_back_within_half_a_pixel(
    before: list[Step], degrees: float, after: list[Step]
) -> None:
    turned = chained([*before, lambda one: one.rotate(degrees), *after])

    assert ramp_error(turned) <= 0.5


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 40))
def test_a_window_of_a_stored_map_is_that_window_of_the_whole_map(top: int, left: int) -> None:
    native = np.random.default_rng(0).uniform(1, 9, (24, 32)).astype(np.float32)
    whole = Transform.identity(*FRAME).stored_depth(native)

    window = Transform.identity(*FRAME).crop(top, left, 18, 24).stored_depth(native)

    np.testing.assert_allclose(window, whole[top : top + 18, left : left + 24], rtol=0, atol=1e-5)


def test_the_whole_stored_map_follows_the_store_s_rule() -> None:
    from kdpipe.store.frame import to_frame

    native = np.random.default_rng(1).uniform(1, 9, (24, 32)).astype(np.float32)
    native[5, 6] = 0

    moved = Transform.identity(*FRAME).stored_depth(native)

    np.testing.assert_allclose(moved, to_frame(native, FRAME, None), atol=1e-5)


def test_a_pixel_that_touches_an_unknown_one_is_unknown() -> None:
    native = np.full((24, 32), 3, np.float32)
    native[12, 16] = 0

    moved = Transform.identity(*FRAME).stored_depth(native)

    y, x = np.mgrid[0 : FRAME[0], 0 : FRAME[1]]
    row, column = y * 23 / 47, x * 31 / 63
    touches = (np.abs(row - 12) < 1 - 1e-9) & (np.abs(column - 16) < 1 - 1e-9)
    np.testing.assert_array_equal(moved == 0, touches)
    np.testing.assert_allclose(moved[~touches], 3, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.25, 2.0, 3.0])
def test_a_zoom_at_fixed_focal_length_divides_depth_and_bin_centres(scale: float) -> None:
    plain = Transform.identity(*FRAME).zoom(scale, at_fixed_focal=False)
    fixed = Transform.identity(*FRAME).zoom(scale, at_fixed_focal=True)
    depth = np.random.default_rng(2).uniform(1, 9, FRAME).astype(np.float32)
    centers = np.linspace(1, 9, 8, dtype=np.float32)

    np.testing.assert_allclose(fixed.truth(depth) * scale, plain.truth(depth), rtol=1e-6)
    np.testing.assert_allclose(
        fixed.stored_depth(depth) * scale, plain.stored_depth(depth), rtol=1e-6
    )
    np.testing.assert_allclose(fixed.centers(centers) * scale, plain.centers(centers), rtol=1e-6)
    np.testing.assert_array_equal(plain.centers(centers), centers)


@settings(deadline=None)
@given(st.lists(upright, max_size=4), st.floats(-5, 5))
def test_points_stay_where_the_moved_camera_sees_them(steps: list[Step], degrees: float) -> None:
    """A point of the frame, projected by the moved camera, lands on its own pixel."""
    camera = Intrinsics(60, 55, 30, 25)
    transform = chained(steps)
    x, y = (float(v.reshape(-1)[0]) for v in transform.positions())
    moved = transform.intrinsics(camera)
    depth = 4.0

    # The point that the frame's camera sees at (x, y), in metres.
    point = ((x - 0.5 - camera.cx) / camera.fx * depth, (y - 0.5 - camera.cy) / camera.fy * depth)
    seen = depth / transform.depth_divisor
    mirrored = np.sign(transform.matrix[0, 0])
    column = mirrored * moved.fx * point[0] / seen + moved.cx
    row = moved.fy * point[1] / seen + moved.cy

    assert column == pytest.approx(0, abs=1e-6)
    assert row == pytest.approx(0, abs=1e-6)


def test_a_resize_changes_the_focal_length_and_a_fixed_one_stays() -> None:
    camera = Intrinsics(60, 60, 31.5, 23.5)
    identity = Transform.identity(*FRAME)

    assert identity.resize(24, 32).intrinsics(camera).fx == pytest.approx(30)
    assert identity.zoom(1.5, at_fixed_focal=False).intrinsics(camera).fx == pytest.approx(90)
    assert identity.zoom(1.5, at_fixed_focal=True).intrinsics(camera).fx == pytest.approx(60)
    assert identity.flip().intrinsics(camera).cx == pytest.approx(31.5)
    assert identity.crop(3, 5, 20, 20).intrinsics(camera).cx == pytest.approx(26.5)


def test_truth_is_never_interpolated() -> None:
    depth = np.where(np.indices(FRAME).sum(0) % 2 == 0, 2, 0).astype(np.float32)

    moved = Transform.identity(*FRAME).rotate(7).resize(31, 47).truth(depth)

    assert set(np.unique(moved)) == {0, 2}


def test_nothing_is_known_outside_the_frame() -> None:
    turned = Transform.identity(*FRAME).rotate(30)
    depth = np.full(FRAME, 2, np.float32)
    image = np.full((*FRAME, 3), 200, np.uint8)

    outside = ~turned.inside()

    assert outside[0, 0]
    assert (turned.truth(depth)[outside] == 0).all()
    assert (turned.stored_depth(depth)[outside] == 0).all()
    assert (turned.image(image).numpy()[:, outside] == 0).all()


def test_shrinking_averages_instead_of_picking() -> None:
    image = np.zeros((*FRAME, 3), np.uint8)
    image[:, ::2] = 255

    small = Transform.identity(*FRAME).resize(12, 16).image(image)

    assert small.min() > 0.4
    assert small.max() < 0.6
