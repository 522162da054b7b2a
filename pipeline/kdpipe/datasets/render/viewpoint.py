"""Where a person would stand to photograph a room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kdpipe.datasets.render.camera import Camera, axes, look

if TYPE_CHECKING:
    from numpy.random import Generator

    from kdpipe.datasets.render.scene import Scene
    from kdpipe.datasets.render.surfaces import Array

_NEAREST = 0.55
"""No probed ray should end nearer than this [m]."""

_MEDIAN = (1.2, 5.5)
"""Range of the median depth a view is drawn for [m]."""

_CANDIDATES = 20


def choose(scene: Scene, rng: Generator, height: int, width: int) -> Camera:
    """Draws a camera: standing free, looking across the room, furniture in view.

    Of some candidates the best is taken, by what a few probing rays meet: nothing too near, a
    good part furniture, a spread of depths, and a median depth near one that is drawn first, so
    that close and wide views are about as frequent.
    """
    size = np.array(scene.size)
    focal = width / 2 / np.tan(np.radians(rng.uniform(56, 74)) / 2)
    cx = (width - 1) / 2 + rng.normal(0, 0.008) * width
    cy = (height - 1) / 2 + rng.normal(0, 0.008) * height
    intrinsics = (float(focal), float(focal), float(cx), float(cy))
    eye = min(rng.uniform(1.1, 1.8), size[2] - 0.4)
    roll = np.radians(np.clip(rng.normal(0, 2.0), -6, 6))

    ground = rng.uniform(0.25, size[:2] - 0.25, (_CANDIDATES, 2))
    away = rng.uniform(0.2, 0.8, (_CANDIDATES, 2)) * size[:2] - ground
    yaw = np.arctan2(away[:, 1], away[:, 0]) + rng.normal(0, 0.15, _CANDIDATES)
    pitch = np.radians(rng.normal(-13, 6, _CANDIDATES) - 8 * (eye - 1.45))
    positions = np.concatenate([ground, np.full((_CANDIDATES, 1), eye)], 1)
    turned = axes(yaw, pitch, float(roll))
    wanted = float(np.exp(rng.uniform(*np.log(_MEDIAN))))
    reach = (width / 2 / focal, height / 2 / focal)
    scores = _score(scene, positions, turned, reach, wanted)
    best = int(scores.argmax())
    return look(positions[best], turned[best], intrinsics)


def _score(
    scene: Scene, positions: Array, turned: Array, reach: tuple[float, float], wanted: float
) -> Array:
    """How good each view (C,) is; 9 x 7 rays to walls and furniture's bounding boxes."""
    x, y = np.meshgrid(np.linspace(-reach[0], reach[0], 9), np.linspace(-reach[1], reach[1], 7))
    through = np.stack([np.ones(x.size), x.ravel(), y.ravel()], 1)
    ray = np.einsum("rk,ckj->crj", through, turned)
    ray = np.where(np.abs(ray) < 1e-6, 1e-6, ray)
    start = positions[:, None]
    walls = np.where(ray > 0, np.array(scene.size), 0.0)
    depth: Array = ((walls - start) / ray).min(2)
    boxes = scene.obstacles.reshape(-1, 3, 2)
    slope = 1 / ray[:, :, None]
    low = (boxes[None, None, :, :, 0] - start[:, :, None]) * slope
    high = (boxes[None, None, :, :, 1] - start[:, :, None]) * slope
    enter, leave = np.minimum(low, high).max(-1), np.maximum(low, high).min(-1)
    reached = (enter < leave) & (leave > 0)
    blocked = np.where(reached, np.maximum(enter, 0), np.inf).min(2, initial=np.inf)
    furnished = (blocked < depth).mean(1)
    depth = np.maximum(np.minimum(depth, blocked), 0.05)
    nearest, median = depth.min(1), np.median(depth, axis=1)
    score: Array = (
        20 * np.minimum(nearest, _NEAREST)
        - 6 * np.abs(np.log(median / wanted))
        + 4 * np.minimum(furnished, 0.5)
        + 0.8 * np.log(depth).std(1)
    )
    return score
