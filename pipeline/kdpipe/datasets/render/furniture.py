"""Furniture: each piece in a frame of its own, its back at y = 0, its front towards +y.

x runs along the wall, the middle of the piece is x = 0; z is up from the floor. Metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from numpy.random import Generator

from kdpipe.datasets.render.scene import Colour
from kdpipe.datasets.render.style import Style
from kdpipe.datasets.render.surfaces import ALL_BUT_BOTTOM, Builder, Point, Pose, Span, pose
from kdpipe.datasets.render.surfaces import Array as Vector

BED, BOOKS, CEILING, CHAIR, FLOOR, FURNITURE, OBJECTS = 1, 2, 3, 4, 5, 6, 7
PICTURE, SOFA, TABLE, TV, WALL, WINDOW = 8, 9, 10, 11, 12, 13
"""The NYU-13 classes; 0 is unlabelled."""


@dataclass(slots=True)
class Shop:
    """What every piece needs: chance, where surfaces go, materials, and the lamps that are lit."""

    rng: Generator
    out: Builder
    style: Style
    lamps: list[tuple[Vector, Colour]] = field(default_factory=list)
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


def bed(shop: Shop) -> Piece:
    """Frame, mattress, blanket, pillows, headboard."""
    width, depth = shop.between(0.95, 1.9), shop.between(1.95, 2.15)
    top = shop.between(0.42, 0.6)
    wood = shop.pick(shop.style.woods + shop.style.lacquers)
    blanket, linen = shop.pick(shop.style.fabrics + shop.style.linen), shop.pick(shop.style.linen)
    board, cover = shop.between(0.8, 1.25), shop.between(0.5, 0.75)
    pillows = 1 if width < 1.3 else 2

    def build(at: Pose) -> None:
        half, out = width / 2, shop.out
        out.box(
            (-half - 0.03, half + 0.03),
            (0, 0.07),
            (0, board),
            wood,
            BED,
            at=at,
            faces=ALL_BUT_BOTTOM,
        )
        out.box((-half, half), (0.07, depth), (0.1, top - 0.2), wood, BED, at=at)
        legs(shop, at, (-half, half), (0.07, depth), (0, 0.1), 0.07, wood, BED)
        out.box(
            (-half + 0.02, half - 0.02), (0.07, depth - 0.02), (top - 0.2, top), linen, BED, at=at
        )
        fold = depth * (1 - cover)
        spread = (-half - 0.02, half + 0.02), (fold, depth + 0.01), (top - 0.26, top + 0.045)
        out.box(*spread, blanket, BED, at=at)
        out.box(
            (-half - 0.021, half + 0.021),
            (fold - 0.22, fold + 0.06),
            (top - 0.15, top + 0.05),
            linen,
            BED,
            at=at,
        )
        for number in range(pillows):
            x = (number + 0.5) / pillows * width - half
            plump = pose(x, 0.36, top + 0.09, shop.between(-0.15, 0.15), shop.between(0.1, 0.5))
            out.ellipsoid(
                (0, 0, 0), (width / pillows * 0.42, 0.24, 0.1), linen, BED, at=at.then(plump)
            )

    return Piece(width + 0.06, depth, max(board, top), build)


def sofa(shop: Shop) -> Piece:
    """Base, seat cushions, back cushions, arms, one or two throw pillows."""
    seats = int(shop.rng.integers(1, 4))
    arm, seat = shop.between(0.12, 0.24), shop.between(0.55, 0.72)
    width, depth = seats * seat + 2 * arm, shop.between(0.82, 1.0)
    cloth, second = shop.pick(shop.style.fabrics), shop.pick(shop.style.fabrics)
    top, back, rest = shop.between(0.4, 0.47), shop.between(0.75, 0.95), shop.between(0.55, 0.66)
    label = SOFA if seats > 1 else CHAIR  # NYU calls an armchair a chair

    def build(at: Pose) -> None:
        half, out = width / 2, shop.out
        out.box((-half, half), (0, depth - 0.04), (0.08, top - 0.16), cloth, label, at=at)
        legs(
            shop,
            at,
            (-half + 0.04, half - 0.04),
            (0.04, depth - 0.08),
            (0, 0.08),
            0.05,
            shop.style.woods[0],
            label,
        )
        out.box(
            (-half, half), (0, 0.2), (0.08, back - 0.06), cloth, label, at=at, faces=ALL_BUT_BOTTOM
        )
        for side in (-half, half - arm):
            out.box((side, side + arm), (0, depth), (0.08, rest), cloth, label, at=at)
        for number in range(seats):
            x0 = -half + arm + number * seat
            out.box(
                (x0 + 0.006, x0 + seat - 0.006),
                (0.2, depth),
                (top - 0.16, top),
                cloth,
                label,
                at=at,
            )
            leaning = at.then(pose(x0 + seat / 2, 0.24, top, 0.0, 0.18))
            out.box(
                (-seat / 2 + 0.01, seat / 2 - 0.01),
                (-0.02, 0.14),
                (0, back - top),
                cloth,
                label,
                at=leaning,
            )
        for _ in range(int(shop.rng.integers(0, 3))):
            x = shop.between(-half + arm + 0.2, half - arm - 0.2) if seats > 1 else 0.0
            thrown = pose(x, 0.5, top + 0.2, shop.between(-0.5, 0.5), 1.2)
            out.ellipsoid((0, 0, 0), (0.21, 0.2, 0.08), second, label, at=at.then(thrown))

    return Piece(width, depth, back, build)


def chair(shop: Shop, wood: int | None = None) -> Piece:
    """Four legs, a seat, a back of slats or cloth."""
    timber = shop.pick(shop.style.woods + shop.style.lacquers) if wood is None else wood
    seat = shop.pick(shop.style.fabrics) if shop.chance(0.5) else timber
    width, depth = shop.between(0.4, 0.48), shop.between(0.42, 0.5)
    top, back = shop.between(0.44, 0.49), shop.between(0.82, 1.02)
    slats = int(shop.rng.integers(0, 5))

    def build(at: Pose) -> None:
        half, out = width / 2, shop.out
        legs(shop, at, (-half, half), (0, depth), (0, top - 0.04), 0.04, timber, CHAIR)
        out.box((-half, half), (0, depth), (top - 0.04, top), seat, CHAIR, at=at)
        leaning = at.then(pose(0, 0.03, top, 0, 0.12))
        rise = back - top
        if slats == 0:
            out.box((-half, half), (-0.03, 0.02), (0.08, rise), seat, CHAIR, at=leaning)
            slat_x = [-half, half - 0.04]
        else:
            out.box((-half, half), (-0.02, 0.02), (rise - 0.09, rise), timber, CHAIR, at=leaning)
            slat_x = [-half + k * (width - 0.04) / (slats + 1) for k in range(slats + 2)]
        for x in slat_x:
            out.box(
                (x, x + 0.04),
                (-0.02, 0.015),
                (0, rise),
                timber,
                CHAIR,
                at=leaning,
                faces=("east", "west", "north", "south"),
            )

    return Piece(width, depth, back, build)


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


def cabinet(shop: Shop, size: tuple[float, float, float], *, rows: int, columns: int) -> Piece:
    """A carcass with drawers or doors; low ones carry things."""
    width, depth, height = size
    body = shop.pick(shop.style.woods + shop.style.lacquers)
    front = body if shop.chance(0.6) else shop.pick(shop.style.woods + shop.style.lacquers)

    def build(at: Pose) -> None:
        half, out = width / 2, shop.out
        out.box((-half, half), (0, depth), (0.06, height), body, FURNITURE, at=at)
        out.box(
            (-half + 0.03, half - 0.03),
            (0, depth - 0.05),
            (0, 0.06),
            shop.style.dark,
            FURNITURE,
            at=at,
            faces=("east", "west", "north"),
        )
        for row in range(rows):
            for column in range(columns):
                x0 = -half + column * width / columns
                z0 = 0.06 + row * (height - 0.06) / rows
                x, z = (
                    (x0 + 0.012, x0 + width / columns - 0.012),
                    (z0 + 0.012, z0 + (height - 0.06) / rows - 0.012),
                )
                faces = ("north", "east", "west", "top")
                out.box(x, (depth, depth + 0.02), z, front, FURNITURE, at=at, faces=faces)
                tall = z[1] - z[0] > x[1] - x[0]
                middle = (x[0] + x[1]) / 2, (z[0] + z[1]) / 2
                knob = (
                    (x[1] - 0.06 if column % 2 == 0 else x[0] + 0.04, middle[1]) if tall else middle
                )
                grip = 0.01, 0.06 if tall else 0.01
                wide = 0.01 if tall else 0.06
                out.box(
                    (knob[0] - wide, knob[0] + wide),
                    (depth + 0.02, depth + 0.045),
                    (knob[1] - grip[1], knob[1] + grip[1]),
                    shop.style.metal,
                    FURNITURE,
                    at=at,
                    faces=("north", "top", "east", "west"),
                )
        if height < 1.5:
            clutter(
                shop,
                at,
                (-half + 0.05, half - 0.05),
                (0.05, depth - 0.05),
                height,
                int(shop.rng.integers(1, 5)),
            )
        elif shop.chance(0.4):
            clutter(shop, at, (-half + 0.05, half - 0.05), (0.05, depth - 0.05), height, 2)

    return Piece(width, depth + 0.05, height, build)


def bookcase(shop: Shop) -> Piece:
    """Open shelves with books, single and in blocks, and things between them."""
    width, depth = shop.between(0.6, 1.3), shop.between(0.26, 0.36)
    shelves = int(shop.rng.integers(3, 6))
    height = shelves * shop.between(0.33, 0.42)
    wood = shop.pick(shop.style.woods + shop.style.lacquers)
    singles = 26

    def build(at: Pose) -> None:
        nonlocal singles
        half, out, board = width / 2, shop.out, 0.025
        for x0 in (-half, half - board):
            out.box(
                (x0, x0 + board),
                (0, depth),
                (0, height),
                wood,
                FURNITURE,
                at=at,
                faces=ALL_BUT_BOTTOM,
            )
        out.box((-half, half), (0, 0.015), (0, height), wood, FURNITURE, at=at, faces=("north",))
        step = (height - board) / shelves
        for number in range(shelves + 1):
            z = number * step
            out.box(
                (-half + board, half - board),
                (0, depth),
                (z, z + board),
                wood,
                FURNITURE,
                at=at,
                faces=("north", "top", "bottom"),
            )
            if number == shelves:
                break
            x, end, floor = -half + board + 0.01, half - board - 0.01, z + board
            while x < end - 0.06:
                kind = shop.rng.random()
                if kind < 0.45:
                    long = min(shop.between(0.15, 0.5), end - x)
                    tall = shop.between(0.55, 0.85) * (step - board)
                    out.box(
                        (x, x + long),
                        (0.02, depth - shop.between(0.02, 0.1)),
                        (floor, floor + tall),
                        shop.pick(shop.style.spines),
                        BOOKS,
                        at=at,
                        faces=("north", "top", "east", "west"),
                    )
                    x += long
                elif kind < 0.75 and singles > 0:
                    for _ in range(int(shop.rng.integers(2, 6))):
                        thick, singles = shop.between(0.02, 0.05), singles - 1
                        if x + thick < end:
                            tall = shop.between(0.5, 0.92) * (step - board)
                            out.box(
                                (x, x + thick),
                                (0.02, depth - shop.between(0.03, 0.09)),
                                (floor, floor + tall),
                                shop.pick(shop.style.colours),
                                BOOKS,
                                at=at,
                                faces=("north", "top", "east", "west"),
                            )
                        x += thick + 0.001
                elif kind < 0.88:
                    thing(shop, at, (x + 0.09, depth / 2), floor, (step - board) * 0.85)
                    x += 0.2
                else:
                    x += shop.between(0.05, 0.25)
        if height < 1.7:
            clutter(shop, at, (-half + 0.08, half - 0.08), (0.05, depth - 0.05), height, 2)

    return Piece(width, depth, height, build)


def tv_bench(shop: Shop) -> Piece:
    """A low cabinet and a television on it."""
    width, depth, height = shop.between(1.2, 1.9), shop.between(0.38, 0.48), shop.between(0.4, 0.6)
    base = cabinet(shop, (width, depth, height), rows=1, columns=int(shop.rng.integers(2, 4)))
    diagonal = shop.between(0.8, 1.35)

    def build(at: Pose) -> None:
        base.build(at)
        screen(shop, at, (0.0, depth / 2), height, diagonal, TV)

    return Piece(width, depth + 0.05, height + diagonal * 0.5 + 0.1, build)


def screen(
    shop: Shop, at: Pose, centre: tuple[float, float], z: float, diagonal: float, label: int
) -> None:
    """A flat screen on a foot."""
    wide, tall = diagonal * 0.87, diagonal * 0.49
    x, y = centre
    out = shop.out
    out.box(
        (x - 0.13, x + 0.13), (y - 0.08, y + 0.08), (z, z + 0.015), shop.style.dark, label, at=at
    )
    out.box((x - 0.03, x + 0.03), (y - 0.02, y + 0.01), (z, z + 0.1), shop.style.dark, label, at=at)
    z += 0.06
    out.box(
        (x - wide / 2, x + wide / 2),
        (y - 0.025, y + 0.025),
        (z, z + tall),
        shop.style.dark,
        label,
        at=at,
    )
    glass = (
        (x - wide / 2 + 0.015, x + wide / 2 - 0.015),
        (y, y + 0.0265),
        (z + 0.02, z + tall - 0.015),
    )
    out.box(*glass, shop.style.screen, label, at=at, faces=("north",))


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


def kitchen(shop: Shop, width: float) -> Piece:
    """Base cupboards under a worktop, wall cupboards, a cooker, a tall refrigerator at one end."""
    depth, height = 0.6, 0.9
    style = shop.style
    body = shop.pick(style.lacquers + style.woods)
    cold = style.steel if shop.chance(0.5) else style.lacquers[0]

    def build(at: Pose) -> None:
        out, x0 = shop.out, -width / 2
        fridge = (x0, x0 + 0.62)
        out.box(fridge, (0, 0.64), (0.03, 1.8), cold, FURNITURE, at=at)
        out.box(
            (fridge[0] + 0.01, fridge[1] - 0.01), (0.64, 0.66), (0.62, 1.79), cold, FURNITURE, at=at
        )
        out.box(
            (fridge[0] + 0.01, fridge[1] - 0.01),
            (0.64, 0.66),
            (0.05, 0.605),
            cold,
            FURNITURE,
            at=at,
        )
        for z in ((0.4, 0.58), (0.66, 1.0)):
            out.box(
                (fridge[1] - 0.08, fridge[1] - 0.05), (0.66, 0.7), z, style.metal, FURNITURE, at=at
            )
        start, end = fridge[1] + 0.02, width / 2
        out.box((start, end), (0, depth - 0.03), (0.1, height - 0.04), body, FURNITURE, at=at)
        out.box((start, end), (0, depth - 0.09), (0, 0.1), style.dark, FURNITURE, at=at)
        out.box((start, end), (0, depth), (height - 0.04, height), style.stone, FURNITURE, at=at)
        count = max(2, round((end - start) / 0.5))
        cell = (end - start) / count
        for number in range(count):
            x = (start + number * cell + 0.008, start + (number + 1) * cell - 0.008)
            faces = ("north", "east", "west", "top")
            is_oven = number == count // 2
            material = style.dark if is_oven else body
            out.box(
                x,
                (depth - 0.03, depth - 0.012),
                (0.11, height - 0.06),
                material,
                FURNITURE,
                at=at,
                faces=faces,
            )
            out.box(
                (x[0] + 0.08, x[1] - 0.08),
                (depth - 0.012, depth + 0.015),
                (height - 0.14, height - 0.12),
                style.metal,
                FURNITURE,
                at=at,
                faces=faces,
            )
            if is_oven:
                out.box(
                    (x[0], x[1]),
                    (0.06, depth - 0.06),
                    (height, height + 0.008),
                    style.dark,
                    FURNITURE,
                    at=at,
                    faces=ALL_BUT_BOTTOM,
                )
                out.box((x[0], x[1]), (0, 0.34), (1.55, 1.7), style.steel, FURNITURE, at=at)
                pot = (x[0] + cell * 0.35, 0.3, 0.0)
                out.cylinder(
                    pot, 0.11, (height + 0.008, height + 0.16), style.steel, OBJECTS, at=at
                )
            else:
                out.box(
                    (x[0] - 0.008, x[1] + 0.008), (0, 0.32), (1.42, 2.05), body, FURNITURE, at=at
                )
                out.box(
                    x,
                    (0.32, 0.335),
                    (1.43, 2.04),
                    body,
                    FURNITURE,
                    at=at,
                    faces=("north", "east", "west", "top", "bottom"),
                )
                if shop.chance(0.7):
                    clutter(
                        shop,
                        at,
                        (x[0] + 0.06, x[1] - 0.06),
                        (0.1, depth - 0.1),
                        height,
                        int(shop.rng.integers(1, 4)),
                    )

    return Piece(width, depth + 0.1, 2.05, build)


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


def plant(shop: Shop) -> Piece:
    """A pot and leaves."""
    height = shop.between(0.7, 1.5)

    def build(at: Pose) -> None:
        out, axis = shop.out, (0.0, 0.25, 0.0)
        out.cylinder(
            axis, 0.16, (0, 0.3), shop.pick(shop.style.pottery), OBJECTS, at=at, top=shop.style.dark
        )
        out.cylinder(axis, 0.015, (0.3, height), shop.style.woods[0], OBJECTS, at=at)
        for _ in range(14):
            rise = shop.between(0.45, 1.0) * height
            reach = shop.between(0.02, 0.16)
            turned = pose(0, 0.25, max(rise, 0.4), shop.between(0, 6.28), shop.between(-0.9, 0.3))
            leaf = (0.0, -reach, 0.0), (shop.between(0.03, 0.07), shop.between(0.12, 0.2), 0.012)
            out.ellipsoid(*leaf, shop.pick(shop.style.leaf), OBJECTS, at=at.then(turned))

    return Piece(0.5, 0.5, height, build)


def box_pile(shop: Shop) -> Piece:
    """One to three cartons, turned against each other."""
    count = int(shop.rng.integers(1, 4))

    def build(at: Pose) -> None:
        z = 0.0
        for _ in range(count):
            half, tall = shop.between(0.12, 0.24), shop.between(0.15, 0.35)
            turned = at.then(pose(0, 0.3, z, shop.between(-0.7, 0.7)))
            shop.out.box(
                (-half, half),
                (-half * 0.8, half * 0.8),
                (0, tall),
                shop.pick(shop.style.woods + shop.style.colours),
                OBJECTS,
                at=turned,
            )
            z += tall

    return Piece(0.6, 0.6, 0.5 * count, build)


def ball(shop: Shop) -> Piece:
    """A ball or a stool on the floor."""
    radius = shop.between(0.1, 0.28)
    is_ball = shop.chance(0.5)

    def build(at: Pose) -> None:
        material = shop.pick(shop.style.colours + shop.style.fabrics)
        if is_ball:
            shop.out.ellipsoid((0, 0.3, radius), (radius, radius, radius), material, OBJECTS, at=at)
        else:
            shop.out.cylinder((0, 0.3, 0), max(radius, 0.2), (0, 0.42), material, CHAIR, at=at)

    return Piece(0.56, 0.6, 0.55, build)


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
        top = 0.0
        for _ in range(int(shop.rng.integers(1, 4))):
            thick = shop.between(0.02, 0.045)
            if top + thick > room:
                break
            slid = turned.then(pose(0, 0, top, shop.between(-0.3, 0.3)))
            out.box(
                (-0.1, 0.1),
                (-0.075, 0.075),
                (0, thick),
                shop.pick(style.colours),
                BOOKS,
                at=slid,
                faces=ALL_BUT_BOTTOM,
            )
            top += thick
    elif kind == 1:
        out.cylinder(
            here, 0.042, (z, z + 0.1), shop.pick(style.pottery), OBJECTS, at=at, top=style.dark
        )
    elif kind == 2:
        tall = min(shop.between(0.16, 0.3), room)
        out.ellipsoid(
            (here[0], here[1], z + tall * 0.4),
            (0.075, 0.075, tall * 0.4),
            shop.pick(style.pottery),
            OBJECTS,
            at=at,
        )
        out.cylinder(
            here, 0.03, (z + tall * 0.6, z + tall), shop.pick(style.pottery), OBJECTS, at=at
        )
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
        tall = min(shop.between(0.2, 0.3), room)
        out.cylinder(here, 0.035, (z, z + tall * 0.7), shop.pick(style.colours), OBJECTS, at=at)
        out.cylinder(
            here, 0.014, (z + tall * 0.7, z + tall), shop.pick(style.colours), OBJECTS, at=at
        )
