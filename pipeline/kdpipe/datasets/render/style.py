"""The materials of one room: walls, floor, woods, fabrics, drawn to go together."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

    from kdpipe.datasets.render.scene import Colour, MaterialBook

_WOODS: tuple[tuple[Colour, Colour], ...] = (
    ((0.16, 0.09, 0.05), (0.36, 0.22, 0.13)),
    ((0.38, 0.23, 0.12), (0.66, 0.44, 0.25)),
    ((0.55, 0.38, 0.22), (0.83, 0.65, 0.43)),
    ((0.72, 0.58, 0.41), (0.92, 0.81, 0.64)),
    ((0.30, 0.12, 0.07), (0.56, 0.27, 0.16)),
    ((0.34, 0.31, 0.28), (0.60, 0.56, 0.51)),
)
_WALLPAPERS = ("stripes", "damask", "diamonds", "floral", "dots")
_FLOORS = (
    "planks",
    "narrow-planks",
    "parquet",
    "tiles",
    "bond-tiles",
    "checker",
    "carpet",
)
_FABRICS = ("weave", "weave", "plaid", "stripes", "floral", "carpet")


def tone(rng: Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """A colour as people choose it for a room: warm or blue more often than green or purple."""
    hue = float(rng.choice((rng.uniform(0.0, 0.15), rng.uniform(0.5, 0.68), rng.random())))
    return colorsys.hsv_to_rgb(hue, rng.uniform(*saturation), rng.uniform(*value))


def shades(colour: Colour, low: float, high: float) -> tuple[Colour, Colour]:
    """A darker and a lighter version."""
    dark, light = (np.clip(np.array(colour) * k, 0, 1).tolist() for k in (low, high))
    return (dark[0], dark[1], dark[2]), (light[0], light[1], light[2])


@dataclass(frozen=True, slots=True)
class Style:
    """Materials by what they are used for; tuples are there to choose from."""

    walls: tuple[int, int, int, int]
    """South, north, west, east."""
    floor: int
    ceiling: int
    trim: int
    """Skirting, frames, sills, doors' edges."""
    door: int
    woods: tuple[int, ...]
    lacquers: tuple[int, ...]
    """Painted furniture."""
    fabrics: tuple[int, ...]
    linen: tuple[int, ...]
    curtain: int
    rug: int
    metal: int
    dark: int
    """Screens and appliances."""
    steel: int
    screen: int
    glass: int
    shade: int
    """Lamp shades that are lit."""
    bulb: int
    paper: int
    leaf: tuple[int, ...]
    pottery: tuple[int, ...]
    colours: tuple[int, ...]
    """Toys, boxes, mugs, books."""
    spines: tuple[int, ...]
    pictures: tuple[int, ...]
    stone: int


