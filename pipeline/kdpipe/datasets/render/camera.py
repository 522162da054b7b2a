"""A pinhole camera, and the grid of rays that is cast through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.datasets.render.surfaces import Array


@dataclass(frozen=True, slots=True)
class Camera:
    """Pixel (column, row) looks along forward + X right + Y down, X = (column - cx) / fx."""

    position: Array
    """(3,) [m]"""
    right: Array
    down: Array
    forward: Array
    fx: float
    """[pixels]; the centre of the first pixel is column 0, row 0."""
    fy: float
    cx: float
    cy: float

    @property
    def axes(self) -> Array:
        """(3, 3), rows forward, right, down."""
        return np.stack([self.forward, self.right, self.down])


@dataclass(frozen=True, slots=True)
class Grid:
    """Where rays are cast: columns first, first + step, ... and rows likewise [pixels]."""

    rows: int
    columns: int
    first: float = 0.0
    step: float = 1.0

    def directions(self, camera: Camera) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """X (columns,) and Y (rows,) of the rays."""
        column = self.first + self.step * np.arange(self.columns)
        row = self.first + self.step * np.arange(self.rows)
        x = (column - camera.cx) / camera.fx
        y = (row - camera.cy) / camera.fy
        return x.astype(np.float32), y.astype(np.float32)


def axes(yaw: Array, pitch: Array, roll: float) -> Array:
    """Axes (..., 3, 3) of cameras: rows forward, right, down.

    Args:
        yaw: of the view, from east towards north (...) [rad].
        pitch: upwards (...) [rad].
        roll: clockwise turn of the camera [rad].
    """
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    forward = np.stack([cp * cy, cp * sy, sp], -1)
    level = np.stack([sy, -cy, np.zeros_like(cy)], -1)
    below = np.stack([sp * cy, sp * sy, -cp], -1)
    right = np.cos(roll) * level + np.sin(roll) * below
    down = np.cos(roll) * below - np.sin(roll) * level
    return np.stack([forward, right, down], -2)


def look(position: Array, turned: Array, intrinsics: tuple[float, float, float, float]) -> Camera:
    """Points a camera.

    Args:
        position: (3,) [m].
        turned: (3, 3), from `axes`.
        intrinsics: fx, fy, cx, cy [pixels].
    """
    return Camera(position, turned[1], turned[2], turned[0], *intrinsics)
