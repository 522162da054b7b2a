"""Draws a furnished room from a stream of random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kdpipe.datasets.render import layouts, tables, things, walls
from kdpipe.datasets.render.furniture import OBJECTS, Shop
from kdpipe.datasets.render.plan import Plan, Wall
from kdpipe.datasets.render.scene import Light, MaterialBook, Scene, Sun, linear
from kdpipe.datasets.render.style import draw
from kdpipe.datasets.render.surfaces import Array, Builder, pose

if TYPE_CHECKING:
    from numpy.random import Generator


def make_scene(rng: Generator) -> Scene:
    """Draws a furnished room."""
    kind = str(rng.choice(list(layouts.KINDS)))
    size = (
        float(rng.uniform(2.5, 5.8)),
        float(rng.uniform(3.0, 7.8)),
        float(rng.uniform(2.35, 3.0)),
    )
    daylight = float(rng.uniform(1.5, 5.0)) if rng.random() < 0.85 else 0.05
    book, builder = MaterialBook(), Builder()
    shop = Shop(rng, builder, draw(rng, book, daylight))
    width, depth, _height = size
    sides = [
        Wall(pose(0, 0), width),
        Wall(pose(width, depth, 0, np.pi), width),
        Wall(pose(0, depth, 0, -np.pi / 2), depth),
        Wall(pose(width, 0, 0, np.pi / 2), depth),
    ]
    plan = Plan(shop, size, sides)
    walls.shell(plan)
    walls.door(plan)
    for _ in range(int(rng.choice((1, 1, 2, 2, 3)))):
        walls.window(plan, curtains=bool(rng.random() < 0.6))
    layouts.KINDS[kind](plan)
    for _ in range(int(rng.integers(1, 4))):
        plan.anywhere((things.ball, things.box_pile, things.box_pile)[int(rng.integers(3))](shop))
    if rng.random() < 0.5:
        plan.along_wall(things.plant(shop))
    if rng.random() < 0.35:
        plan.along_wall(tables.floor_lamp(shop))
    walls.pictures(plan)
    lights, sun = _lights(plan, daylight)
    warm = 0.55 + 0.45 * (daylight > 1)
    return Scene(
        size,
        builder.quads(),
        builder.rounds(),
        book.materials(),
        lights,
        sun,
        tuple(plan.openings),
        np.array([0.2, 0.19, 0.175]) * warm * rng.uniform(0.8, 1.4),
        np.array(plan.footprints).reshape(-1, 4),
        np.array(plan.obstacles).reshape(-1, 6),
    )


def _lights(plan: Plan, daylight: float) -> tuple[tuple[Light, ...], Sun | None]:
    """The ceiling lamp, the two largest windows, lit lamps; sometimes the sun."""
    shop, (width, depth, height) = plan.shop, plan.size
    rng, out, style = shop.rng, shop.out, shop.style
    lights: list[Light] = []
    if shop.chance(0.7) or daylight < 1:
        x, y = width * shop.between(0.35, 0.65), depth * shop.between(0.35, 0.65)
        drop = shop.between(0.08, 0.6)
        at = pose(x, y)
        if drop > 0.25:
            out.cylinder(
                (0, 0, 0), 0.006, (height - drop, height), style.dark, OBJECTS, at=at, casts=False
            )
            out.ellipsoid((0, 0, height - drop), (0.17, 0.17, 0.13), style.shade, OBJECTS, at=at)
        else:
            out.cylinder(
                (0, 0, 0), 0.2, (height - 0.09, height), style.shade, OBJECTS, at=at, casts=False
            )
            drop = 0.15
        colour = linear((1.0, shop.between(0.86, 0.96), shop.between(0.68, 0.92)))
        power = colour * rng.uniform(1.4, 3.2)
        lights.append(Light(np.array([x, y, height - drop - 0.15]), power, softness=0.08))
    sky = linear((0.82, 0.91, 1.0))
    for opening in sorted(plan.openings, key=lambda o: -o.half[0] * o.half[1])[:2]:
        area = 4 * opening.half[0] * opening.half[1]
        behind = opening.centre - 0.1 * opening.inward
        power = sky * (daylight * area * 0.7)
        lights.append(Light(behind, power, opening.inward, 0.4, daylight > 1))
    for position, shade in shop.lamps[:2]:
        lights.append(
            Light(position, linear(shade) * rng.uniform(0.25, 0.6), softness=0.03, casts=False)
        )
    sun = None
    if plan.openings and daylight > 2 and shop.chance(0.6):
        opening = plan.openings[int(rng.integers(len(plan.openings)))]
        side = np.array([-opening.inward[1], opening.inward[0], 0.0])
        up = float(rng.uniform(0.35, 0.8))
        towards: Array = -opening.inward + side * rng.uniform(-0.8, 0.8) + np.array([0, 0, up])
        towards /= np.sqrt((towards**2).sum())
        sun = Sun(towards, linear((1.0, 0.93, 0.8)) * daylight * rng.uniform(0.7, 1.2))
    return tuple(lights), sun
