"""Shadow maps: what a light sees, cast once a scene and read by every view of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdpipe.datasets.render.camera import Camera, Grid
from kdpipe.datasets.render.raycast import cast

if TYPE_CHECKING:
    from kdpipe.datasets.render.scene import Light, Scene, Sun
    from kdpipe.datasets.render.surfaces import Array

Floats = NDArray[np.float32]

_SIDE = 256
"""Of a shadow map [texels]."""

_RIM = 4
"""Empty texels around it: what lies outside is lit."""

_WIDE = ((0, 0), (1, -2), (2, 1), (-1, 2), (-2, -1), (3, -1), (1, 3), (-3, 1), (-1, -3))
_NARROW = ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1))
"""Texels at which a shadow is looked up: a large source, a small one."""


@dataclass(frozen=True, slots=True)
class ShadowMap:
    """Inverse depth of the nearest caster, as seen from a light."""

    camera: Camera
    inverse: Floats
    """Flat, (_SIDE + 2 _RIM)^2 [1/m]."""
    taps: tuple[tuple[int, int], ...]
    """Offsets of the look-ups [texels]."""

    def lit(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Part of the light (N,) that reaches the points, 0..1."""
        camera, side = self.camera, _SIDE + 2 * _RIM
        inverse = 1 / np.maximum(self._affine(x, y, z, camera.forward), np.float32(1e-3))
        at = np.zeros(len(x), np.intp)
        for axis, f, middle, stride in (
            (camera.right, camera.fx, camera.cx, 1),
            (camera.down, camera.fy, camera.cy, side),
        ):
            texel = self._affine(x, y, z, f * axis)
            texel *= inverse
            texel += np.float32(middle + _RIM + 0.5)
            np.clip(texel, _RIM - 1, side - _RIM, out=texel)
            at += texel.astype(np.intp) * stride
        inverse *= np.float32(1.008)  # a caster must be this much nearer
        passed = np.zeros(len(x), np.int8)
        for right_by, down_by in self.taps:
            passed += np.take(self.inverse, at + (down_by * side + right_by)) < inverse
        return passed * np.float32(1 / len(self.taps))

    def _affine(self, x: Floats, y: Floats, z: Floats, direction: Array) -> Floats:
        """Components (N,) of the points as seen from the light; most lights look along an axis."""
        total = np.full(len(x), -(direction * self.camera.position).sum(), np.float32)
        for values, part in zip((x, y, z), direction.tolist(), strict=True):
            if part:
                total += values * np.float32(part)
        return total


def shadow_map(scene: Scene, light: Light) -> ShadowMap:
    """The map of a lamp (it looks down on the floor) or of a window (it looks into the room)."""
    if light.facing is None:
        camera = _over_floor(scene, light.position)
    else:
        camera = _aimed(light.position, light.facing, np.tan(np.radians(64)))
    return _map(scene, camera, _WIDE)


def sun_map(scene: Scene, sun: Sun) -> ShadowMap:
    """The map of the sun: a camera so far away that its rays are all but parallel."""
    middle = np.array(scene.size) / 2
    radius = float(np.sqrt((middle**2).sum()))
    away = 60.0
    return _map(scene, _aimed(middle + away * sun.towards, -sun.towards, radius / away), _NARROW)


def _map(scene: Scene, camera: Camera, taps: tuple[tuple[int, int], ...]) -> ShadowMap:
    grid = Grid(_SIDE, _SIDE)
    inverse, _ = cast(scene.quads, scene.rounds, camera, grid, casters_only=True)
    return ShadowMap(camera, np.pad(inverse, _RIM).ravel(), taps)


def _over_floor(scene: Scene, position: Array) -> Camera:
    """Looks straight down; the image ends where the walls are at a third of the lamp's height."""
    east, north = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    below = position[2] * 0.67
    half = _SIDE / 2
    reach_x = max(position[0], scene.size[0] - position[0])
    reach_y = max(position[1], scene.size[1] - position[1])
    f = (half * below / reach_x, half * below / reach_y)
    return Camera(position, east, -north, np.array([0, 0, -1.0]), *f, half - 0.5, half - 0.5)


def _aimed(position: Array, forward: Array, tangent: float) -> Camera:
    level = np.cross(forward, [0.0, 0.0, 1.0])
    right = level / np.sqrt((level**2).sum())
    half = _SIDE / 2
    f = float(half / tangent)
    down = np.cross(forward, right)
    return Camera(position, right, down, forward, f, f, half - 0.5, half - 0.5)
