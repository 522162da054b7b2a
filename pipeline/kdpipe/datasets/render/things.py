"""What stands about on the floor: plants, cartons, balls, stools."""

from __future__ import annotations

from kdpipe.datasets.render.furniture import CHAIR, OBJECTS, Piece, Shop
from kdpipe.datasets.render.surfaces import Pose, pose


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
