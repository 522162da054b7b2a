"""Tables, desks, lamps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdpipe.datasets.render.furniture import OBJECTS, TABLE, Piece, Shop, clutter, legs
from kdpipe.datasets.render.storage import screen

if TYPE_CHECKING:
    from kdpipe.datasets.render.surfaces import Pose


def table(shop: Shop, size: tuple[float, float], height: float, things: int) -> Piece:
    """A top on four legs (or round, on one), with things on it."""
    wood, top_material = shop.pick(shop.style.woods + shop.style.lacquers), None
    if shop.chance(0.2):
        top_material = shop.style.stone
    top = wood if top_material is None else top_material
    width, depth = size
    is_round = abs(width - depth) < 0.25 and shop.chance(0.7)

    def build(at: Pose) -> None:
        half, out = width / 2, shop.out
        if is_round:
            radius = min(width, depth) / 2
            out.cylinder((0, depth / 2, 0), radius, (height - 0.035, height), top, TABLE, at=at)
            out.cylinder((0, depth / 2, 0), 0.05, (0.03, height - 0.035), wood, TABLE, at=at)
            out.cylinder((0, depth / 2, 0), radius * 0.5, (0, 0.03), wood, TABLE, at=at)
            room = (
                (-radius * 0.6, radius * 0.6),
                (depth / 2 - radius * 0.6, depth / 2 + radius * 0.6),
            )
        else:
            out.box((-half, half), (0, depth), (height - 0.04, height), top, TABLE, at=at)
            legs(
                shop,
                at,
                (-half + 0.03, half - 0.03),
                (0.03, depth - 0.03),
                (0, height - 0.04),
                0.06,
                wood,
                TABLE,
            )
            rail = (-half + 0.05, half - 0.05), (0.05, depth - 0.05), (height - 0.11, height - 0.04)
            out.box(*rail, wood, TABLE, at=at, faces=("east", "west", "north", "south"))
            room = (-half + 0.08, half - 0.08), (0.08, depth - 0.08)
        clutter(shop, at, *room, height, things)

    return Piece(width, depth, height, build)


def desk(shop: Shop) -> Piece:
    """A table with a monitor, papers and a lamp."""
    width, depth, height = shop.between(1.1, 1.7), shop.between(0.6, 0.8), shop.between(0.71, 0.77)
    base = table(shop, (width, depth), height, int(shop.rng.integers(2, 6)))

    def build(at: Pose) -> None:
        base.build(at)
        if shop.chance(0.75):
            screen(
                shop,
                at,
                (shop.between(-0.15, 0.15), 0.22),
                height,
                shop.between(0.5, 0.75),
                OBJECTS,
            )
            shop.out.box(
                (-0.22, 0.22),
                (0.42, 0.56),
                (height, height + 0.02),
                shop.style.dark,
                OBJECTS,
                at=at,
            )
        if shop.chance(0.6):
            table_lamp(shop, at, (width / 2 - 0.16, 0.2), height)

    return Piece(width, depth, height + 0.4, build)


def table_lamp(shop: Shop, at: Pose, centre: tuple[float, float], z: float) -> None:
    """A foot and a shade that is lit."""
    out, axis, radius = shop.out, (*centre, 0.0), shop.between(0.09, 0.14)
    out.cylinder(axis, 0.06, (z, z + 0.02), shop.pick(shop.style.pottery), OBJECTS, at=at)
    out.ellipsoid(
        (*centre, z + 0.11), (0.06, 0.06, 0.1), shop.pick(shop.style.pottery), OBJECTS, at=at
    )
    out.cylinder(
        axis,
        radius,
        (z + 0.22, z + 0.4),
        shop.style.shade,
        OBJECTS,
        at=at,
        casts=False,
        top=shop.style.bulb,
    )
    shop.lamps.append((at((*centre, z + 0.3)), (1.0, 0.76, 0.48)))


def floor_lamp(shop: Shop) -> Piece:
    """A foot, a pole, a shade that is lit."""
    height = shop.between(1.4, 1.75)

    def build(at: Pose) -> None:
        out, axis = shop.out, (0.0, 0.2, 0.0)
        out.cylinder(axis, 0.14, (0, 0.025), shop.style.metal, OBJECTS, at=at)
        out.cylinder(axis, 0.014, (0.025, height), shop.style.metal, OBJECTS, at=at)
        radius = shop.between(0.15, 0.22)
        out.cylinder(
            axis,
            radius,
            (height - 0.3, height),
            shop.style.shade,
            OBJECTS,
            at=at,
            casts=False,
            top=shop.style.bulb,
        )
        shop.lamps.append((at((0.0, 0.2, height - 0.15)), (1.0, 0.78, 0.5)))

    return Piece(0.4, 0.4, height, build)
