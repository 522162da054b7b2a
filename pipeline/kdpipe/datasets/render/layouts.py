"""What stands in a bedroom, a living room, a dining room or kitchen, an office."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.datasets.render import seats, storage, tables
from kdpipe.datasets.render.furniture import FLOOR
from kdpipe.datasets.render.surfaces import ALL_BUT_BOTTOM, Pose, pose

if TYPE_CHECKING:
    from kdpipe.datasets.render.plan import Plan


def bedroom(plan: Plan) -> None:
    shop = plan.shop
    main = seats.bed(shop)
    placed = plan.along_wall(main)
    if placed is not None:
        wall, x = placed
        stand = storage.cabinet(shop, (0.45, 0.38, shop.between(0.42, 0.6)), rows=2, columns=1)
        for side in (-1, 1):
            at = x + side * (main.width / 2 + 0.3)
            if plan.place(stand, wall, at) and shop.chance(0.6):
                tables.table_lamp(shop, plan.walls[wall].at, (at, 0.22), stand.height)
        if shop.chance(0.6):
            _rug(plan, plan.walls[wall].at.then(pose(x, 1.9)), main.width + 1.0, 1.5)
    plan.along_wall(
        storage.cabinet(
            shop,
            (shop.between(1.0, 2.0), 0.6, shop.between(1.9, 2.2)),
            rows=1,
            columns=int(shop.rng.integers(2, 5)),
        )
    )
    plan.along_wall(
        storage.cabinet(
            shop,
            (shop.between(0.8, 1.4), 0.45, shop.between(0.75, 1.1)),
            rows=int(shop.rng.integers(3, 5)),
            columns=2,
        )
    )
    if shop.chance(0.6):
        _desk(plan)
    if shop.chance(0.5):
        plan.along_wall(storage.bookcase(shop))
    if shop.chance(0.5):
        plan.anywhere(seats.sofa(shop)) if shop.chance(0.3) else plan.anywhere(seats.chair(shop))
    if shop.chance(0.35):
        plan.along_wall(storage.tv_bench(shop))


def living(plan: Plan) -> None:
    shop = plan.shop
    couch = seats.sofa(shop)
    placed = plan.along_wall(couch)
    if placed is not None:
        wall, x = placed
        at = plan.walls[wall].at
        low = tables.table(
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
        plan.along_wall(storage.tv_bench(shop), opposite)
    else:
        plan.along_wall(storage.tv_bench(shop))
    for _ in range(int(shop.rng.integers(1, 3))):
        plan.along_wall(storage.bookcase(shop))
    if shop.chance(0.7):
        plan.anywhere(seats.sofa(shop))
    plan.along_wall(
        storage.cabinet(
            shop, (shop.between(0.8, 1.6), 0.42, shop.between(0.7, 1.2)), rows=2, columns=2
        )
    )
    if shop.chance(0.6):
        plan.along_wall(tables.floor_lamp(shop))


def dining(plan: Plan) -> None:
    shop = plan.shop
    if shop.chance(0.65):
        wall = int(shop.rng.integers(4))
        long = min(plan.walls[wall].length - 0.3, shop.between(2.4, 3.6))
        if plan.along_wall(storage.kitchen(shop, long), wall) is None:
            plan.along_wall(storage.kitchen(shop, min(long, 2.4)))
    board = tables.table(
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
                seat = seats.chair(shop, wood)
                pulled = pose(x, y, 0.0, turn + shop.between(-0.3, 0.3)).then(
                    pose(0, -seat.depth / 2 - shop.between(0, 0.2))
                )
                if plan.claim(seat, at.then(pulled), gap=-0.6, inset=0.02):
                    seat.build(at.then(pulled))
    plan.along_wall(
        storage.cabinet(
            shop, (shop.between(1.0, 1.8), 0.45, shop.between(0.8, 1.3)), rows=2, columns=3
        )
    )
    if shop.chance(0.5):
        plan.along_wall(storage.bookcase(shop))


def office(plan: Plan) -> None:
    shop = plan.shop
    for _ in range(int(shop.rng.integers(1, 4))):
        _desk(plan)
    for _ in range(int(shop.rng.integers(1, 3))):
        plan.along_wall(storage.bookcase(shop))
    plan.along_wall(
        storage.cabinet(
            shop,
            (shop.between(0.5, 1.2), 0.5, shop.between(1.0, 1.9)),
            rows=int(shop.rng.integers(2, 5)),
            columns=1,
        )
    )
    if shop.chance(0.5):
        plan.along_wall(seats.sofa(shop))
    if shop.chance(0.5):
        _rug(plan, _middle(plan), shop.between(1.6, 2.4), shop.between(1.2, 1.8))


def _desk(plan: Plan) -> None:
    shop = plan.shop
    desk = tables.desk(shop)
    placed = plan.along_wall(desk)
    if placed is None:
        return
    wall, x = placed
    seat = seats.chair(shop)
    turn = np.pi + shop.between(-0.6, 0.6)
    at = plan.walls[wall].at.then(pose(x, desk.depth + shop.between(0.3, 0.6), 0.0, turn))
    if plan.claim(seat, at, gap=-0.5):
        seat.build(at)


def _rug(plan: Plan, at: Pose, width: float, depth: float) -> None:
    plan.shop.out.box(
        (-width / 2, width / 2),
        (-depth / 2, depth / 2),
        (0, 0.012),
        plan.shop.style.rug,
        FLOOR,
        at=at,
        faces=ALL_BUT_BOTTOM,
        casts=False,
    )


def _middle(plan: Plan) -> Pose:
    return pose(
        plan.size[0] / 2, plan.size[1] / 2, 0.0, 0.0 if plan.size[0] > plan.size[1] else np.pi / 2
    )


KINDS: dict[str, Callable[[Plan], None]] = {
    "bedroom": bedroom,
    "living": living,
    "dining": dining,
    "office": office,
}
