"""What all furniture is made with: classes, the shop, legs, and the small things on top.

Each piece is built in a frame of its own: its back at y = 0, its front towards +y; x runs along the
wall with the piece's middle at 0; z is up from the floor. Metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kdpipe.datasets.render.surfaces import ALL_BUT_BOTTOM, Array, Builder, Point, Pose, Span, pose

if TYPE_CHECKING:
    from numpy.random import Generator

    from kdpipe.datasets.render.scene import Colour
    from kdpipe.datasets.render.style import Style

BED, BOOKS, CEILING, CHAIR, FLOOR, FURNITURE, OBJECTS = 1, 2, 3, 4, 5, 6, 7
PICTURE, SOFA, TABLE, TV, WALL, WINDOW = 8, 9, 10, 11, 12, 13
"""The NYU-13 classes; 0 is unlabelled."""

SIDES = ("east", "west", "north", "south")
FRONT = ("north", "east", "west", "top")


@dataclass(slots=True)
class Shop:
    """What every piece needs: chance, where surfaces go, materials, and the lamps that are lit."""

    rng: Generator
    out: Builder
    style: Style
    lamps: list[tuple[Array, Colour]] = field(default_factory=list)
    """Position [m] and colour."""

    def pick(self, choices: tuple[int, ...]) -> int:
        """One of some materials."""
        return choices[int(self.rng.integers(len(choices)))]

    def between(self, low: float, high: float) -> float:
        """A random length [m]."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of furniture: its size, and what builds it at a pose."""

    width: float
    depth: float
    height: float
    build: Callable[[Pose], None]


def legs(
    shop: Shop, at: Pose, x: Span, y: Span, z: Span, side: float, wood: int, label: int
) -> None:
    """Four square legs in the corners of a rectangle."""
    for x0 in (x[0], x[1] - side):
        for y0 in (y[0], y[1] - side):
            faces = ("east", "west", "north", "south")
            shop.out.box((x0, x0 + side), (y0, y0 + side), z, wood, label, at=at, faces=faces)


def clutter(shop: Shop, at: Pose, x: Span, y: Span, z: float, count: int) -> None:
    """Some things on a horizontal surface."""
    for number in range(count):
        wide = (x[1] - x[0]) / max(count, 1)
        place = x[0] + (number + shop.between(0.2, 0.8)) * wide, shop.between(*y)
        thing(shop, at, place, z, 0.4)


def thing(shop: Shop, at: Pose, place: tuple[float, float], z: float, room: float) -> None:
    """One small thing: book pile, mug, vase, box, ball, bottle, at most `room` high [m]."""
    out, style = shop.out, shop.style
    kind = int(shop.rng.integers(6))
    here: Point = (place[0], place[1], z)
    turned = at.then(pose(*here, shop.between(-1.5, 1.5)))
    if kind == 0:
        _book_pile(shop, turned, room)
    elif kind == 1:
        out.cylinder(
            here, 0.042, (z, z + 0.1), shop.pick(style.pottery), OBJECTS, at=at, top=style.dark
        )
    elif kind == 2:
        _vase(shop, at, here, min(shop.between(0.16, 0.3), room))
    elif kind == 3:
        side, tall = shop.between(0.06, 0.14), min(shop.between(0.06, 0.22), room)
        out.box(
            (-side, side),
            (-0.07, 0.07),
            (0, tall),
            shop.pick(style.colours),
            OBJECTS,
            at=turned,
            faces=ALL_BUT_BOTTOM,
        )
    elif kind == 4:
        radius = min(shop.between(0.04, 0.1), room / 2)
        out.ellipsoid(
            (here[0], here[1], z + radius),
            (radius, radius, radius),
            shop.pick(style.colours),
            OBJECTS,
            at=at,
        )
    else:
        _bottle(shop, at, here, min(shop.between(0.2, 0.3), room))


def _book_pile(shop: Shop, at: Pose, room: float) -> None:
    top = 0.0
    for _ in range(int(shop.rng.integers(1, 4))):
        thick = shop.between(0.02, 0.045)
        if top + thick > room:
            break
        slid = at.then(pose(0, 0, top, shop.between(-0.3, 0.3)))
        shop.out.box(
            (-0.1, 0.1),
            (-0.075, 0.075),
            (0, thick),
            shop.pick(shop.style.colours),
            BOOKS,
            at=slid,
            faces=ALL_BUT_BOTTOM,
        )
        top += thick


def _vase(shop: Shop, at: Pose, here: Point, tall: float) -> None:
    out, pottery, (x, y, z) = shop.out, shop.style.pottery, here
    belly = (0.075, 0.075, tall * 0.4)
    out.ellipsoid((x, y, z + tall * 0.4), belly, shop.pick(pottery), OBJECTS, at=at)
    out.cylinder(here, 0.03, (z + tall * 0.6, z + tall), shop.pick(pottery), OBJECTS, at=at)


def _bottle(shop: Shop, at: Pose, here: Point, tall: float) -> None:
    out, colours, z = shop.out, shop.style.colours, here[2]
    out.cylinder(here, 0.035, (z, z + tall * 0.7), shop.pick(colours), OBJECTS, at=at)
    out.cylinder(here, 0.014, (z + tall * 0.7, z + tall), shop.pick(colours), OBJECTS, at=at)
