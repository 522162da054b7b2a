"""A pinhole camera, and the grid of rays that is cast through it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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


def look(
    position: Array, yaw: float, pitch: float, roll: float, intrinsics: tuple[float, ...]
) -> Camera:
    """Points a camera.

    Args:
        position: (3,) [m].
        yaw: of the view, from east towards north [rad].
        pitch: upwards [rad].
        roll: clockwise turn of the camera [rad].
        intrinsics: fx, fy, cx, cy [pixels].
    """
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
    level = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    below = np.cross(forward, level)
    right = np.cos(roll) * level + np.sin(roll) * below
    down = np.cos(roll) * below - np.sin(roll) * level
    return Camera(position, right, down, forward, *intrinsics)
