"""Light at each hit point: texture, lamps with soft shadows, daylight, occlusion near corners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdpipe.datasets.render.lighting import ShadowMap, shadow_map, sun_map
from kdpipe.datasets.render.textures import LEVELS, SIDE, bank

if TYPE_CHECKING:
    from kdpipe.datasets.render.camera import Camera
    from kdpipe.datasets.render.scene import Opening, Scene, Sun

Floats = NDArray[np.float32]
_CHUNK = 24_576
"""Samples shaded at once: their arrays stay in the processor's cache."""

_CELL = 0.03
"""Side of a cell of the floor's occlusion map [m]."""

_FAINT = np.float32(2e-3)
"""Light weaker than this, of a lamp of unit power, needs no shadow."""


@dataclass(slots=True)
class _Samples:
    """What is known of N hit points while they are shaded."""

    position: list[Floats]
    normal: list[Floats]
    towards: list[Floats]
    """Unit vectors to the camera."""
    footprint: Floats
    """Of a pixel on the surface [m]."""
    u: Floats
    v: Floats
    """In tiles."""
    material: NDArray[np.intp]


class Shader:
    """Shades samples of one scene; its tables and shadow maps serve all views."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        quads, rounds, materials = scene.quads, scene.rounds, scene.materials
        self._lamps = [(x, shadow_map(scene, x) if x.casts else None) for x in scene.lights]
        self._sun = None if scene.sun is None else (scene.sun, sun_map(scene, scene.sun))

        self._floor = _under_furniture(scene)
        metres = materials.metres[quads.material][:, None]
        per_metre = 1 / np.where(metres > 0, metres, quads.size)
        phase = np.arange(len(metres))[:, None] * np.array([0.618034, 0.754878]) % 1
        phase = np.where(metres > 0, phase, 0.0)
        planes = []
        for k, edge in enumerate((quads.along, quads.across)):
            scaled = edge * per_metre[:, k : k + 1]
            shift = phase[:, k] - (scaled * quads.corner).sum(1)
            planes.append(np.concatenate([scaled, shift[:, None]], 1))
        count = len(rounds.centre)
        columns = np.concatenate(
            [*planes, quads.normal, per_metre[:, :1]],
            1,
        )
        self._table = np.ascontiguousarray(
            np.concatenate([columns, np.zeros((count, 12))]).T, dtype=np.float32
        )
        self._material = np.concatenate([quads.material, rounds.material])

    def colour(
        self, camera: Camera, x: Floats, y: Floats, inverse: Floats, hit: NDArray[np.uint16]
    ) -> Floats:
        """Light (3, N) that reaches the camera along N rays.

        Args:
            camera: the view.
            x: directions, as `Grid.directions` gives them (N,).
            y: likewise.
            inverse: 1/z of the hits (N,) [1/m].
            hit: the surfaces' numbers (N,).
        """
        light = np.empty((3, len(x)), np.float32)
        for start in range(0, len(x), _CHUNK):
            part = slice(start, start + _CHUNK)
            samples = self._locate(camera, x[part], y[part], inverse[part], hit[part])
            for channel, values in enumerate(self._shade(samples)):
                light[channel, part] = values
        return light

    def _locate(
        self, camera: Camera, x: Floats, y: Floats, inverse: Floats, hit: NDArray[np.uint16]
    ) -> _Samples:
        depth = 1 / inverse
        number = hit.astype(np.intp)
        ray: list[Floats] = []
        position: list[Floats] = []
        for axis in range(3):
            f, r, d = (np.float32(v[axis]) for v in (camera.forward, camera.right, camera.down))
            along = x * r
            along += y * d
            along += f
            ray.append(along)
            place = np.asarray(along * depth + np.float32(camera.position[axis]), np.float32)
            position.append(place)
        row = [np.take(self._table[i], number) for i in range(12)]
        u = row[0] * position[0] + row[1] * position[1] + row[2] * position[2] + row[3]
        v = row[4] * position[0] + row[5] * position[1] + row[6] * position[2] + row[7]
        samples = _Samples(position, row[8:11], ray, row[11], u, v, self._material[number])
        self._locate_rounds(samples, number)
        length = 1 / np.sqrt(_dot(ray, ray))
        for part in ray:
            part *= -length
        cosine = np.maximum(_dot(samples.normal, ray), 0.05)
        samples.footprint *= depth * np.float32(SIDE / camera.fx) / np.sqrt(cosine)
        return samples

    def _locate_rounds(self, samples: _Samples, number: NDArray[np.intp]) -> None:
        """Normals and texture coordinates of curved surfaces, in place."""
        rounds, first = self._scene.rounds, len(self._scene.quads.corner)
        curved = np.flatnonzero(number >= first)
        which = number[curved] - first
        for one in np.unique(which).tolist():
            at = curved[which == one]
            offset = [samples.position[i][at] - np.float32(rounds.centre[one, i]) for i in range(3)]
            local = [_dot(offset, [np.float32(c) for c in rounds.axes[one, k]]) for k in range(3)]
            radii = [np.float32(r) for r in rounds.radii[one]]
            slope = [p / (r * r) for p, r in zip(local, radii, strict=True)]
            if rounds.is_cylinder[one]:
                slope[2] = np.zeros_like(local[2])
            length = 1 / np.sqrt(_dot(slope, slope))
            for axis in range(3):
                turned = _dot(slope, [np.float32(c) for c in rounds.axes[one, :, axis]])
                samples.normal[axis][at] = turned * length
            metres = self._scene.materials.metres[rounds.material[one]] or 1.0
            around = np.arctan2(local[1], local[0]) * max(radii[0], 0.08)
            samples.u[at] = around / metres
            samples.v[at] = local[2] / metres
            samples.footprint[at] = 1 / metres

    def _albedo(self, samples: _Samples) -> list[Floats]:
        tiles, materials = bank(), self._scene.materials
        level = np.log2(np.maximum(samples.footprint, 1)).astype(np.int32)
        np.minimum(level, LEVELS - 1, out=level)
        side = SIDE >> level
        column = np.floor(samples.u * side).astype(np.int32) & (side - 1)
        row = np.floor(samples.v * side).astype(np.int32) & (side - 1)
        at = (row * side + column + tiles.level_start[level]).astype(np.intp)
        at += materials.tile[samples.material] * tiles.tile_size
        value = np.take(tiles.texels, at) + samples.material * 256
        return [np.take(channel, value) for channel in materials.palette]

    def _shade(self, samples: _Samples) -> list[Floats]:
        materials = self._scene.materials
        gloss = materials.gloss[samples.material]
        received = self._ambient(samples)
        shine: list[Floats | np.float32] = [np.float32(0)] * 3
        lifted = [
            p + n * np.float32(0.025) for p, n in zip(samples.position, samples.normal, strict=True)
        ]
        ahead = 2 * _dot(samples.normal, samples.towards)
        mirrored = [n * ahead - t for n, t in zip(samples.normal, samples.towards, strict=True)]
        for light, shadows in self._lamps:
            to_light = [
                np.float32(c) - p for c, p in zip(light.position, samples.position, strict=True)
            ]
            square = _dot(to_light, to_light)
            near = 1 / np.sqrt(square)
            cosine = _dot(to_light, samples.normal)
            cosine *= near
            np.maximum(cosine, 0, out=cosine)
            square += np.float32(light.softness)
            strength = 1 / square
            if light.facing is not None:
                axis = int(np.abs(light.facing).argmax())  # windows face along x or y
                frontal = to_light[axis] * np.float32(-light.facing[axis])
                frontal *= near
                strength *= np.maximum(frontal, 0, out=frontal)
            if shadows is not None:
                some = np.flatnonzero(strength * cosine > _FAINT)
                strength[some] *= shadows.lit(*(np.take(p, some) for p in lifted))
                lobe = _dot(mirrored, to_light)
                lobe *= near
                np.maximum(lobe, 0, out=lobe)
                for _ in range(5):
                    lobe *= lobe
                lobe *= gloss
                lobe *= strength
                for i in range(3):
                    shine[i] = shine[i] + lobe * np.float32(light.power[i])
            strength *= cosine
            for i in range(3):
                received[i] += strength * np.float32(light.power[i])
        if self._sun is not None:
            direct = _sunlight(samples, lifted, self._scene.openings, *self._sun)
            for i in range(3):
                received[i] += direct * np.float32(self._sun[0].power[i])
        glow = materials.emission[samples.material]
        albedo = self._albedo(samples)
        return [a * (r + glow) + s for a, r, s in zip(albedo, received, shine, strict=True)]

    def _ambient(self, samples: _Samples) -> list[Floats]:
        """Light from everywhere, less near walls, corners and under furniture."""
        (x, y, z), normal, size = samples.position, samples.normal, self._scene.size
        open_part = 0.85 + 0.15 * normal[2]
        for p, n, length in zip((x, y, z), normal, size, strict=True):
            away = np.minimum(p, np.float32(length) - p)
            open_part *= 1 - (0.45 - 0.45 * np.abs(n)) * np.exp(np.float32(-4.5) * away)
        floor = np.flatnonzero((z < 0.04) & (normal[2] > 0.7))
        column = (np.take(x, floor) * np.float32(1 / _CELL)).astype(np.int32)
        row = (np.take(y, floor) * np.float32(1 / _CELL)).astype(np.int32)
        open_part[floor] *= np.take(self._floor, row * self._floor.shape[1] + column, mode="clip")
        return [open_part * np.float32(c) for c in self._scene.ambient]


def _under_furniture(scene: Scene) -> Floats:
    """Part of the light from everywhere that the floor gets, by cell of _CELL: rows are y."""
    x = (np.arange(int(scene.size[0] / _CELL) + 1, dtype=np.float32) + 0.5) * np.float32(_CELL)
    y = (np.arange(int(scene.size[1] / _CELL) + 1, dtype=np.float32) + 0.5) * np.float32(_CELL)
    covered = np.ones((len(y), len(x)), np.float32)
    for x0, x1, y0, y1 in scene.footprints.tolist():
        dx = np.maximum(np.abs(x - (x0 + x1) / 2) - (x1 - x0) / 2, 0)
        dy = np.maximum(np.abs(y - (y0 + y1) / 2) - (y1 - y0) / 2, 0)
        covered *= 1 - 0.5 * np.exp(-7 * np.sqrt(dx * dx + (dy * dy)[:, None]))
    return covered


def _sunlight(
    samples: _Samples,
    lifted: list[Floats],
    openings: tuple[Opening, ...],
    sun: Sun,
    shadows: ShadowMap,
) -> Floats:
    """Cosine to the sun (N,) where its rays pass a pane and no furniture, else 0."""
    received = np.zeros_like(samples.u)
    direction = [np.float32(c) for c in sun.towards]
    cosine = _dot(samples.normal, direction)
    facing = np.flatnonzero(cosine > 0)
    position = [np.take(p, facing) for p in samples.position]
    for opening in openings:
        falls = float(-(opening.inward * sun.towards).sum())
        if falls < 0.05:
            continue
        axis = int(np.abs(opening.inward).argmax())  # a wall's normal runs along x or y
        away = float(opening.inward[axis]) / falls
        distance = (position[axis] - np.float32(opening.centre[axis])) * np.float32(away)
        other = 1 - axis
        side = position[other] + distance * direction[other]
        side -= np.float32(opening.centre[other])
        up = position[2] + distance * direction[2]
        up -= np.float32(opening.centre[2])
        near = np.flatnonzero(
            (np.abs(side) < opening.half[0] + 0.05) & (np.abs(up) < opening.half[1] + 0.05)
        )
        if not len(near):
            continue
        edge = 0.012 + 0.006 * np.take(distance, near)  # the sun is a disc: edges blur
        passed = np.take(cosine, facing[near])
        for at, half, panes in zip((side, up), opening.half, opening.panes, strict=True):
            here, pane = np.take(at, near), 2 * half / panes
            passed *= np.clip((half - np.abs(here)) / edge + 0.5, 0, 1)
            bars = here * (1 / pane) + (panes / 2 + 0.5)
            from_bar = np.abs(bars - np.floor(bars) - 0.5) * pane
            passed *= np.clip((from_bar - 0.025) / edge + 0.5, 0, 1)
        through = facing[near]
        received[through] += passed * shadows.lit(*(np.take(p, through) for p in lifted))
    return received


def _dot(a: list[Floats], b: list[Floats] | list[np.float32]) -> Floats:
    total = a[0] * b[0]
    total += a[1] * b[1]
    total += a[2] * b[2]
    return total
