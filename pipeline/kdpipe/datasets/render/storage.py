"""Cabinets, bookcases, a bench for the television, kitchens."""

from __future__ import annotations

from kdpipe.datasets.render.furniture import (
    BOOKS,
    FURNITURE,
    OBJECTS,
    TV,
    Piece,
    Shop,
    clutter,
    thing,
)
from kdpipe.datasets.render.surfaces import ALL_BUT_BOTTOM, Pose


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
                out.box(
                    x, (depth, depth + 0.02), z, front, FURNITURE, at=at, faces=faces, casts=False
                )
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
                    casts=False,
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
                        casts=False,
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
                                casts=False,
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
                casts=False,
            )
            out.box(
                (x[0] + 0.08, x[1] - 0.08),
                (depth - 0.012, depth + 0.015),
                (height - 0.14, height - 0.12),
                style.metal,
                FURNITURE,
                at=at,
                faces=faces,
                casts=False,
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
