"""A room while it is furnished: what is taken on its floor and on its walls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.datasets.render.surfaces import Pose, Span, pose

if TYPE_CHECKING:
    from kdpipe.datasets.render.furniture import Piece, Shop
    from kdpipe.datasets.render.scene import Opening


@dataclass(slots=True)
class Wall:
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
class Plan:
    """A room while it is furnished."""

    shop: Shop
    size: tuple[float, float, float]
    walls: list[Wall]
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
