"""One view of a scene: colour, depth, labels, as a camera would give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdpipe.datasets.render.camera import Camera, Grid
from kdpipe.datasets.render.raycast import cast

if TYPE_CHECKING:
    from numpy.random import Generator

    from kdpipe.datasets.render.scene import Scene
    from kdpipe.datasets.render.shade import Shader
    from kdpipe.types import Depth, Image, Labels

Floats = NDArray[np.float32]

_LEVELS = 4096
_CURVE = np.linspace(0, 1.0, _LEVELS)
_SRGB = np.rint(
    255 * np.where(_CURVE <= 0.0031308, 12.92 * _CURVE, 1.055 * _CURVE ** (1 / 2.4) - 0.055)
).astype(np.uint8)
"""IEC 61966-2-1."""

_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


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
    Colour is shaded at pixel centres and, where the rays around a pixel hit different surfaces,
    at its four corners too: half the weight is the centre's.
    """
    grid = Grid(2 * height + 1, 2 * width + 1, -0.5, 0.5)
    inverse, hit = cast(scene.quads, scene.rounds, camera, grid)
    depth: Depth = np.float32(1) / inverse[1::2, 1::2]
    label = np.concatenate([scene.quads.label, scene.rounds.label])[hit[1::2, 1::2]]
    light = _filtered(shader, camera, grid, inverse, hit)
    return View(_develop(light, rng), depth, label, camera)


def _filtered(
    shader: Shader, camera: Camera, grid: Grid, inverse: Floats, hit: NDArray[np.uint16]
) -> Floats:
    """Light (3, H, W) at the camera."""
    height, width = grid.rows // 2, grid.columns // 2
    mixed = _mixed(hit)
    wanted = np.zeros(hit.shape, bool)
    wanted[1::2, 1::2] = True
    for down, right in _CORNERS:
        rows, columns = (
            slice(1 + down, 2 * height + down, 2),
            slice(1 + right, 2 * width + right, 2),
        )
        wanted[rows, columns] |= mixed
    at = np.flatnonzero(wanted)
    row, column = np.divmod(at.astype(np.int32), np.int32(grid.columns))
    x, y = grid.directions(camera)
    rays = np.take(x, column), np.take(y, row)
    colour = shader.colour(camera, *rays, np.take(inverse, at), np.take(hit, at))

    sample = np.zeros(hit.size, np.intp)
    sample[at] = np.arange(len(at))
    light = np.take(colour, sample.reshape(hit.shape)[1::2, 1::2].ravel(), axis=1)
    edges = np.flatnonzero(mixed)
    row, column = np.divmod(edges, width)
    middle = (2 * row + 1) * grid.columns + 2 * column + 1
    blend = light[:, edges] * np.float32(0.5)
    for down, right in _CORNERS:
        taken = np.take(sample, middle + (down * grid.columns + right))
        blend += np.take(colour, taken, axis=1) * np.float32(0.125)
    light[:, edges] = blend
    return light.reshape(3, height, width)


def _mixed(hit: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Pixels (H, W) whose nine half-pixel rays hit more than one surface."""
    across = hit[:, 1:] != hit[:, :-1]
    across = across[:, ::2] | across[:, 1::2]
    mixed: NDArray[np.bool_] = across[:-1:2] | across[1::2] | across[2::2]
    down = hit[1:, 1::2] != hit[:-1, 1::2]
    mixed |= down[::2] | down[1::2]
    return mixed


def _develop(light: Floats, rng: Generator) -> Image:
    """The camera: exposure, white balance, vignetting, a little blur, noise, the sRGB curve."""
    _, height, width = light.shape
    bright = light[1, ::2, ::2].ravel()
    at = int(0.75 * bright.size)
    exposure = 0.42 / max(float(np.partition(bright, at)[at]), 1e-3) * 2 ** rng.normal(0, 0.3)
    gains = exposure * 2 ** rng.normal(0, (0.12, 0.03, 0.15))
    strength = rng.uniform(0.05, 0.35)
    blur, noise = rng.uniform(0.02, 0.14), rng.uniform(0.003, 0.014)

    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
    shading = 1 - np.float32(strength / 2) * (x + y)
    image = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        plane = light[channel] * shading
        plane *= np.float32(gains[channel])
        plane = _soften(plane, blur)
        grain = plane * np.float32(noise / 8)
        grain += np.float32(noise**2 / 4)
        plane += rng.standard_normal(plane.shape, np.float32) * np.sqrt(grain, out=grain)
        knee = np.maximum(plane - np.float32(0.7), 0)  # highlights roll off, as film does
        knee /= 1 + knee * np.float32(1 / 0.3)
        np.clip(plane, 0, 0.7, out=plane)
        plane += knee
        plane *= _LEVELS - 1
        image[..., channel] = np.take(_SRGB, plane.astype(np.int16))
    return image


def _soften(plane: Floats, blur: float) -> Floats:
    """A three-tap blur along both axes."""
    for _ in range(2):
        soft = plane * np.float32(1 - 2 * blur)
        weak = plane * np.float32(blur)
        soft[1:] += weak[:-1]
        soft[:-1] += weak[1:]
        soft[0] += weak[0]
        soft[-1] += weak[-1]
        plane = soft.T
    return plane
