"""Furnishes a room: shell, windows, doors, pictures, furniture along walls and in the middle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from kdpipe.datasets.render import furniture as f
from kdpipe.datasets.render.furniture import Piece, Shop
from kdpipe.datasets.render.scene import Light, MaterialBook, Opening, Scene, Sun, linear
from kdpipe.datasets.render.style import draw
from kdpipe.datasets.render.surfaces import ALL_BUT_BOTTOM, Array, Builder, Pose, Span, pose

_SIDES = ("east", "west", "north", "south")


@dataclass(slots=True)
class _Wall:
    """A wall and what already hangs or stands on it: spans along it and in height [m]."""

    at: Pose
    """x along the wall from its end, y into the room."""
    length: float
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def is_free(self, x: Span, z: Span) -> bool:
        """Whether nothing overlaps these spans."""
        if x[0] < 0.05 or x[1] > self.length - 0.05:
            return False
        return not any(
            x[0] < x1 + 0.04 and x0 < x[1] + 0.04 and z[0] < z1 and z0 < z[1]
            for x0, x1, z0, z1 in self.taken
        )


@dataclass(slots=True)
class _Plan:
    """A room while it is furnished."""

    shop: Shop
    size: tuple[float, float, float]
    walls: list[_Wall]
    footprints: list[tuple[float, float, float, float]] = field(default_factory=list)
    obstacles: list[tuple[float, float, float, float, float, float]] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)

    def claim(self, piece: Piece, at: Pose, *, gap: float = 0.06, inset: float = 0.0) -> bool:
        """Takes the floor under a piece; False where it is taken or outside."""
        half = piece.width / 2
        corners = np.array([at((x, y, 0.0)) for x in (-half, half) for y in (0.0, piece.depth)])
        x0, y0 = corners[:, :2].min(0)
        x1, y1 = corners[:, :2].max(0)
        if x0 < inset - 0.01 or y0 < inset - 0.01:
            return False
        if x1 > self.size[0] - inset + 0.01 or y1 > self.size[1] - inset + 0.01:
            return False
        for a0, a1, b0, b1 in self.footprints:
            if x0 < a1 + gap and a0 < x1 + gap and y0 < b1 + gap and b0 < y1 + gap:
                return False
        self.footprints.append((x0, x1, y0, y1))
        self.obstacles.append((x0, x1, y0, y1, 0.0, piece.height))
        return True

    def along_wall(self, piece: Piece, wall: int | None = None) -> tuple[int, float] | None:
        """Builds a piece against a wall; its wall and place along it, None: no room."""
        rng = self.shop.rng
        for _ in range(10):
            number = int(rng.integers(4)) if wall is None else wall
            side = self.walls[number]
            slack = side.length - piece.width - 0.12
            if slack <= 0:
                continue
            x = 0.06 + piece.width / 2 + slack * float(rng.random())
            if self.place(piece, number, x):
                return number, x
        return None

    def place(self, piece: Piece, wall: int, x: float) -> bool:
        """Builds a piece at a place along a wall, if it is free."""
        side = self.walls[wall]
        span = x - piece.width / 2, x + piece.width / 2
        at = side.at.then(pose(x, 0.025))
        if not side.is_free(span, (0.0, piece.height)) or not self.claim(piece, at):
            return False
        side.taken.append((*span, 0.0, piece.height))
        piece.build(at)
        return True

    def anywhere(self, piece: Piece, yaw: float | None = None, inset: float = 0.3) -> Pose | None:
        """Builds a piece away from the walls, turned by `yaw` (None: anyhow)."""
        rng = self.shop.rng
        for _ in range(12):
            turn = float(rng.uniform(0, 2 * np.pi)) if yaw is None else yaw
            x, y = rng.uniform(0.5, self.size[0] - 0.5), rng.uniform(0.5, self.size[1] - 0.5)
            at = pose(float(x), float(y), 0.0, turn)
            if self.claim(piece, at, inset=inset):
                piece.build(at)
                return at
        return None


def make_scene(rng: Generator) -> Scene:
    """Draws a furnished room."""
    kind = str(rng.choice(list(_KINDS)))
    size = (
        float(rng.uniform(3.0, 5.6)),
        float(rng.uniform(3.4, 6.8)),
        float(rng.uniform(2.35, 3.0)),
    )
    daylight = float(rng.uniform(1.5, 5.0)) if rng.random() < 0.85 else 0.05
    book, builder = MaterialBook(), Builder()
    shop = Shop(rng, builder, draw(rng, book, daylight))
    width, depth, height = size
    walls = [
        _Wall(pose(0, 0), width),
        _Wall(pose(width, depth, 0, np.pi), width),
        _Wall(pose(0, depth, 0, -np.pi / 2), depth),
        _Wall(pose(width, 0, 0, np.pi / 2), depth),
    ]
    plan = _Plan(shop, size, walls)
    _shell(plan)
    _door(plan)
    for _ in range(int(rng.choice((1, 1, 2, 2, 3)))):
        _window(plan, curtains=bool(rng.random() < 0.6))
    _KINDS[kind](plan)
    for _ in range(int(rng.integers(1, 4))):
        plan.anywhere(shop_pick(shop, (f.ball, f.box_pile, f.box_pile)))
    if rng.random() < 0.5:
        plan.along_wall(f.plant(shop))
    if rng.random() < 0.35:
        plan.along_wall(f.floor_lamp(shop))
    _pictures(plan)
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


def shop_pick(shop: Shop, makers: tuple[Callable[[Shop], Piece], ...]) -> Piece:
    """One of some pieces."""
    return makers[int(shop.rng.integers(len(makers)))](shop)


def _shell(plan: _Plan) -> None:
    """Floor, ceiling, walls, skirting, perhaps a cornice, a beam or a pillar."""
    shop, (width, depth, height) = plan.shop, plan.size
    out, style = shop.out, shop.style
    x, y, z = np.eye(3)
    origin, far = np.zeros(3), np.array([width, depth, 0.0])
    up = height * z
    inside = [
        (origin, width * x, up, style.walls[0]),
        (far, -width * x, up, style.walls[1]),
        (depth * y, -depth * y, up, style.walls[2]),
        (width * x, depth * y, up, style.walls[3]),
    ]
    # seen from inside: swap the edges' order by starting at the other end
    for corner, along, across, material in inside:
        out.quad(corner + along, -along, across, material, f.WALL, casts=False)
    turn = shop.chance(0.5)
    first, second = (width * x, depth * y) if not turn else (depth * y, -width * x)
    out.quad(origin if not turn else width * x, first, second, style.floor, f.FLOOR, casts=False)
    out.quad(up, depth * y, width * x, style.ceiling, f.CEILING, casts=False)
    if shop.chance(0.85):
        tall = shop.between(0.06, 0.14)
        for wall in plan.walls:
            out.box(
                (0, wall.length),
                (0, 0.015),
                (0, tall),
                style.trim,
                f.WALL,
                at=wall.at,
                faces=("north", "top"),
                casts=False,
            )
    if shop.chance(0.4):
        tall = shop.between(0.05, 0.1)
        for wall in plan.walls:
            out.box(
                (0, wall.length),
                (0, tall),
                (height - tall, height),
                style.trim,
                f.WALL,
                at=wall.at,
                faces=("north", "bottom"),
                casts=False,
            )
    if shop.chance(0.2):
        for number in range(3):
            at = (number + 0.5) / 3 * depth
            out.box(
                (0, width),
                (at - 0.08, at + 0.08),
                (height - 0.16, height),
                style.woods[0],
                f.CEILING,
                faces=("north", "south", "bottom"),
                casts=False,
            )
    if shop.chance(0.3):
        wall = plan.walls[int(shop.rng.integers(4))]
        long, deep = shop.between(0.4, 1.1), shop.between(0.2, 0.45)
        x0 = 0.0 if shop.chance(0.5) else wall.length - long
        pillar = Piece(long, deep, height, lambda at: None)
        plan.claim(pillar, wall.at.then(pose(x0 + long / 2, 0.0)), gap=0.0)
        out.box(
            (x0, x0 + long),
            (0, deep),
            (0, height),
            style.walls[0],
            f.WALL,
            at=wall.at,
            faces=_SIDES,
        )
        wall.taken.append((x0, x0 + long, 0.0, height))


def _door(plan: _Plan) -> None:
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
        out.box((x0, x1), (0, 0.035), (z0, z1), style.trim, f.WALL, at=wall.at, casts=False)
    out.box(
        (x, x + wide),
        (0, 0.018),
        (0, tall),
        style.door,
        f.WALL,
        at=wall.at,
        faces=("north",),
        casts=False,
    )
    knob = x + (0.07 if shop.chance(0.5) else wide - 0.07)
    out.ellipsoid((knob, 0.06, 1.02), (0.05, 0.022, 0.018), style.metal, f.WALL, at=wall.at)
    corner = wall.at.then(pose(x + wide / 2, 0.0))
    plan.claim(Piece(wide, 0.9, 0.0, lambda at: None), corner)
    if plan.obstacles:
        plan.footprints.pop()  # kept free of furniture below, but throws no shade
        free = plan.obstacles.pop()
        plan.obstacles.append((*free[:4], 0.0, 0.02))


def _window(plan: _Plan, *, curtains: bool) -> None:
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
        f.WINDOW,
        at=at,
        faces=("north",),
        casts=False,
    )
    bar = 0.05
    columns, rows = max(1, round(wide / shop.between(0.5, 0.9))), int(shop.rng.integers(1, 3))
    for k in range(columns + 1):
        at_x = x + k * wide / columns
        out.box(
            (at_x - bar / 2, at_x + bar / 2),
            (0, 0.045),
            (low, top),
            style.trim,
            f.WINDOW,
            at=at,
            faces=("east", "west", "north"),
            casts=False,
        )
    for k in range(rows + 1):
        at_z = low + k * (top - low) / rows
        out.box(
            (x - bar / 2, x + wide + bar / 2),
            (0, 0.04),
            (at_z - bar / 2, at_z + bar / 2),
            style.trim,
            f.WINDOW,
            at=at,
            faces=("top", "bottom", "north"),
            casts=False,
        )
    out.box(
        (x - 0.08, x + wide + 0.08),
        (0, 0.16),
        (low - 0.055, low - 0.02),
        style.trim,
        f.WINDOW,
        at=at,
    )
    if shop.chance(0.3):
        f.clutter(
            shop,
            at,
            (x + 0.1, x + wide - 0.1),
            (0.06, 0.1),
            low - 0.02,
            int(shop.rng.integers(1, 4)),
        )
    if curtains:
        floor = 0.04 if shop.chance(0.5) else low - 0.1
        drawn = shop.between(0.05, 0.3) * wide
        out.cylinder(
            (0, 0, 0),
            0.014,
            (0, wide + 0.6),
            style.metal,
            f.WINDOW,
            at=at.then(_lying(x - 0.3, 0.1, top + 0.12)),
            casts=False,
        )
        for start in (x - 0.28, x + wide - drawn):
            folds, end = 5, start + 0.28 + drawn
            step = (end - start) / folds
            for k in range(folds):
                deep = 0.1 if k % 2 else 0.07
                out.cylinder(
                    (start + (k + 0.5) * step, deep, 0),
                    step * 0.62,
                    (floor, top + 0.1),
                    style.curtain,
                    f.WINDOW,
                    at=at,
                    casts=False,
                )
    elif low > 0.8 and shop.chance(0.6):
        ribs = round(wide * 0.8 / 0.09)
        for k in range(ribs):
            x0 = x + wide * 0.1 + k * 0.09
            out.box(
                (x0, x0 + 0.07),
                (0.04, 0.12),
                (0.14, 0.68),
                style.lacquers[0],
                f.FURNITURE,
                at=at,
                faces=ALL_BUT_BOTTOM,
            )
        wall.taken.append((x + wide * 0.1, x + wide * 0.9, 0.1, 0.7))
    middle, inward = at((x + wide / 2, 0.0, (low + top) / 2)), at.turn[:, 1]
    plan.openings.append(Opening(middle, inward, (wide / 2, (top - low) / 2), (columns, rows)))


def _lying(x: float, y: float, z: float) -> Pose:
    """A pose whose z axis runs along the wall."""
    turn = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    return Pose(turn, np.array([x, y, z]))


def _pictures(plan: _Plan) -> None:
    """Framed pictures, a clock; bare walls get more."""
    shop = plan.shop
    out, style = shop.out, shop.style
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
            turned = wall.at.then(
                Pose(
                    np.array([[-1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]]),
                    np.array([x + wide / 2, 0.0, z + 0.2]),
                )
            )
            out.cylinder(
                (0, 0, 0), wide / 2, (0, 0.03), style.dark, f.OBJECTS, at=turned, top=style.paper
            )
            continue
        frame = shop.pick((*style.woods, style.dark, style.lacquers[0], style.metal))
        edge = shop.between(0.02, 0.06)
        out.box((x, x + wide), (0.0, 0.03), (z, z + tall), frame, f.PICTURE, at=wall.at)
        mat = edge + (0.06 if shop.chance(0.4) else 0.0)
        if mat > edge:
            out.box(
                (x + edge, x + wide - edge),
                (0, 0.0305),
                (z + edge, z + tall - edge),
                style.paper,
                f.PICTURE,
                at=wall.at,
                faces=("north",),
                casts=False,
            )
        out.box(
            (x + mat, x + wide - mat),
            (0, 0.0312),
            (z + mat, z + tall - mat),
            shop.pick(style.pictures),
            f.PICTURE,
            at=wall.at,
            faces=("north",),
            casts=False,
        )


def _rug(plan: _Plan, at: Pose, width: float, depth: float) -> None:
    plan.shop.out.box(
        (-width / 2, width / 2),
        (-depth / 2, depth / 2),
        (0, 0.012),
        plan.shop.style.rug,
        f.FLOOR,
        at=at,
        faces=ALL_BUT_BOTTOM,
        casts=False,
    )


def _middle(plan: _Plan) -> Pose:
    return pose(
        plan.size[0] / 2, plan.size[1] / 2, 0.0, 0.0 if plan.size[0] > plan.size[1] else np.pi / 2
    )


def _bedroom(plan: _Plan) -> None:
    shop = plan.shop
    main = f.bed(shop)
    placed = plan.along_wall(main)
    if placed is not None:
        wall, x = placed
        stand = f.cabinet(shop, (0.45, 0.38, shop.between(0.42, 0.6)), rows=2, columns=1)
        for side in (-1, 1):
            at = x + side * (main.width / 2 + 0.3)
            if plan.place(stand, wall, at) and shop.chance(0.6):
                f.table_lamp(shop, plan.walls[wall].at, (at, 0.22), stand.height)
        if shop.chance(0.6):
            _rug(plan, plan.walls[wall].at.then(pose(x, 1.9)), main.width + 1.0, 1.5)
    plan.along_wall(
        f.cabinet(
            shop,
            (shop.between(1.0, 2.0), 0.6, shop.between(1.9, 2.2)),
            rows=1,
            columns=int(shop.rng.integers(2, 5)),
        )
    )
    plan.along_wall(
        f.cabinet(
            shop,
            (shop.between(0.8, 1.4), 0.45, shop.between(0.75, 1.1)),
            rows=int(shop.rng.integers(3, 5)),
            columns=2,
        )
    )
    if shop.chance(0.6):
        _desk(plan)
    if shop.chance(0.5):
        plan.along_wall(f.bookcase(shop))
    if shop.chance(0.5):
        plan.anywhere(f.sofa(shop)) if shop.chance(0.3) else plan.anywhere(f.chair(shop))


def _living(plan: _Plan) -> None:
    shop = plan.shop
    couch = f.sofa(shop)
    placed = plan.along_wall(couch)
    if placed is not None:
        wall, x = placed
        at = plan.walls[wall].at
        low = f.table(
            shop,
            (shop.between(0.7, 1.2), shop.between(0.5, 0.7)),
            shop.between(0.36, 0.48),
            int(shop.rng.integers(1, 5)),
        )
        here = at.then(pose(x, couch.depth + shop.between(0.35, 0.6)))
        if plan.claim(low, here):
            low.build(here)
        if shop.chance(0.75):
            _rug(
                plan,
                at.then(pose(x, couch.depth + 0.6)),
                shop.between(1.8, 2.6),
                shop.between(1.3, 1.9),
            )
        opposite = (1, 0, 3, 2)[wall]
        plan.along_wall(f.tv_bench(shop), opposite)
    else:
        plan.along_wall(f.tv_bench(shop))
    for _ in range(int(shop.rng.integers(1, 3))):
        plan.along_wall(f.bookcase(shop))
    if shop.chance(0.7):
        plan.anywhere(f.sofa(shop))
    plan.along_wall(
        f.cabinet(shop, (shop.between(0.8, 1.6), 0.42, shop.between(0.7, 1.2)), rows=2, columns=2)
    )
    if shop.chance(0.6):
        plan.along_wall(f.floor_lamp(shop))


def _dining(plan: _Plan) -> None:
    shop = plan.shop
    if shop.chance(0.65):
        wall = int(shop.rng.integers(4))
        long = min(plan.walls[wall].length - 0.3, shop.between(2.4, 3.6))
        if plan.along_wall(f.kitchen(shop, long), wall) is None:
            plan.along_wall(f.kitchen(shop, min(long, 2.4)))
    board = f.table(
        shop,
        (shop.between(0.9, 1.8), shop.between(0.8, 1.0)),
        shop.between(0.72, 0.77),
        int(shop.rng.integers(2, 7)),
    )
    at = plan.anywhere(
        board, yaw=float(shop.rng.choice((0.0, np.pi / 2))) + shop.between(-0.1, 0.1), inset=0.6
    )
    if at is not None:
        if shop.chance(0.4):
            _rug(plan, at.then(pose(0, board.depth / 2)), board.width + 1.2, board.depth + 1.2)
        wood = shop.pick(shop.style.woods + shop.style.lacquers)
        places = [(0.0, y, turn) for y, turn in ((-0.25, 0.0), (board.depth + 0.25, np.pi))]
        if board.width > 1.3:
            places = [
                (x, y, turn) for _, y, turn in places for x in (-board.width / 4, board.width / 4)
            ]
        places += [
            (-board.width / 2 - 0.3, board.depth / 2, -np.pi / 2),
            (board.width / 2 + 0.3, board.depth / 2, np.pi / 2),
        ]
        for x, y, turn in places:
            if shop.chance(0.8):
                seat = f.chair(shop, wood)
                pulled = pose(x, y, 0.0, turn + shop.between(-0.3, 0.3)).then(
                    pose(0, -seat.depth / 2 - shop.between(0, 0.2))
                )
                if plan.claim(seat, at.then(pulled), gap=-0.6, inset=0.02):
                    seat.build(at.then(pulled))
    plan.along_wall(
        f.cabinet(shop, (shop.between(1.0, 1.8), 0.45, shop.between(0.8, 1.3)), rows=2, columns=3)
    )
    if shop.chance(0.5):
        plan.along_wall(f.bookcase(shop))


def _office(plan: _Plan) -> None:
    shop = plan.shop
    for _ in range(int(shop.rng.integers(1, 4))):
        _desk(plan)
    for _ in range(int(shop.rng.integers(1, 3))):
        plan.along_wall(f.bookcase(shop))
    plan.along_wall(
        f.cabinet(
            shop,
            (shop.between(0.5, 1.2), 0.5, shop.between(1.0, 1.9)),
            rows=int(shop.rng.integers(2, 5)),
            columns=1,
        )
    )
    if shop.chance(0.5):
        plan.along_wall(f.sofa(shop))
    if shop.chance(0.5):
        _rug(plan, _middle(plan), shop.between(1.6, 2.4), shop.between(1.2, 1.8))


def _desk(plan: _Plan) -> None:
    shop = plan.shop
    desk = f.desk(shop)
    placed = plan.along_wall(desk)
    if placed is None:
        return
    wall, x = placed
    seat = f.chair(shop)
    turn = np.pi + shop.between(-0.6, 0.6)
    at = plan.walls[wall].at.then(pose(x, desk.depth + shop.between(0.3, 0.6), 0.0, turn))
    if plan.claim(seat, at, gap=-0.5):
        seat.build(at)


def _lights(plan: _Plan, daylight: float) -> tuple[tuple[Light, ...], Sun | None]:
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
                (0, 0, 0), 0.006, (height - drop, height), style.dark, f.OBJECTS, at=at, casts=False
            )
            out.ellipsoid((0, 0, height - drop), (0.17, 0.17, 0.13), style.shade, f.OBJECTS, at=at)
        else:
            out.cylinder(
                (0, 0, 0), 0.2, (height - 0.09, height), style.shade, f.OBJECTS, at=at, casts=False
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
    for position, colour in shop.lamps[:2]:
        lights.append(
            Light(position, linear(colour) * rng.uniform(0.25, 0.6), softness=0.03, casts=False)
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


_KINDS: dict[str, Callable[[_Plan], None]] = {
    "bedroom": _bedroom,
    "living": _living,
    "dining": _dining,
    "office": _office,
}
