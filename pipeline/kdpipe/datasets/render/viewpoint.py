"""Where a person would stand to photograph a room."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from kdpipe.datasets.render.camera import Camera, look
from kdpipe.datasets.render.scene import Scene
from kdpipe.datasets.render.surfaces import Array

_NEAREST = 0.55
"""No probed ray may end nearer than this [m]."""


def choose(scene: Scene, rng: Generator, height: int, width: int) -> Camera:
    """Draws a camera: standing free, looking across the room, something near and something far.

    Of 24 candidates the one with the best spread of depths along a few probing rays is taken.
    """
    best, best_score = None, -np.inf
    for _ in range(24):
        camera = _candidate(scene, rng, height, width)
        depths = np.maximum(_probe(scene, camera, height, width), 0.05)
        nearest, median = float(depths.min()), float(np.median(depths))
        score = min(nearest, _NEAREST) * 20 + min(median, 3.2) + 0.5 * float(np.log(depths).std())
        if score > best_score:
            best, best_score = camera, score
    assert best is not None
    return best


def _candidate(scene: Scene, rng: Generator, height: int, width: int) -> Camera:
    size = np.array(scene.size)
    ground = rng.uniform(0.25, size[:2] - 0.25)
    target = rng.uniform(0.2, 0.8, 2) * size[:2]
    away = target - ground
    yaw = float(np.arctan2(away[1], away[0])) + rng.normal(0, 0.15)
    position = np.array([*ground, min(rng.uniform(1.05, 1.8), size[2] - 0.4)])
    pitch = np.radians(rng.normal(-9, 7) - 6 * (position[2] - 1.4))
    roll = np.radians(np.clip(rng.normal(0, 2.0), -6, 6))
    focal = width / 2 / np.tan(np.radians(rng.uniform(56, 74)) / 2)
    cx, cy = (
        (width - 1) / 2 + rng.normal(0, 0.008) * width,
        (height - 1) / 2 + rng.normal(0, 0.008) * height,
    )
    return look(position, yaw, float(pitch), float(roll), (focal, focal, float(cx), float(cy)))


def _probe(scene: Scene, camera: Camera, height: int, width: int) -> Array:
    """Depth [m] along 7 x 5 rays, to the bounding boxes of furniture and to the walls."""
    columns, rows = np.meshgrid(np.linspace(0, width - 1, 7), np.linspace(0, height - 1, 5))
    x = ((columns - camera.cx) / camera.fx).ravel()[:, None]
    y = ((rows - camera.cy) / camera.fy).ravel()[:, None]
    ray = camera.forward + x * camera.right + y * camera.down
    ray = np.where(np.abs(ray) < 1e-6, 1e-6, ray)
    walls = np.where(ray > 0, np.array(scene.size), 0.0)
    depth: Array = ((walls - camera.position) / ray).min(1)
    boxes = scene.obstacles.reshape(-1, 3, 2)
    ends = (boxes[None] - camera.position[:, None]) / ray[:, None, :, None]
    enter, leave = ends.min(-1).max(-1), ends.max(-1).min(-1)
    reached = (enter < leave) & (leave > 0)
    blocked: Array = np.where(reached, np.maximum(enter, 0), np.inf).min(1, initial=np.inf)
    return np.minimum(depth, blocked)
