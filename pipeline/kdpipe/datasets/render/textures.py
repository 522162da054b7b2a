"""Procedural textures: tiles of one byte per texel, in mip levels; a palette gives the colour.

Each tile repeats without a seam. They are made once in a process, from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from numpy.random import Generator

SIDE = 256
"""Texels along a tile."""

LEVELS = 8

Tile = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bank:
    """All tiles and their mip levels in one flat array."""

    texels: NDArray[np.uint8]
    level_start: NDArray[np.int32]
    """Of each level inside a tile [texels]."""
    tile_size: int
    """Texels of a tile with all its levels."""
    number: dict[str, int]
    """Name -> tile."""


@cache
def bank() -> Bank:
    """The tiles of this process."""
    starts = np.cumsum([0] + [(SIDE >> i) ** 2 for i in range(LEVELS)])
    flat: list[NDArray[np.uint8]] = []
    number: dict[str, int] = {}
    for name, make in _MAKERS.items():
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([7, len(number)])))
        number[name] = len(number)
        tile = np.clip(make(rng), 0, 1) * 255
        for _ in range(LEVELS):
            flat.append(np.rint(tile).astype(np.uint8).ravel())
            tile = (tile[::2, ::2] + tile[1::2, ::2] + tile[::2, 1::2] + tile[1::2, 1::2]) / 4
    return Bank(np.concatenate(flat), starts[:-1].astype(np.int32), int(starts[-1]), number)


def noise(rng: Generator, rows: int, columns: int, octaves: int = 5, fall: float = 0.5) -> Tile:
    """Fractal value noise in 0..1, `rows` by `columns` cells in its coarsest octave."""
    total, weight = np.zeros((SIDE, SIDE)), 1.0
    for _ in range(octaves):
        total += weight * _cells(rng, min(rows, SIDE), min(columns, SIDE))
        rows, columns, weight = rows * 2, columns * 2, weight * fall
    low, high = total.min(), total.max()
    return np.asarray((total - low) / (high - low))


def _cells(rng: Generator, rows: int, columns: int) -> Tile:
    """Smoothly interpolated random values on a wrapping lattice."""
    lattice = rng.random((rows, columns))
    for axis, count in ((0, rows), (1, columns)):
        at = np.arange(SIDE) * count / SIDE
        index = at.astype(int)
        part = at - index
        part = part * part * (3 - 2 * part)
        shape = (-1, 1) if axis == 0 else (1, -1)
        here = np.take(lattice, index % count, axis)
        after = np.take(lattice, (index + 1) % count, axis)
        lattice = here + part.reshape(shape) * (after - here)
    return lattice


_ROW, _COLUMN = np.mgrid[0:SIDE, 0:SIDE] / SIDE


def _flat(rng: Generator) -> Tile:
    return 0.5 + 0.25 * (noise(rng, 3, 3, 3) - 0.5)


def _plaster(rng: Generator) -> Tile:
    return 0.5 + 0.5 * (noise(rng, 6, 6, 6, 0.8) - 0.5)


def _grid(rows: int, columns: int, shift: float, gap: float) -> tuple[Tile, Tile, Tile]:
    """Row number, column number and "is joint" of a bond with `shift` between rows."""
    r = np.floor(_ROW * rows)
    c = (_COLUMN * columns + shift * r) % columns
    inner_r, inner_c = _ROW * rows % 1, c % 1
    joint = (inner_r < gap * rows) | (inner_c < gap * columns)
    return r.astype(int), np.floor(c).astype(int), joint.astype(float)


def _planks(rng: Generator, rows: int = 6) -> Tile:
    r = np.floor(_ROW * rows).astype(int)
    shift = rng.random(rows)[r]
    part = (_COLUMN * 1.5 + shift) % 1.5
    tone = rng.random((rows, 2))[r, (part > 0.75).astype(int)]
    joint = (_ROW * rows % 1 < 0.035) | (np.abs(part - 0.75) < 0.006) | (part < 0.006)
    grain = noise(rng, 64, 2, 3)
    return np.where(joint, 0.02, 0.3 + 0.35 * tone + 0.35 * (grain - 0.3))


def _parquet(rng: Generator) -> Tile:
    r, c = np.floor(_ROW * 4).astype(int), np.floor(_COLUMN * 4).astype(int)
    turned = (r + c) % 2 == 0
    strip = np.where(turned, _ROW * 16, _COLUMN * 16)
    tone = rng.random((16, 4, 4))[np.floor(strip).astype(int) % 16, r, c]
    grain = np.where(turned, noise(rng, 64, 4, 3), noise(rng, 4, 64, 3))
    edge = (strip % 1 < 0.08) | (_ROW * 4 % 1 < 0.02) | (_COLUMN * 4 % 1 < 0.02)
    return np.where(edge, 0.1, 0.3 + 0.3 * tone + 0.3 * (grain - 0.3))


def _tiles(rng: Generator, rows: int = 4, columns: int = 4, shift: float = 0.0) -> Tile:
    r, c, joint = _grid(rows, columns, shift, 0.012)
    tone = rng.random((rows, columns))[r, c]
    face = 0.55 + 0.18 * (tone - 0.5) + 0.2 * (noise(rng, 8, 8) - 0.5)
    return np.where(joint > 0, 0.05, face)


def _checker(rng: Generator) -> Tile:
    r, c, joint = _grid(4, 4, 0.0, 0.008)
    face = np.where((r + c) % 2 == 0, 0.25, 0.85) + 0.12 * (noise(rng, 8, 8) - 0.5)
    return np.where(joint > 0, 0.5, face)


def _brick(rng: Generator) -> Tile:
    r, c, joint = _grid(8, 4, 0.5, 0.014)
    tone = rng.random((8, 4))[r, c]
    return np.where(joint > 0, 0.95, 0.1 + 0.5 * tone + 0.25 * noise(rng, 32, 32, 3))


def _carpet(rng: Generator) -> Tile:
    return 0.35 + 0.4 * rng.random((SIDE, SIDE)) + 0.3 * (noise(rng, 4, 4, 3) - 0.5)


def _rug(rng: Generator) -> Tile:
    """Borders and medallions, for a whole rug."""
    x, y = np.abs(_COLUMN - 0.5), np.abs(_ROW - 0.5)
    edge = np.maximum(x, y)
    field_ = 0.5 + 0.5 * np.cos(40 * (x + y)) * np.cos(24 * (x - y))
    border = 0.5 + 0.5 * np.sign(np.cos(90 * x) * np.cos(90 * y))
    tile = np.where(edge < 0.34, 0.25 + 0.5 * np.round(field_ * 3) / 3, 0.1)
    tile = np.where((edge > 0.36) & (edge < 0.45), 0.55 + 0.4 * border, tile)
    return tile + 0.12 * (rng.random((SIDE, SIDE)) - 0.5)


def _stripes(rng: Generator) -> Tile:
    wave = np.sin(2 * np.pi * 8 * _COLUMN) + 0.5 * np.sin(2 * np.pi * 16 * _COLUMN + 1)
    tile: Tile = 0.5 + 0.3 * np.clip(4 * wave, -1, 1) + 0.1 * (noise(rng, 8, 8) - 0.5)
    return tile


def _damask(rng: Generator) -> Tile:
    x, y = 2 * np.pi * 4 * _COLUMN, 2 * np.pi * 3 * _ROW
    bloom = np.cos(x) * np.cos(y) + 0.6 * np.cos(2 * x + np.sin(y)) * np.cos(2 * y)
    tile: Tile = 0.5 + 0.3 * np.clip(6 * (bloom - 0.3), -1, 1) + 0.08 * (noise(rng, 8, 8) - 0.5)
    return tile


def _diamonds(rng: Generator) -> Tile:
    a, b = (_COLUMN + _ROW) * 6 % 1, (_COLUMN - _ROW) * 6 % 1
    line = np.minimum(np.abs(a - 0.5), np.abs(b - 0.5)) < 0.07
    return np.where(line, 0.85, 0.35) + 0.1 * (noise(rng, 8, 8) - 0.5)


def _weave(rng: Generator) -> Tile:
    thread = np.sin(2 * np.pi * 48 * _COLUMN) * np.sin(2 * np.pi * 48 * _ROW)
    tile: Tile = 0.5 + 0.15 * thread + 0.35 * (noise(rng, 8, 8, 5, 0.8) - 0.5)
    return tile


def _plaid(rng: Generator) -> Tile:
    def bands(at: Tile) -> Tile:
        return np.where(at * 4 % 1 < 0.45, 0.4, 0.0) + np.where(
            np.abs(at * 4 % 1 - 0.7) < 0.05, 0.3, 0
        )

    return 0.1 + bands(_COLUMN) + bands(_ROW) + 0.1 * (rng.random((SIDE, SIDE)) - 0.5)


def _floral(rng: Generator) -> Tile:
    tile = 0.3 + 0.1 * (noise(rng, 8, 8) - 0.5)
    for _ in range(40):
        x, y, size = rng.random(), rng.random(), rng.uniform(0.02, 0.05)
        dx, dy = (_COLUMN - x + 0.5) % 1 - 0.5, (_ROW - y + 0.5) % 1 - 0.5
        petals = 1 + 0.4 * np.cos(5 * np.arctan2(dy, dx) + x * 6)
        away = np.hypot(dx, dy) / petals
        tile = np.where(away < size, 0.65 + 0.3 * y, tile)
        tile = np.where(away < size / 4, 0.05, tile)
    return tile


def _grain(rng: Generator) -> Tile:
    rings = noise(rng, 3, 24, 4)
    return 0.35 + 0.3 * np.sin(18 * rings) * 0.5 + 0.4 * (noise(rng, 2, 96, 2) - 0.4)


def _marble(rng: Generator) -> Tile:
    veins = np.abs(noise(rng, 3, 3, 6, 0.6) - 0.5) * 2
    return np.asarray(1 - 0.8 * np.exp(-14 * veins) - 0.2 * noise(rng, 4, 4), np.float64)


def _dots(rng: Generator) -> Tile:
    x, y = 8 * _COLUMN, 4 * _ROW
    wave = (
        np.cos(2 * np.pi * y) * 0.5 + np.cos(np.pi * (x + y)) * 0.5 + np.cos(np.pi * (x - y)) * 0.5
    )
    return np.asarray(
        0.45 + 0.4 * np.clip(3 * wave, -1, 1) + 0.1 * (noise(rng, 8, 8) - 0.5), np.float64
    )


def _spines(rng: Generator) -> Tile:
    """The backs of a row of books."""
    ends = np.sort(rng.random(34))
    book = np.searchsorted(ends, _COLUMN)
    tone = rng.random(35)[book]
    height = rng.uniform(0.8, 1.0, 35)[book]
    band = np.abs(_ROW - rng.uniform(0.2, 0.8, 35)[book]) < 0.05
    tile = np.where(band, 1 - tone, tone)
    gap = np.abs(_COLUMN[..., None] - ends).min(-1) < 0.003
    return np.where(gap | (height < _ROW), 0.0, tile)


def _picture(rng: Generator) -> Tile:
    """Something framed: a landscape, an abstract, a still life of blobs."""
    kind = rng.integers(3)
    if kind == 0:
        tile = 0.95 - 0.35 * (1 - _ROW)
        for level, tone in ((0.6, 0.6), (0.42, 0.4), (0.25, 0.15)):
            ridge = level + 0.25 * (noise(rng, 1, 3, 5)[0] - 0.5)
            tile = np.where(ridge > _ROW, tone + 0.15 * noise(rng, 8, 8), tile)
        sun = np.hypot(_COLUMN - rng.uniform(0.2, 0.8), _ROW - 0.8) < 0.07
        return np.where(sun, 1.0, tile)
    if kind == 1:
        tile = 0.5 + 0.4 * (noise(rng, 2, 2, 4) - 0.5)
        for _ in range(9):
            x, y, w, h = rng.random(4) * [1, 1, 0.5, 0.5]
            tile = np.where(
                (np.abs(_COLUMN - x) < w / 2) & (np.abs(_ROW - y) < h / 2), rng.random(), tile
            )
        return np.asarray(tile, np.float64)
    tile = 0.2 + 0.25 * _ROW + 0.1 * noise(rng, 4, 4)
    for _ in range(12):
        x, y, size = rng.random(), rng.normal(0.45, 0.12), rng.uniform(0.04, 0.14)
        away = np.hypot(_COLUMN - x, _ROW - y) / size
        tile = np.where(away < 1, rng.random() * (1.1 - 0.5 * away), tile)
    return np.asarray(tile, np.float64)


def _outdoors(rng: Generator) -> Tile:
    """Sky, trees, a lawn: what a window shows; light is high."""
    sky = 0.82 + 0.18 * noise(rng, 2, 2) * _ROW
    trees = 0.45 + 0.22 * (noise(rng, 1, 5, 6, 0.7)[3] - 0.5)
    leaves = 0.25 + 0.3 * noise(rng, 16, 16, 4, 0.8)
    tile = np.where(trees > _ROW, leaves, sky)
    return np.where(_ROW < 0.25, 0.42 + 0.15 * noise(rng, 16, 4), tile)


def _door(rng: Generator) -> Tile:
    """Four sunk panels."""
    tile = 0.6 + 0.06 * (noise(rng, 2, 64, 3) - 0.5)
    for x0, x1 in ((0.12, 0.46), (0.54, 0.88)):
        for y0, y1 in ((0.08, 0.42), (0.52, 0.93)):
            inside = (x0 < _COLUMN) & (x1 > _COLUMN) & (y0 < _ROW) & (y1 > _ROW)
            edge = np.minimum(
                np.minimum(_COLUMN - x0, x1 - _COLUMN) * 2.2, np.minimum(_ROW - y0, y1 - _ROW)
            )
            rim = inside & (edge < 0.02)
            lit = np.where((_ROW - y0 < 0.02) | (x1 - _COLUMN < 0.012), 0.85, 0.25)
            tile = np.where(rim, lit, tile)
    return tile


_MAKERS: dict[str, Callable[[Generator], Tile]] = {
    "flat": _flat,
    "plaster": _plaster,
    "planks": _planks,
    "narrow-planks": lambda rng: _planks(rng, 12),
    "parquet": _parquet,
    "tiles": _tiles,
    "bond-tiles": lambda rng: _tiles(rng, 8, 4, 0.5),
    "checker": _checker,
    "dots": _dots,
    "brick": _brick,
    "carpet": _carpet,
    "rug": _rug,
    "stripes": _stripes,
    "damask": _damask,
    "diamonds": _diamonds,
    "floral": _floral,
    "weave": _weave,
    "plaid": _plaid,
    "grain": _grain,
    "marble": _marble,
    "door": _door,
    **{f"spines-{i}": _spines for i in range(3)},
    **{f"picture-{i}": _picture for i in range(10)},
    **{f"outdoors-{i}": _outdoors for i in range(3)},
}
