"""One view of a scene: colour, depth, labels, as a camera would give them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kdpipe.datasets.render.camera import Camera, Grid
from kdpipe.datasets.render.raycast import cast
from kdpipe.datasets.render.scene import Scene
from kdpipe.datasets.render.shade import Shader
from kdpipe.types import Depth, Image, Labels

Floats = NDArray[np.float32]

_LEVELS = 4096
_CURVE = np.clip(np.linspace(0, 1.0, _LEVELS), 0.0, 1.0)
_SRGB = np.rint(
    255 * np.where(_CURVE <= 0.0031308, 12.92 * _CURVE, 1.055 * _CURVE ** (1 / 2.4) - 0.055)
).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class View:
    """What one camera saw."""

    image: Image
    depth: Depth
    labels: Labels
    camera: Camera


def render(
    scene: Scene, shader: Shader, camera: Camera, height: int, width: int, rng: Generator
) -> View:
    """Renders a view.

    Rays are cast at every half pixel; depth and labels are those at pixel centres, untouched.
    Colour is shaded at pixel centres, and at all nine half-pixel positions around a pixel where
    they hit different surfaces, blended by a tent filter.
    """
    grid = Grid(2 * height + 1, 2 * width + 1, -0.5, 0.5)
    inverse, hit = cast(scene.quads, scene.rounds, camera, grid)
    depth = 1 / inverse[1::2, 1::2]
    number = hit[1::2, 1::2]
    label = np.concatenate([scene.quads.label, scene.rounds.label])[number]
    light = _filtered(shader, camera, grid, inverse, hit)
    return View(_develop(light, rng), depth, label, camera)


def _filtered(
    shader: Shader, camera: Camera, grid: Grid, inverse: Floats, hit: NDArray[np.uint16]
) -> Floats:
    height, width = grid.rows // 2, grid.columns // 2
    mixed = _mixed(hit)
    wanted = np.zeros(hit.shape, bool)
    wanted[1::2, 1::2] = True
    for down in range(3):
        for right in range(3):
            wanted[down : down + 2 * height : 2, right : right + 2 * width : 2] |= mixed
    row, column = np.nonzero(wanted)
    x, y = grid.directions(camera)
    light = np.zeros((*hit.shape, 3), np.float32)
    colour = shader.colour(camera, x[column], y[row], inverse[row, column], hit[row, column])
    np.minimum(
        colour,
        4.0 * float(np.partition(colour.ravel(), len(colour) * 2)[len(colour) * 2]),
        out=colour,
    )
    light[row, column] = colour
    centre = light[1::2, 1::2].copy()
    row, column = (2 * a + 1 for a in np.nonzero(mixed))
    blend = np.zeros((len(row), 3), np.float32)
    for down, vertical in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        for right, horizontal in ((-1, 0.25), (0, 0.5), (1, 0.25)):
            blend += light[row + down, column + right] * np.float32(vertical * horizontal)
    centre[mixed] = blend
    return centre


def _mixed(hit: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Pixels (H, W) whose nine half-pixel rays hit more than one surface."""
    middle = hit[1::2, 1::2]
    height, width = middle.shape
    mixed = np.zeros((height, width), bool)
    for down in range(3):
        for right in range(3):
            mixed |= hit[down : down + 2 * height : 2, right : right + 2 * width : 2] != middle
    return mixed


def _develop(light: Floats, rng: Generator) -> Image:
    """The camera: exposure, white balance, vignetting, a little blur, noise, the sRGB curve."""
    height, width = light.shape[:2]
    bright = light[..., 1].ravel()
    at = int(0.75 * bright.size)
    exposure = 0.42 / max(float(np.partition(bright, at)[at]), 1e-3) * 2 ** rng.normal(0, 0.3)
    gains = exposure * 2 ** rng.normal(0, (0.12, 0.03, 0.15))
    strength = rng.uniform(0.05, 0.35)
    blur, noise = rng.uniform(0.02, 0.14), rng.uniform(0.003, 0.014)

    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
    shading = 1 - np.float32(strength / 2) * (x + y)
    image = light * (shading[..., None] * gains.astype(np.float32))
    for axis in (0, 1):
        along = np.moveaxis(image, axis, 0)
        soft = along * np.float32(1 - 2 * blur)
        soft[1:] += np.float32(blur) * along[:-1]
        soft[:-1] += np.float32(blur) * along[1:]
        soft[0] += np.float32(blur) * along[0]
        soft[-1] += np.float32(blur) * along[-1]
        image = np.moveaxis(soft, 0, axis)
    grains = rng.standard_normal(image.shape, np.float32)
    image += grains * np.sqrt(
        np.maximum(image, 0) * np.float32(noise / 8) + np.float32(noise**2 / 4)
    )
    knee = np.maximum(image - 0.7, 0)  # highlights roll off, as film does
    image = np.minimum(image, 0.7) + knee / (1 + knee / 0.3)
    codes = np.clip(image * (_LEVELS - 1), 0, _LEVELS - 1).astype(np.int32)
    return np.ascontiguousarray(_SRGB[codes])
