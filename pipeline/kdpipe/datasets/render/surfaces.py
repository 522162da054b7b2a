"""What can be hit: rectangles and discs, ellipsoids and cylinders, as structures of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Point: TypeAlias = tuple[float, float, float]
Span: TypeAlias = tuple[float, float]

_FACES = {  # face -> (corner in units of the box, first edge, second edge): sides have "up" second
    "east": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "west": ((0, 1, 0), (0, -1, 0), (0, 0, 1)),
    "north": ((1, 1, 0), (-1, 0, 0), (0, 0, 1)),
    "south": ((0, 0, 0), (1, 0, 0), (0, 0, 1)),
    "top": ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
    "bottom": ((0, 1, 0), (1, 0, 0), (0, -1, 0)),
}
ALL_BUT_BOTTOM = ("east", "west", "north", "south", "top")


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a piece of furniture stands: world = turn @ local + shift."""

    turn: Array
    """(3, 3), its columns are the local axes in the world."""

    shift: Array
    """(3,) [m]."""

    def __call__(self, point: Sequence[float] | Array) -> Array:
        """Brings a local point (3,) to the world."""
        turned: Array = (self.turn * np.asarray(point, np.float64)).sum(1) + self.shift
        return turned

    def then(self, inner: Pose) -> Pose:
        """The pose of something posed inside this one."""
        turn = np.einsum("ij,jk->ik", self.turn, inner.turn)
        return Pose(turn, self(inner.shift))


def pose(x: float, y: float, z: float = 0.0, yaw: float = 0.0, tilt: float = 0.0) -> Pose:
    """Makes a pose: first tilted around the local x axis, then turned around the vertical [rad]."""
    c, s, ct, st = np.cos(yaw), np.sin(yaw), np.cos(tilt), np.sin(tilt)
    turn = np.array([[c, -s * ct, s * st], [s, c * ct, -c * st], [0.0, st, ct]])
    return Pose(turn, np.array([x, y, z]))


