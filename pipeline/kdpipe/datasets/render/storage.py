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
from kdpipe.datasets.render.surfaces import ALL_BUT_BOTTOM, Pose, Span


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
                x = x0 + 0.012, x0 + width / columns - 0.012
                z = z0 + 0.012, z0 + (height - 0.06) / rows - 0.012
                _front(shop, at, x, depth, z, front, is_left=column % 2 == 0)
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


def _front(
    shop: Shop, at: Pose, x: Span, y: float, z: Span, material: int, *, is_left: bool
) -> None:
    """A door if it is tall, else a drawer, with its grip."""
    faces = ("north", "east", "west", "top")
    shop.out.box(x, (y, y + 0.02), z, material, FURNITURE, at=at, faces=faces, casts=False)
    tall = z[1] - z[0] > x[1] - x[0]
    middle = (x[0] + x[1]) / 2, (z[0] + z[1]) / 2
    knob = (x[1] - 0.06 if is_left else x[0] + 0.04, middle[1]) if tall else middle
    wide, high = (0.01, 0.06) if tall else (0.06, 0.01)
    shop.out.box(
        (knob[0] - wide, knob[0] + wide),
        (y + 0.02, y + 0.045),
        (knob[1] - high, knob[1] + high),
        shop.style.metal,
        FURNITURE,
        at=at,
        faces=("north", "top", "east", "west"),
        casts=False,
    )


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
            shelf = (-half + board + 0.01, half - board - 0.01)
            singles = _fill(shop, at, shelf, depth, z + board, step - board, singles)
        if height < 1.7:
            clutter(shop, at, (-half + 0.08, half - 0.08), (0.05, depth - 0.05), height, 2)

    return Piece(width, depth, height, build)


def _fill(
    shop: Shop, at: Pose, shelf: Span, depth: float, floor: float, room: float, singles: int
) -> int:
    """Puts blocks of books, single books, things and gaps on a shelf, from its left to its right.

    Args:
        shop: what is needed for it.
        at: the bookcase's pose.
        shelf: from where to where it goes [m].
        depth: of the bookcase [m].
        floor: height of the board that they stand on [m].
        room: up to the next board [m].
        singles: how many single books may still come in this bookcase.

    Returns:
        How many may come after it.
    """
    x, end = shelf
    while x < end - 0.06:
        kind = shop.rng.random()
        if kind < 0.45:
            long = min(shop.between(0.15, 0.5), end - x)
            tall = shop.between(0.55, 0.85) * room
            front = depth - shop.between(0.02, 0.1)
            spines = shop.pick(shop.style.spines)
            _book(shop, at, (x, x + long), front, (floor, floor + tall), spines)
            x += long
        elif kind < 0.75 and singles > 0:
            for _ in range(int(shop.rng.integers(2, 6))):
                thick, singles = shop.between(0.02, 0.05), singles - 1
                if x + thick < end:
                    tall = shop.between(0.5, 0.92) * room
                    front = depth - shop.between(0.03, 0.09)
                    colour = shop.pick(shop.style.colours)
                    _book(shop, at, (x, x + thick), front, (floor, floor + tall), colour)
                x += thick + 0.001
        elif kind < 0.88:
            thing(shop, at, (x + 0.09, depth / 2), floor, room * 0.85)
            x += 0.2
        else:
            x += shop.between(0.05, 0.25)
    return singles


def _book(shop: Shop, at: Pose, x: Span, front: float, z: Span, material: int) -> None:
    """One, or a block of them whose spines are painted on."""
    shop.out.box(
        x,
        (0.02, front),
        z,
        material,
        BOOKS,
        at=at,
        faces=("north", "top", "east", "west"),
        casts=False,
    )


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
        out, fridge = shop.out, (-width / 2, -width / 2 + 0.62)
        _refrigerator(shop, at, fridge, cold)
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
                _hob(shop, at, x, depth, height)
                pot = (x[0] + cell * 0.35, 0.3, 0.0)
                out.cylinder(
                    pot, 0.11, (height + 0.008, height + 0.16), style.steel, OBJECTS, at=at
                )
            else:
                _wall_cupboard(shop, at, x, body)
                if shop.chance(0.7):
                    things, y = int(shop.rng.integers(1, 4)), (0.1, depth - 0.1)
                    clutter(shop, at, (x[0] + 0.06, x[1] - 0.06), y, height, things)

    return Piece(width, depth + 0.1, 2.05, build)


def _refrigerator(shop: Shop, at: Pose, x: Span, material: int) -> None:
    """Two doors, a grip at each."""
    out, door = shop.out, (x[0] + 0.01, x[1] - 0.01)
    out.box(x, (0, 0.64), (0.03, 1.8), material, FURNITURE, at=at)
    for z in ((0.62, 1.79), (0.05, 0.605)):
        out.box(door, (0.64, 0.66), z, material, FURNITURE, at=at)
    for z in ((0.4, 0.58), (0.66, 1.0)):
        grip = (x[1] - 0.08, x[1] - 0.05)
        out.box(grip, (0.66, 0.7), z, shop.style.metal, FURNITURE, at=at)


def _hob(shop: Shop, at: Pose, x: Span, depth: float, height: float) -> None:
    """Glass in the worktop, and a hood over it."""
    shop.out.box(
        x,
        (0.06, depth - 0.06),
        (height, height + 0.008),
        shop.style.dark,
        FURNITURE,
        at=at,
        faces=ALL_BUT_BOTTOM,
    )
    shop.out.box(x, (0, 0.34), (1.55, 1.7), shop.style.steel, FURNITURE, at=at)


def _wall_cupboard(shop: Shop, at: Pose, x: Span, material: int) -> None:
    out, carcass = shop.out, (x[0] - 0.008, x[1] + 0.008)
    out.box(carcass, (0, 0.32), (1.42, 2.05), material, FURNITURE, at=at)
    faces = ("north", "east", "west", "top", "bottom")
    out.box(x, (0.32, 0.335), (1.43, 2.04), material, FURNITURE, at=at, faces=faces)
