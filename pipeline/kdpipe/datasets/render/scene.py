"""A scene as the renderer sees it: surfaces, materials, lights, the room's shell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from kdpipe.datasets.render.textures import bank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.datasets.render.surfaces import Array, Quads, Rounds

Colour: TypeAlias = tuple[float, float, float]
"""sRGB, 0..1."""


def linear(colour: Sequence[float] | Array) -> Array:
    """sRGB values 0..1 to light (IEC 61966-2-1)."""
    value = np.asarray(colour, np.float64)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


@dataclass(frozen=True, slots=True)
class Materials:
    """M materials: a tile, the palette that colours it, and how it answers to light."""

    tile: NDArray[np.int32]
    metres: NDArray[np.float32]
    """Side of a tile [m]; 0: stretched over the whole rectangle."""
    palette: NDArray[np.float32]
    """(3, M * 256) light, 0..1: albedo of each texel value."""
    emission: NDArray[np.float32]
    """Times albedo: light sent out whatever falls on it."""
    gloss: NDArray[np.float32]
    """Strength of the highlights, 0..1."""


@dataclass(slots=True)
class MaterialBook:
    """Collects materials."""

    _entries: list[tuple[int, float, Array, float, float]] = field(default_factory=list)

    def add(
        self,
        tile: str,
        colours: Sequence[Colour],
        *,
        metres: float = 2.0,
        emission: float = 0.0,
        gloss: float = 0.0,
    ) -> int:
        """Adds a material.

        Args:
            tile: a name of textures.py.
            colours: of texel values from 0 to 255, evenly spread, blended between.
            metres: side of a tile; 0: stretched over each rectangle.
            emission: see `Materials`.
            gloss: see `Materials`.

        Returns:
            Its number.
        """
        at = np.linspace(0, 1, len(colours))
        ramp = np.linspace(0, 1, 256)
        palette = np.stack([np.interp(ramp, at, [c[i] for c in colours]) for i in range(3)])
        number = bank().number[tile]
        self._entries.append((number, metres, linear(palette), emission, gloss))
        return len(self._entries) - 1

    def materials(self) -> Materials:
        """All so far."""
        tile, metres, palette, emission, gloss = zip(*self._entries, strict=True)
        return Materials(
            np.array(tile, np.int32),
            np.array(metres, np.float32),
            np.concatenate(palette, 1).astype(np.float32),
            np.array(emission, np.float32),
            np.array(gloss, np.float32),
        )


@dataclass(frozen=True, slots=True)
class Light:
    """A small lamp, or a window as seen from inside."""

    position: Array
    """(3,) [m]"""
    power: Array
    """(3,) light at 1 m, straight ahead."""
    facing: Array | None = None
    """(3,) unit vector: sends light by the cosine to it; None: evenly all round."""
    softness: float = 0.05
    """Added to the squared distance [m^2]: the larger the source, the more."""
    casts: bool = True
    """Whether it throws shadows; costs a shadow map."""


@dataclass(frozen=True, slots=True)
class Sun:
    """Daylight that comes straight through the windows."""

    towards: Array
    """(3,) unit vector to the sun."""
    power: Array
    """(3,) light on a surface that faces it."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The glass of a window: what the sun comes through."""

    centre: Array
    """(3,) [m]"""
    inward: Array
    """(3,) unit vector into the room."""
    half: tuple[float, float]
    """Half width and half height [m]."""
    panes: tuple[int, int]
    """Columns and rows of panes, between which bars are."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is needed to render views of one room."""

    size: tuple[float, float, float]
    """Of the room [m]."""
    quads: Quads
    rounds: Rounds
    materials: Materials
    lights: tuple[Light, ...]
    sun: Sun | None
    openings: tuple[Opening, ...]
    ambient: Array
    """(3,) light that comes from everywhere."""
    footprints: Array
    """(K, 4) x0, x1, y0, y1 of what stands on the floor [m]."""
    obstacles: Array
    """(K, 6) x0, x1, y0, y1, z0, z1: where no camera can be [m]."""
