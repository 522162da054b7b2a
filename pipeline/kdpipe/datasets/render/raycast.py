"""Casts a grid of rays at all surfaces: inverse depth and the nearest surface's number.

Along an image, 1/z of a plane is an affine function of column and row, and so are u/z and v/z of a
point in it. So each rectangle costs five affine functions over the few pixels of its bounding box
in the image; a buffer of inverse depth keeps the nearest. Nothing is approximated but by float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kdpipe.datasets.render.camera import Camera, Grid
    from kdpipe.datasets.render.surfaces import Array, Quads, Rounds

NOTHING = 0xFFFF
"""Number of "no surface"."""

_NEAR = 0.02
"""Surfaces nearer than this along the axis are not seen [m]."""

_EDGE = -2e-6
"""Slack of the inside test, so that two faces that share an edge leave no crack."""

_POLYGON = ((0, 1), (1, 2), (2, 3), (3, 0))
_BOX = tuple((i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit)
"""Edges, as pairs of corners; corner i of a box is on the far side of axis k where bit k is set."""

Floats = NDArray[np.float32]


def cast(
    quads: Quads, rounds: Rounds, camera: Camera, grid: Grid, *, casters_only: bool = False
) -> tuple[Floats, NDArray[np.uint16]]:
    """Finds what each ray hits first.

    Returns:
        Inverse depth along the optical axis (rows, columns) [1/m], 0 where nothing is hit, and the
        number of the surface: rectangles first, then ellipsoids and cylinders.
    """
    inverse = np.zeros((grid.rows, grid.columns), np.float32)
    hit = np.full((grid.rows, grid.columns), NOTHING, np.uint16)
    _cast_quads(quads, camera, grid, casters_only, inverse, hit)
    _cast_rounds(rounds, camera, grid, casters_only, inverse, hit, len(quads.corner))
    return inverse, hit


def _cast_quads(
    quads: Quads,
    camera: Camera,
    grid: Grid,
    casters_only: bool,
    inverse: Floats,
    hit: NDArray[np.uint16],
) -> None:
    to_corner = quads.corner - camera.position
    height = (quads.normal * to_corner).sum(1)  # < 0: the camera is in front
    seen = height < -1e-6
    if casters_only:
        seen &= quads.casts
    w = _on_axes(quads.normal, camera) / np.where(seen, height, -1.0)[:, None]
    u = _on_axes(quads.along, camera) - (quads.along * to_corner).sum(1)[:, None] * w
    v = _on_axes(quads.across, camera) - (quads.across * to_corner).sum(1)[:, None] * w
    u /= quads.size[:, :1]
    v /= quads.size[:, 1:]

    edges = quads.size[:, :, None] * np.stack([quads.along, quads.across], 1)
    far = to_corner + edges[:, 0]
    corners = np.stack([to_corner, far, far + edges[:, 1], to_corner + edges[:, 1]], 1)
    boxes = _bounds(_on_axes(corners, camera), _POLYGON, camera, grid)
    seen &= (boxes[:, 0] < boxes[:, 1]) & (boxes[:, 2] < boxes[:, 3])

    x, y = grid.directions(camera)
    planes = np.stack([w, u, v], 1).tolist()
    spans = boxes.tolist()
    is_disc, is_shell = quads.is_disc.tolist(), quads.is_shell.tolist()
    for number in np.flatnonzero(seen).tolist():
        left, right, top, bottom = spans[number]
        rows, columns = slice(top, bottom), slice(left, right)
        xs, ys = x[columns], y[rows, None]
        (w0, w1, w2), (u0, u1, u2), (v0, v1, v2) = planes[number]
        nearer = xs * w1 + (w0 + ys * w2)
        wins = nearer > inverse[rows, columns]
        if not is_shell[number]:  # else the nearest plane is the one that is hit
            inside = xs * u1 + (u0 + ys * u2)
            second = xs * v1 + (v0 + ys * v2)
            if is_disc[number]:
                half = nearer * 0.5
                inside = half * half - (inside - half) ** 2 - (second - half) ** 2
            else:
                np.minimum(inside, nearer - inside, out=inside)
                np.minimum(inside, second, out=inside)
                np.minimum(inside, np.subtract(nearer, second, out=second), out=inside)
            wins &= inside >= _EDGE
        np.copyto(inverse[rows, columns], nearer, where=wins)
        np.copyto(hit[rows, columns], np.uint16(number), where=wins)


def _cast_rounds(
    rounds: Rounds,
    camera: Camera,
    grid: Grid,
    casters_only: bool,
    inverse: Floats,
    hit: NDArray[np.uint16],
    first_number: int,
) -> None:
    x, y = grid.directions(camera)
    signs = np.array([[2.0 * (i >> k & 1) - 1 for k in range(3)] for i in range(8)])
    arms = rounds.axes * rounds.radii[:, :, None]
    offset = rounds.centre - camera.position
    corners = offset[:, None] + np.einsum("sk,mkj->msj", signs, arms)
    boxes = _bounds(_on_axes(corners, camera), _BOX, camera, grid)
    for one, (left, right, top, bottom) in enumerate(boxes.tolist()):
        if left >= right or top >= bottom or (casters_only and not rounds.casts[one]):
            continue
        rows, columns = slice(top, bottom), slice(left, right)
        local = rounds.axes[one] / rounds.radii[one][:, None]
        start = -np.einsum("ij,j->i", local, offset[one])
        slopes = np.einsum("ij,kj->ik", local, camera.axes)
        nearer = _solve(start, slopes, x[columns], y[rows, None], bool(rounds.is_cylinder[one]))
        wins = nearer > inverse[rows, columns]
        np.copyto(inverse[rows, columns], nearer, where=wins)
        np.copyto(hit[rows, columns], np.uint16(first_number + one), where=wins)


def _solve(start: Array, slopes: Array, x: Floats, y: Floats, is_cylinder: bool) -> Floats:
    """1/z of the first hit of the unit sphere (or cylinder, |third| <= 1), 0 for a miss.

    A hit at t solves a t^2 + 2 b t + c = 0; 1/t = (-b + sqrt(b^2 - a c)) / c is the larger root's
    inverse without cancellation. b is affine along the image, and b^2 - a c a quadratic form of
    (1, X, Y).
    """
    used = slice(2 if is_cylinder else 3)
    c = float((start[used] ** 2).sum()) - 1.0
    if c <= 1e-6:  # the camera is inside
        return np.zeros((len(y), len(x)), np.float32)
    along = (start[used, None] * slopes[used]).sum(0)
    form = along[:, None] * along - c * (slopes[used, :, None] * slopes[used, None]).sum(0)
    b0, b1, b2 = along.tolist()
    (f00, f01, f02), (_, f11, f12), (_, _, f22) = form.tolist()
    root = y * (2 * f12) + (x * f11 + 2 * f01)
    root *= x
    root += y * (y * f22 + 2 * f02) + f00
    b = x * b1 + (y * b2 + b0)
    found = root > 0
    found &= b < 0
    np.maximum(root, 0, out=root)
    inverse: Floats = np.sqrt(root, out=root)
    inverse -= b
    inverse *= 1.0 / c
    if is_cylinder:  # |start + ray / inverse| <= 1
        s0, s1, s2 = slopes[2].tolist()
        high = x * s1 + (y * s2 + s0)
        high += inverse * float(start[2])
        found &= np.abs(high, out=high) <= inverse
    found &= inverse < 1 / _NEAR
    inverse *= found
    return inverse


def _on_axes(vectors: Array, camera: Camera) -> Array:
    """Components (..., 3) along forward, right, down."""
    parts: Array = np.einsum("...j,kj->...k", vectors, camera.axes)
    return parts


def _bounds(
    corners: Array, edges: Sequence[tuple[int, int]], camera: Camera, grid: Grid
) -> NDArray[np.intp]:
    """Bounding boxes (N, 4) left, right, top, bottom, in grid steps, ends excluded.

    Args:
        corners: of polygons or polyhedra, (N, C, 3) along forward, right, down [m].
        edges: pairs of corners; they are cut where they come too near.
        camera: gives the projection.
        grid: gives the steps and the limits.
    """
    z = corners[..., 0]
    valid = z > _NEAR
    points = corners
    if not valid.all():
        one, other = ([pair[i] for pair in edges] for i in (0, 1))
        crosses = valid[:, one] != valid[:, other]
        step = np.where(crosses, z[:, other] - z[:, one], 1.0)
        part = ((_NEAR - z[:, one]) / step)[..., None]
        cuts = corners[:, one] + part * (corners[:, other] - corners[:, one])
        points = np.concatenate([corners, cuts], 1)
        valid = np.concatenate([valid, crosses], 1)
    depth = np.where(valid, points[..., 0], 1.0)
    box = np.zeros((len(corners), 4))
    for k, (f, middle) in enumerate(((camera.fx, camera.cx), (camera.fy, camera.cy))):
        at = (points[..., k + 1] / depth * f + middle - grid.first) / grid.step
        box[:, 2 * k] = np.ceil(np.where(valid, at, np.inf).min(1) - 1e-3)
        box[:, 2 * k + 1] = np.floor(np.where(valid, at, -np.inf).max(1) + 1e-3) + 1
    limits = [grid.columns, grid.columns, grid.rows, grid.rows]
    return np.clip(box, 0, limits).astype(np.intp)