def draw(rng: Generator, book: MaterialBook, daylight: float) -> Style:
    """Draws the materials of a room.

    Args:
        rng: decides all.
        book: takes them.
        daylight: brightness of what is seen through the windows.
    """
    plain = shades(tone(rng, (0.02, 0.2), (0.62, 0.93)), 0.93, 1.03)
    feature = shades(tone(rng, (0.08, 0.45), (0.35, 0.85)), 0.8, 1.1)
    wall = book.add("plaster", plain, metres=2.5)
    kind = rng.random()
    if kind < 0.45:
        papered = book.add(str(rng.choice(_WALLPAPERS)), feature, metres=rng.uniform(1.0, 2.2))
    elif kind < 0.6:
        papered = book.add(
            "brick", [(0.35, 0.16, 0.1), (0.62, 0.32, 0.22), (0.75, 0.72, 0.68)], metres=1.0
        )
    else:
        papered = book.add("plaster", feature, metres=2.5)
    walls = [papered if rng.random() < 0.3 else wall for _ in range(4)]
    if rng.random() < 0.25:
        walls = [papered] * 4
    woods = [
        book.add(
            "grain",
            _WOODS[int(rng.integers(len(_WOODS)))],
            metres=rng.uniform(0.7, 1.4),
            gloss=0.04,
        )
        for _ in range(3)
    ]
    white = book.add("flat", shades((0.9, 0.89, 0.86), 0.96, 1.05), metres=1.5, gloss=0.05)
    return Style(
        walls=(walls[0], walls[1], walls[2], walls[3]),
        floor=_floor(rng, book),
        ceiling=book.add("plaster", shades((0.93, 0.92, 0.9), 0.97, 1.04), metres=3.0),
        trim=white if rng.random() < 0.7 else woods[0],
        door=book.add("door", _door(rng), metres=0.0, gloss=0.03),
        woods=tuple(woods),
        lacquers=(
            white,
            book.add("flat", shades(tone(rng, (0.05, 0.45), (0.3, 0.85)), 0.95, 1.05), gloss=0.05),
            book.add("flat", shades(tone(rng, (0.0, 0.2), (0.12, 0.4)), 0.9, 1.1), gloss=0.06),
        ),
        fabrics=tuple(_fabric(rng, book) for _ in range(4)),
        linen=(
            book.add("weave", shades(tone(rng, (0.0, 0.15), (0.8, 0.97)), 0.92, 1.04), metres=0.8),
            book.add("weave", shades(tone(rng, (0.1, 0.5), (0.5, 0.9)), 0.88, 1.06), metres=0.6),
        ),
        curtain=book.add(
            str(rng.choice(("weave", "stripes", "floral"))),
            shades(tone(rng, (0.05, 0.6), (0.45, 0.92)), 0.82, 1.08),
            metres=rng.uniform(0.5, 1.2),
            emission=0.12 * daylight,
        ),
        rug=_rug(rng, book),
        metal=book.add("flat", shades((0.55, 0.56, 0.58), 0.9, 1.1), gloss=0.25),
        dark=book.add("flat", shades((0.07, 0.07, 0.08), 0.8, 1.2), gloss=0.15),
        steel=book.add("flat", shades((0.72, 0.73, 0.74), 0.95, 1.05), gloss=0.2),
        screen=book.add(
            f"picture-{rng.integers(10)}",
            [(0.05, 0.08, 0.2), (0.1, 0.45, 0.75), (0.9, 0.9, 0.95)],
            metres=0.0,
            emission=0.9 if rng.random() < 0.5 else 0.02,
            gloss=0.1,
        ),
        glass=book.add(
            f"outdoors-{rng.integers(3)}",
            [(0.08, 0.13, 0.05), (0.3, 0.42, 0.2), (0.62, 0.75, 0.9), (0.95, 0.97, 1.0)],
            metres=0.0,
            emission=daylight,
        ),
        shade=book.add("weave", shades((0.98, 0.9, 0.72), 0.95, 1.03), metres=0.4, emission=2.0),
        bulb=book.add("flat", [(1, 0.97, 0.9), (1, 0.97, 0.9)], emission=5.0),
        paper=book.add("flat", shades((0.93, 0.92, 0.88), 0.96, 1.04)),
        leaf=tuple(
            book.add("floral", shades((0.2 + 0.1 * i, 0.42 + 0.1 * i, 0.16), 0.5, 1.1), metres=0.25)
            for i in range(2)
        ),
        pottery=tuple(
            book.add("flat", shades(tone(rng, (0.05, 0.6), (0.3, 0.92)), 0.9, 1.1), gloss=0.15)
            for _ in range(2)
        ),
        colours=tuple(
            book.add("flat", shades(tone(rng, (0.15, 0.75), (0.2, 0.85)), 0.9, 1.1), gloss=0.04)
            for _ in range(6)
        ),
        spines=tuple(_spines(rng, book, i) for i in range(3)),
        pictures=tuple(_picture(rng, book) for _ in range(4)),
        stone=book.add(
            str(rng.choice(("marble", "plaster"))),
            shades(tone(rng, (0.0, 0.15), (0.25, 0.9)), 0.6, 1.1),
            metres=0.9,
            gloss=0.12,
        ),
    )


def _floor(rng: Generator, book: MaterialBook) -> int:
    tile = str(rng.choice(_FLOORS))
    if tile in ("planks", "narrow-planks", "parquet"):
        dark, light = _WOODS[int(rng.integers(len(_WOODS)))]
        return book.add(tile, [shades(dark, 0.5, 1)[0], dark, light], metres=1.6, gloss=0.08)
    if tile == "carpet":
        return book.add(tile, shades(tone(rng, (0.05, 0.5), (0.3, 0.8)), 0.75, 1.1), metres=0.8)
    stone = tone(rng, (0.02, 0.25), (0.4, 0.9))
    grout = shades(stone, 0.5, 1.1)
    return book.add(tile, [*grout], metres=rng.choice((1.2, 1.6, 2.4)), gloss=0.15)


def _door(rng: Generator) -> tuple[Colour, Colour]:
    if rng.random() < 0.5:
        return shades((0.88, 0.87, 0.84), 0.7, 1.12)
    dark, light = _WOODS[int(rng.integers(len(_WOODS)))]
    return shades(dark, 0.6, 1)[0], light


def _fabric(rng: Generator, book: MaterialBook) -> int:
    colour = tone(rng, (0.05, 0.6), (0.2, 0.8))
    tile = str(rng.choice(_FABRICS))
    return book.add(tile, shades(colour, 0.7, 1.15), metres=rng.uniform(0.4, 0.9))


def _rug(rng: Generator, book: MaterialBook) -> int:
    base, second = tone(rng, (0.2, 0.7), (0.2, 0.55)), tone(rng, (0.1, 0.5), (0.6, 0.95))
    return book.add(
        str(rng.choice(("rug", "rug", "stripes", "diamonds", "dots"))),
        [shades(base, 0.6, 1)[0], base, second],
        metres=0.0,
    )


def _spines(rng: Generator, book: MaterialBook, number: int) -> int:
    colours = [tone(rng, (0.05, 0.7), (0.12, 0.8)) for _ in range(9)]
    return book.add(f"spines-{number}", [(0.03, 0.03, 0.03), *colours], metres=0.85)


def _picture(rng: Generator, book: MaterialBook) -> int:
    colours = sorted((tone(rng, (0.1, 0.8), (0.1, 1.0)) for _ in range(5)), key=sum)
    return book.add(f"picture-{rng.integers(10)}", colours, metres=0.0)
