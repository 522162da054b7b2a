"""The ray caster against closed forms: a bare room, a ball, a pillar; planes stay planes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from kdpipe.datasets import rooms
from kdpipe.datasets.render.camera import Camera, Grid, axes, look
from kdpipe.datasets.render.raycast import NOTHING, cast
from kdpipe.datasets.render.surfaces import Builder, pose

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOM = (4.0, 5.0, 2.6)
HEIGHT, WIDTH = 60, 80
GRID = Grid(HEIGHT, WIDTH)


def _camera(yaw: float = 0.7, pitch: float = -0.15, roll: float = 0.04) -> Camera:
    turned = axes(np.array(yaw), np.array(pitch), roll)
    return look(np.array([1.2, 1.5, 1.4]), turned, (70.0, 72.0, 39.0, 30.5))


def _rays(camera: Camera) -> NDArray[np.float64]:
    """(H, W, 3): forward + X right + Y down."""
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    x, y = (column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy
    return camera.forward + x[..., None] * camera.right + y[..., None] * camera.down


def _shell(out: Builder) -> None:
    width, depth, height = ROOM
    for corner, along, across in (
        ((width, 0, 0), (-width, 0, 0), (0, 0, height)),
        ((0, depth, 0), (width, 0, 0), (0, 0, height)),
        ((0, 0, 0), (0, depth, 0), (0, 0, height)),
        ((width, depth, 0), (0, -depth, 0), (0, 0, height)),
        ((0, 0, 0), (width, 0, 0), (0, depth, 0)),
        ((0, 0, height), (0, depth, 0), (width, 0, 0)),
    ):
        out.quad(corner, along, across, 0, 12, is_shell=True)


def _room_depth(camera: Camera) -> NDArray[np.float64]:
    """Depth of the six walls in closed form."""
    ray = _rays(camera)
    wall = np.where(ray > 0, np.array(ROOM), 0.0)
    depth: NDArray[np.float64] = ((wall - camera.position) / ray).min(-1)
    return depth


def _cast(out: Builder, camera: Camera) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    return cast(out.quads(), out.rounds(), camera, GRID)


@pytest.mark.parametrize("yaw", [0.1, 1.5, 2.9, 4.4])
def test_a_bare_room_is_as_deep_as_its_closed_form(yaw: float) -> None:
    camera, out = _camera(yaw), Builder()
    _shell(out)

    inverse, hit = _cast(out, camera)

    assert not (hit == NOTHING).any()
    np.testing.assert_allclose(1 / inverse, _room_depth(camera), rtol=5e-6)


def test_a_ball_hides_the_wall_just_where_it_should() -> None:
    camera, out = _camera(), Builder()
    centre, radius = np.array([2.6, 2.7, 1.1]), 0.45
    _shell(out)
    out.ellipsoid((2.6, 2.7, 1.1), (radius, radius, radius), 0, 7)
    ray, offset = _rays(camera), centre - camera.position
    a, b = (ray**2).sum(-1), (ray * offset).sum(-1)
    square = b**2 - a * ((offset**2).sum() - radius**2)
    inside = square > 1e-4  # away from the rim, where the root is ill-conditioned
    depth = (b - np.sqrt(np.maximum(square, 0))) / a

    inverse, hit = _cast(out, camera)

    assert inside.sum() > 100
    assert (hit[inside] == 6).all()
    assert not (hit[square < -1e-4] == 6).any()
    np.testing.assert_allclose(1 / inverse[inside], depth[inside], rtol=1e-4)


def test_an_upright_cylinder_has_its_mantle_and_its_lid() -> None:
    camera, out = _camera(pitch=-0.5), Builder()
    out.cylinder((2.4, 2.5, 0.0), 0.4, (0.0, 0.6), 0, 7)

    inverse, hit = _cast(out, camera)

    point = camera.position + _rays(camera) / np.maximum(inverse, 1e-3)[..., None]
    away = np.hypot(point[..., 0] - 2.4, point[..., 1] - 2.5)
    lid, mantle = hit == 0, hit == 2
    assert lid.sum() > 50
    assert mantle.sum() > 50
    np.testing.assert_allclose(point[lid][:, 2], 0.6, atol=1e-5)
    assert away[lid].max() < 0.4 + 1e-4
    np.testing.assert_allclose(away[mantle], 0.4, atol=2e-4)
    assert point[mantle][:, 2].min() > -1e-4
    assert point[mantle][:, 2].max() < 0.6 + 1e-4


def test_a_turned_box_leaves_no_cracks_between_its_faces() -> None:
    camera, out = _camera(), Builder()
    out.box((-0.8, 0.8), (-0.8, 0.8), (0.0, 2.0), 0, 6, at=pose(2.6, 2.9, 0.0, 0.4, 0.2))

    _, hit = _cast(out, camera)

    seen = hit != NOTHING
    assert seen.sum() > 400
    for line in (*seen, *seen.T):  # a convex body: the rays that meet it are one run in each line
        assert np.count_nonzero(np.diff(line.astype(int))) <= 2


def test_a_box_seen_from_inside_its_room_hides_what_is_behind() -> None:
    camera, out = _camera(), Builder()
    _shell(out)
    out.box((2.0, 3.0), (2.2, 3.2), (0.0, 1.2), 0, 6)
    ray = np.where(np.abs(_rays(camera)) < 1e-9, 1e-9, _rays(camera))
    ends = [(np.array(p) - camera.position) / ray for p in ((2.0, 2.2, 0.0), (3.0, 3.2, 1.2))]
    enter, leave = np.minimum(*ends).max(-1), np.maximum(*ends).min(-1)
    expected = np.where((enter < leave) & (enter > 0), enter, _room_depth(camera))

    inverse, _ = _cast(out, camera)

    wrong = np.abs(1 / inverse - expected) > 1e-4 * expected
    assert wrong.mean() < 2e-3  # rays that graze an edge


def test_the_floor_brought_back_to_space_is_flat_within_the_files_unit() -> None:
    options = rooms.Options(train=4, height=96, width=128)
    checked = 0
    for seen in rooms.render_views(options, "train", 1):
        codes = np.rint(seen.depth / rooms.UNIT)
        row, column = np.nonzero(seen.labels == 5)  # the floor is one plane, but for rugs
        depth = codes[row, column] * rooms.UNIT
        camera = seen.camera
        x, y = (column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy
        height = camera.position[2] + depth * (
            camera.forward[2] + x * camera.right[2] + y * camera.down[2]
        )
        slope = np.abs(camera.forward[2] + x * camera.right[2] + y * camera.down[2])
        floor = np.abs(height) < 0.0005  # the rest are rugs, 12 mm thick
        checked += int(floor.sum())
        assert np.all(np.abs(height[floor]) <= slope[floor] * rooms.UNIT * 0.5 + 2e-6)
    assert checked > 6000
