"""Beds, sofas, chairs."""

from __future__ import annotations

from kdpipe.datasets.render.furniture import BED, CHAIR, SOFA, Piece, Shop, legs
from kdpipe.datasets.render.surfaces import ALL_BUT_BOTTOM, Pose, pose


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
