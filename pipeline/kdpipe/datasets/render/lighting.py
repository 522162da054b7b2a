"""Shadow maps: what a light sees, cast once a scene and read by every view of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdpipe.datasets.render.camera import Camera, Grid
from kdpipe.datasets.render.raycast import cast
from kdpipe.datasets.render.scene import Light, Scene, Sun
from kdpipe.datasets.render.surfaces import Array

Floats = NDArray[np.float32]

_SIDE = 320
"""Of a shadow map [texels]."""

_RIM = 4
"""Empty texels around it: what lies outside is lit."""

_TAPS = (
    (-0.4, -0.9),
    (0.9, -0.4),
    (0.4, 0.9),
    (-0.9, 0.4),
    (0.1, -0.1),
    (1.6, 1.2),
    (-1.3, 1.5),
    (-1.4, -1.3),
)
"""Where a shadow is looked up, in units of the softness."""


@dataclass(frozen=True, slots=True)
class ShadowMap:
    """Inverse depth of the nearest caster, as seen from a light."""

    camera: Camera
    inverse: Floats
    """Flat, (_SIDE + 2 _RIM)^2 [1/m]."""
    softness: float
    """Radius of the look-ups [texels]."""

    def lit(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Part of the light (N,) that reaches the points, 0..1."""
        camera = self.camera
        dx, dy, dz = (a - np.float32(b) for a, b in zip((x, y, z), camera.position, strict=True))
        forward, right, down = (
            dx * np.float32(v[0]) + dy * np.float32(v[1]) + dz * np.float32(v[2])
            for v in (camera.forward, camera.right, camera.down)
        )
        np.maximum(forward, 1e-3, out=forward)
        column = right / forward * np.float32(camera.fx) + np.float32(camera.cx + _RIM + 0.5)
        row = down / forward * np.float32(camera.fy) + np.float32(camera.cy + _RIM + 0.5)
        side = _SIDE + 2 * _RIM
        limit = 1 / (forward * np.float32(0.992))  # a caster must be this much nearer
        np.clip(column, 2.5, side - 3.5, out=column)
        np.clip(row, 2.5, side - 3.5, out=row)
        total = np.zeros_like(forward)
        for right_by, down_by in _TAPS:
            c = (column + np.float32(right_by * self.softness)).astype(np.int32)
            r = (row + np.float32(down_by * self.softness)).astype(np.int32)
            r *= side
            r += c
            total += np.take(self.inverse, r) < limit
        total *= np.float32(1 / len(_TAPS))
        return total


def shadow_map(scene: Scene, light: Light) -> ShadowMap:
    """The map of a lamp (it looks down on the floor) or of a window (it looks into the room)."""
    if light.facing is None:
        camera = _over_floor(scene, light.position)
    else:
        camera = _aimed(light.position, light.facing, np.tan(np.radians(64)))
    return _map(scene, camera, 1.3 if light.facing is None else 1.5)


def sun_map(scene: Scene, sun: Sun) -> ShadowMap:
    """The map of the sun: a camera so far away that its rays are all but parallel."""
    middle = np.array(scene.size) / 2
    radius = float(np.sqrt((middle**2).sum()))
    away = 60.0
    return _map(scene, _aimed(middle + away * sun.towards, -sun.towards, radius / away), 0.8)


def _map(scene: Scene, camera: Camera, softness: float) -> ShadowMap:
    grid = Grid(_SIDE, _SIDE)
    inverse, _ = cast(scene.quads, scene.rounds, camera, grid, casters_only=True)
    return ShadowMap(camera, np.pad(inverse, _RIM).ravel(), softness)


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
