"""The shell of a room and what is fixed to it: doors, windows, curtains, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.datasets.render.furniture import (
    CEILING,
    FLOOR,
    FURNITURE,
    OBJECTS,
    PICTURE,
    SIDES,
    WALL,
    WINDOW,
    Piece,
    clutter,
)
from kdpipe.datasets.render.scene import Opening
from kdpipe.datasets.render.surfaces import ALL_BUT_BOTTOM, Pose, pose

if TYPE_CHECKING:
    from kdpipe.datasets.render.furniture import Shop
    from kdpipe.datasets.render.plan import Plan


def shell(plan: Plan) -> None:
    """Floor, ceiling, walls, skirting, perhaps a cornice, a beam or a pillar."""
    shop, (width, depth, height) = plan.shop, plan.size
    out, style = shop.out, shop.style
    floor, ceiling = style.floor, style.ceiling
    put = partial(out.quad, casts=False, is_shell=True)
    for wall, material in zip(plan.walls, style.walls, strict=True):
        left, up = (-wall.length, 0.0, 0.0), (0.0, 0.0, height)
        put((wall.length, 0, 0), left, up, material, WALL, at=wall.at)
    if shop.chance(0.5):
        put((0, 0, 0), (width, 0, 0), (0, depth, 0), floor, FLOOR)
    else:  # its texture turned by 90 degrees
        put((width, 0, 0), (0, depth, 0), (-width, 0, 0), floor, FLOOR)
    over = (0.0, 0.0, height)
    put(over, (0, depth, 0), (width, 0, 0), ceiling, CEILING)
    _edges(plan)
    if shop.chance(0.2):
        _beams(plan)
    if shop.chance(0.3):
        _pillar(plan)


def _edges(plan: Plan) -> None:
    """Perhaps skirting, perhaps a cornice."""
    shop, height, trim = plan.shop, plan.size[2], plan.shop.style.trim
    if shop.chance(0.85):
        tall = shop.between(0.06, 0.14)
        for wall in plan.walls:
            shop.out.box(
                (0, wall.length),
                (0, 0.015),
                (0, tall),
                trim,
                WALL,
                at=wall.at,
                faces=("north", "top"),
                casts=False,
            )
    if shop.chance(0.4):
        tall = shop.between(0.05, 0.1)
        for wall in plan.walls:
            shop.out.box(
                (0, wall.length),
                (0, tall),
                (height - tall, height),
                trim,
                WALL,
                at=wall.at,
                faces=("north", "bottom"),
                casts=False,
            )


def _beams(plan: Plan) -> None:
    width, depth, height = plan.size
    for number in range(3):
        at = (number + 0.5) / 3 * depth
        plan.shop.out.box(
            (0, width),
            (at - 0.08, at + 0.08),
            (height - 0.16, height),
            plan.shop.style.woods[0],
            CEILING,
            faces=("north", "south", "bottom"),
            casts=False,
        )


def _pillar(plan: Plan) -> None:
    """In a corner; no furniture stands there."""
    shop, height = plan.shop, plan.size[2]
    wall = plan.walls[int(shop.rng.integers(4))]
    long, deep = shop.between(0.4, 1.1), shop.between(0.2, 0.45)
    x0 = 0.0 if shop.chance(0.5) else wall.length - long
    pillar = Piece(long, deep, height, lambda at: None)
    plan.claim(pillar, wall.at.then(pose(x0 + long / 2, 0.0)), gap=0.0)
    shop.out.box(
        (x0, x0 + long),
        (0, deep),
        (0, height),
        shop.style.walls[0],
        WALL,
        at=wall.at,
        faces=SIDES,
    )
    wall.taken.append((x0, x0 + long, 0.0, height))


def door(plan: Plan) -> None:
    shop = plan.shop
    wall = plan.walls[int(shop.rng.integers(4))]
    wide, tall = shop.between(0.78, 0.95), shop.between(1.98, 2.1)
    for _ in range(8):
        x = shop.between(0.2, wall.length - wide - 0.2)
        if wall.is_free((x - 0.1, x + wide + 0.1), (0.0, tall)):
            break
    else:
        return
    out, style = shop.out, shop.style
    wall.taken.append((x - 0.1, x + wide + 0.1, 0.0, tall + 0.1))
    for x0, x1, z0, z1 in (
        (x - 0.08, x, 0, tall + 0.08),
        (x + wide, x + wide + 0.08, 0, tall + 0.08),
        (x, x + wide, tall, tall + 0.08),
    ):
        out.box((x0, x1), (0, 0.035), (z0, z1), style.trim, WALL, at=wall.at, casts=False)
    out.box(
        (x, x + wide),
        (0, 0.018),
        (0, tall),
        style.door,
        WALL,
        at=wall.at,
        faces=("north",),
        casts=False,
    )
    knob = x + (0.07 if shop.chance(0.5) else wide - 0.07)
    out.ellipsoid((knob, 0.06, 1.02), (0.05, 0.022, 0.018), style.metal, WALL, at=wall.at)
    corner = wall.at.then(pose(x + wide / 2, 0.0))
    plan.claim(Piece(wide, 0.9, 0.0, lambda at: None), corner)
    if plan.obstacles:
        plan.footprints.pop()  # kept free of furniture below, but throws no shade
        free = plan.obstacles.pop()
        plan.obstacles.append((*free[:4], 0.0, 0.02))


def window(plan: Plan, *, curtains: bool) -> None:
    """Glass, frame, bars, sill, perhaps curtains and a radiator."""
    shop = plan.shop
    number = int(shop.rng.integers(4))
    wall, height = plan.walls[number], plan.size[2]
    wide, low = shop.between(0.8, 2.2), shop.between(0.75, 1.0)
    top = min(low + shop.between(1.0, 1.5), height - 0.2)
    margin = 0.35 if curtains else 0.1
    for _ in range(8):
        x = shop.between(margin, max(wall.length - wide - margin, margin + 0.01))
        if wall.is_free((x - margin, x + wide + margin), (low - 0.05, top + 0.15)):
            break
    else:
        return
    wall.taken.append((x - margin, x + wide + margin, low - 0.06, top + 0.16))
    out, style, at = shop.out, shop.style, wall.at
    out.box(
        (x, x + wide),
        (0, 0.012),
        (low, top),
        style.glass,
        WINDOW,
        at=at,
        faces=("north",),
        casts=False,
    )
    columns, rows = max(1, round(wide / shop.between(0.5, 0.9))), int(shop.rng.integers(1, 3))
    hole = _Hole(x, wide, low, top)
    _bars(shop, at, hole, columns, rows)
    _sill(shop, at, hole)
    if curtains:
        _curtains(shop, at, hole)
    elif low > 0.8 and shop.chance(0.6):
        _radiator(shop, at, hole)
        wall.taken.append((x + wide * 0.1, x + wide * 0.9, 0.1, 0.7))
    middle, inward = at((x + wide / 2, 0.0, (low + top) / 2)), np.rint(at.turn[:, 1])
    plan.openings.append(Opening(middle, inward, (wide / 2, (top - low) / 2), (columns, rows)))


@dataclass(frozen=True, slots=True)
class _Hole:
    """Where in its wall a window is [m]."""

    x: float
    wide: float
    low: float
    top: float


def _bars(shop: Shop, at: Pose, hole: _Hole, columns: int, rows: int) -> None:
    """Around the panes and between them."""
    bar = 0.05
    for k in range(columns + 1):
        at_x = hole.x + k * hole.wide / columns
        shop.out.box(
            (at_x - bar / 2, at_x + bar / 2),
            (0, 0.045),
            (hole.low, hole.top),
            shop.style.trim,
            WINDOW,
            at=at,
            faces=("east", "west", "north"),
            casts=False,
        )
    for k in range(rows + 1):
        at_z = hole.low + k * (hole.top - hole.low) / rows
        shop.out.box(
            (hole.x - bar / 2, hole.x + hole.wide + bar / 2),
            (0, 0.04),
            (at_z - bar / 2, at_z + bar / 2),
            shop.style.trim,
            WINDOW,
            at=at,
            faces=("top", "bottom", "north"),
            casts=False,
        )


def _sill(shop: Shop, at: Pose, hole: _Hole) -> None:
    """Perhaps with things on it."""
    x, end = hole.x, hole.x + hole.wide
    shop.out.box(
        (x - 0.08, end + 0.08),
        (0, 0.16),
        (hole.low - 0.055, hole.low - 0.02),
        shop.style.trim,
        WINDOW,
        at=at,
    )
    if shop.chance(0.3):
        count = int(shop.rng.integers(1, 4))
        clutter(shop, at, (x + 0.1, end - 0.1), (0.06, 0.1), hole.low - 0.02, count)


def _curtains(shop: Shop, at: Pose, hole: _Hole) -> None:
    """Two, drawn aside, on a rail."""
    floor = 0.04 if shop.chance(0.5) else hole.low - 0.1
    drawn = shop.between(0.05, 0.3) * hole.wide
    shop.out.cylinder(
        (0, 0, 0),
        0.014,
        (0, hole.wide + 0.6),
        shop.style.metal,
        WINDOW,
        at=at.then(_lying(hole.x - 0.3, 0.1, hole.top + 0.12)),
        casts=False,
    )
    for start in (hole.x - 0.28, hole.x + hole.wide - drawn):
        folds, end = 5, start + 0.28 + drawn
        step = (end - start) / folds
        for k in range(folds):
            deep = 0.1 if k % 2 else 0.07
            shop.out.cylinder(
                (start + (k + 0.5) * step, deep, 0),
                step * 0.62,
                (floor, hole.top + 0.1),
                shop.style.curtain,
                WINDOW,
                at=at,
                casts=False,
            )


def _radiator(shop: Shop, at: Pose, hole: _Hole) -> None:
    ribs = round(hole.wide * 0.8 / 0.09)
    for k in range(ribs):
        x0 = hole.x + hole.wide * 0.1 + k * 0.09
        shop.out.box(
            (x0, x0 + 0.07),
            (0.04, 0.12),
            (0.14, 0.68),
            shop.style.lacquers[0],
            FURNITURE,
            at=at,
            faces=ALL_BUT_BOTTOM,
        )


def _lying(x: float, y: float, z: float) -> Pose:
    """A pose whose z axis runs along the wall."""
    turn = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    return Pose(turn, np.array([x, y, z]))


def pictures(plan: Plan) -> None:
    """Framed pictures, a clock; bare walls get more."""
    shop = plan.shop
    for _ in range(int(shop.rng.integers(2, 8))):
        wall = plan.walls[int(shop.rng.integers(4))]
        wide, tall = shop.between(0.25, 1.1), shop.between(0.3, 0.8)
        x, z = shop.between(0.1, max(wall.length - wide - 0.1, 0.2)), shop.between(1.25, 1.6)
        if z + tall > plan.size[2] - 0.15 or not wall.is_free(
            (x - 0.05, x + wide + 0.05), (z, z + tall)
        ):
            continue
        wall.taken.append((x - 0.05, x + wide + 0.05, z, z + tall))
        if wide < 0.4 and shop.chance(0.4):
            _clock(shop, wall.at, (x + wide / 2, z + 0.2), wide / 2)
        else:
            _framed(shop, wall.at, x, z, wide, tall)


def _clock(shop: Shop, at: Pose, middle: tuple[float, float], radius: float) -> None:
    facing = Pose(
        np.array([[-1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]]),
        np.array([middle[0], 0.0, middle[1]]),
    )
    style = shop.style
    shop.out.cylinder(
        (0, 0, 0), radius, (0, 0.03), style.dark, OBJECTS, at=at.then(facing), top=style.paper
    )


def _framed(shop: Shop, at: Pose, x: float, z: float, wide: float, tall: float) -> None:
    """A frame, perhaps a mat, and the picture in it."""
    out, style = shop.out, shop.style
    frame = shop.pick((*style.woods, style.dark, style.lacquers[0], style.metal))
    edge = shop.between(0.02, 0.06)
    out.box((x, x + wide), (0.0, 0.03), (z, z + tall), frame, PICTURE, at=at)
    mat = edge + (0.06 if shop.chance(0.4) else 0.0)
    if mat > edge:
        out.box(
            (x + edge, x + wide - edge),
            (0, 0.0305),
            (z + edge, z + tall - edge),
            style.paper,
            PICTURE,
            at=at,
            faces=("north",),
            casts=False,
        )
    out.box(
        (x + mat, x + wide - mat),
        (0, 0.0312),
        (z + mat, z + tall - mat),
        shop.pick(style.pictures),
        PICTURE,
        at=at,
        faces=("north",),
        casts=False,
    )