HERE = pose(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Quads:
    """N rectangles (or the discs inside them), each seen from its front only."""

    corner: Array
    """(N, 3) [m]"""
    along: Array
    """(N, 3) unit vector of the first edge."""
    across: Array
    """(N, 3) unit vector of the second edge; along x across is the normal."""
    size: Array
    """(N, 2) lengths of the edges [m]."""
    is_disc: NDArray[np.bool_]
    is_shell: NDArray[np.bool_]
    """A face of the room itself: nothing is behind it, so its whole plane may count."""
    casts: NDArray[np.bool_]
    """Whether it throws shadows."""
    material: NDArray[np.intp]
    label: NDArray[np.uint8]

    @property
    def normal(self) -> Array:
        """(N, 3) unit vectors."""
        return np.cross(self.along, self.across)


@dataclass(frozen=True, slots=True)
class Rounds:
    """M ellipsoids and open cylinders."""

    centre: Array
    """(M, 3) [m]"""
    axes: Array
    """(M, 3, 3), rows are the local axes; a cylinder runs along the third."""
    radii: Array
    """(M, 3) half sizes along them [m]."""
    is_cylinder: NDArray[np.bool_]
    casts: NDArray[np.bool_]
    material: NDArray[np.intp]
    label: NDArray[np.uint8]


@dataclass(slots=True)
class Builder:
    """Collects surfaces. `material` is an index into the scene's list, `label` one of NYU-13."""

    _poses: list[Pose] = field(default_factory=list)
    _corners: list[tuple[float, ...]] = field(default_factory=list)
    """Of each rectangle, in its pose: corner, first edge, second edge (9 numbers)."""
    _kinds: list[tuple[bool, bool, bool, int, int]] = field(default_factory=list)
    """is_disc, is_shell, casts, material, label of each rectangle."""
    _rounds: list[tuple[Array, Array, Point, bool, bool, int, int]] = field(default_factory=list)

    def quad(
        self,
        corner: Point,
        along: Point,
        across: Point,
        material: int,
        label: int,
        *,
        at: Pose = HERE,
        casts: bool = True,
        is_disc: bool = False,
        is_shell: bool = False,
    ) -> None:
        """Adds the rectangle corner, corner + along, corner + across in the frame `at` [m].

        It is seen from the side to which along x across points.
        """
        self._poses.append(at)
        self._corners.append((*corner, *along, *across))
        self._kinds.append((is_disc, is_shell, casts, material, label))

    def box(
        self,
        x: Span,
        y: Span,
        z: Span,
        material: int,
        label: int,
        *,
        at: Pose = HERE,
        faces: Sequence[str] = tuple(_FACES),
        casts: bool = True,
    ) -> None:
        """Adds the faces of a box given by its spans in the frame `at` [m]."""
        dx, dy, dz = x[1] - x[0], y[1] - y[0], z[1] - z[0]
        for face in faces:
            (cx, cy, cz), (ux, uy, uz), (vx, vy, vz) = _FACES[face]
            self.quad(
                (x[0] + dx * cx, y[0] + dy * cy, z[0] + dz * cz),
                (dx * ux, dy * uy, dz * uz),
                (dx * vx, dy * vy, dz * vz),
                material,
                label,
                at=at,
                casts=casts,
            )

    def ellipsoid(
        self, centre: Point, radii: Point, material: int, label: int, *, at: Pose = HERE
    ) -> None:
        """Adds an ellipsoid with its axes along those of `at` [m]."""
        self._rounds.append((at(centre), at.turn.T, radii, False, True, material, label))

    def cylinder(
        self,
        centre: Point,
        radius: float,
        z: Span,
        material: int,
        label: int,
        *,
        at: Pose = HERE,
        casts: bool = True,
        top: int | None = None,
    ) -> None:
        """Adds an upright cylinder with its lids; `centre`'s height is ignored, `z` gives both.

        Args:
            centre: a point of the axis, in the frame `at` [m].
            radius: [m].
            z: lower and upper end, in the frame `at` [m].
            material: of the mantle.
            label: of all.
            at: the frame.
            casts: whether it throws shadows.
            top: material of the lids; None: the mantle's.
        """
        middle = at((centre[0], centre[1], (z[0] + z[1]) / 2))
        radii = (radius, radius, (z[1] - z[0]) / 2)
        self._rounds.append((middle, at.turn.T, radii, True, casts, material, label))
        lid = material if top is None else top
        east, north = (2 * radius, 0.0, 0.0), (0.0, 2 * radius, 0.0)
        for height, first, second in ((z[1], east, north), (z[0], north, east)):
            corner = (centre[0] - radius, centre[1] - radius, height)
            self.quad(corner, first, second, lid, label, at=at, casts=casts, is_disc=True)

    def quads(self) -> Quads:
        """All rectangles and discs so far."""
        turn = np.stack([at.turn for at in self._poses])
        shift = np.stack([at.shift for at in self._poses])
        local = np.array(self._corners).reshape(-1, 3, 3)
        world = np.einsum("nij,nkj->nki", turn, local)
        size = np.sqrt((world[:, 1:] ** 2).sum(-1))
        is_disc, is_shell, casts, material, label = zip(*self._kinds, strict=True)
        return Quads(
            world[:, 0] + shift,
            world[:, 1] / size[:, :1],
            world[:, 2] / size[:, 1:],
            size,
            np.array(is_disc, bool),
            np.array(is_shell, bool),
            np.array(casts, bool),
            np.array(material, np.intp),
            np.array(label, np.uint8),
        )

    def rounds(self) -> Rounds:
        """All ellipsoids and cylinders so far."""
        count = len(self._rounds)
        columns = list(zip(*self._rounds, strict=True)) or [()] * 7
        return Rounds(
            np.array(columns[0], np.float64).reshape(count, 3),
            np.array(columns[1], np.float64).reshape(count, 3, 3),
            np.array(columns[2], np.float64).reshape(count, 3),
            np.array(columns[3], bool),
            np.array(columns[4], bool),
            np.array(columns[5], np.intp),
            np.array(columns[6], np.uint8),
        )
