"""Casts a grid of rays at all surfaces: inverse depth and the nearest surface's number.

Along an image, 1/z of a plane is an affine function of column and row, and so are u/z and v/z of a
point in it. So each rectangle costs five affine functions over the few pixels of its bounding box
in the image; a buffer of inverse depth keeps the nearest. Nothing is approximated but by float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdpipe.datasets.render.camera import Camera, Grid
from kdpipe.datasets.render.surfaces import Array, Quads, Rounds

NOTHING = 0xFFFF
"""Number of "no surface"."""

_NEAR = 0.02
"""Surfaces nearer than this along the axis are not seen [m]."""

_EDGE = -2e-6
"""Slack of the inside test, so that two faces that share an edge leave no crack."""

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
    boxes = _bounds(_on_axes(corners, camera), camera, grid)
    seen &= (boxes[:, 0] < boxes[:, 1]) & (boxes[:, 2] < boxes[:, 3])

    x, y = grid.directions(camera)
    planes = np.stack([w, u, v], 1).tolist()
    spans = boxes.tolist()
    discs = quads.is_disc.tolist()
    for number in np.flatnonzero(seen).tolist():
        left, right, top, bottom = spans[number]
        rows, columns = slice(top, bottom), slice(left, right)
        xs, ys = x[columns], y[rows, None]
        (w0, w1, w2), (u0, u1, u2), (v0, v1, v2) = planes[number]
        nearer = xs * w1 + (w0 + ys * w2)
        first = xs * u1 + (u0 + ys * u2)
        second = xs * v1 + (v0 + ys * v2)
        if discs[number]:
            half = nearer * 0.5
            inside = half * half - (first - half) ** 2 - (second - half) ** 2
        else:
            inside = np.minimum(first, nearer - first)
            np.minimum(inside, second, out=inside)
            np.minimum(inside, nearer - second, out=inside)
        wins = inside >= _EDGE
        wins &= nearer > inverse[rows, columns]
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
    signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], np.float64)
    arms = rounds.axes * rounds.radii[:, :, None]
    offset = rounds.centre - camera.position
    corners = offset[:, None] + np.einsum("sk,mkj->msj", signs, arms)
    boxes = _bounds(_on_axes(corners, camera), camera, grid, closed=False)
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
    """1/z of the first hit of the unit sphere (or cylinder, |third| <= 1), 0 for a miss."""
    ray = [s1 * x + (s0 + s2 * y) for s0, s1, s2 in slopes.tolist()]
    used = range(2 if is_cylinder else 3)
    c = float(sum(start[i] ** 2 for i in used)) - 1.0
    if c <= 1e-6:  # the camera is inside
        return np.zeros_like(ray[0])
    a, b = np.zeros_like(ray[0]), np.zeros_like(ray[0])
    for i in used:
        a += ray[i] * ray[i]
        b += ray[i] * float(start[i])
    root = b * b - a * c
    found = (root > 0) & (b < 0)
    inverse: Floats = (np.sqrt(np.maximum(root, 0)) - b) * (1.0 / c)
    if is_cylinder:  # |start + ray / inverse| <= 1
        found &= np.abs(float(start[2]) * inverse + ray[2]) <= inverse
    found &= inverse < 1 / _NEAR
    inverse[~found] = 0
    return inverse


def _on_axes(vectors: Array, camera: Camera) -> Array:
    """Components (..., 3) along forward, right, down."""
    parts: Array = np.einsum("...j,kj->...k", vectors, camera.axes)
    return parts


def _bounds(corners: Array, camera: Camera, grid: Grid, *, closed: bool = True) -> NDArray[np.intp]:
    """Bounding boxes (N, 4) left, right, top, bottom, in grid steps, ends excluded.

    Args:
        corners: (N, C, 3) along forward, right, down [m].
        camera: gives the projection.
        grid: gives the steps and the limits.
        closed: the corners are a polygon's, in order, and it is clipped where it comes too near;
            else all that comes too near gets the whole grid.
    """
    z = corners[..., 0]
    front = z > _NEAR
    points, valid = corners, front
    if closed and not front.all():
        after = np.roll(corners, -1, 1)
        crosses = front != np.roll(front, -1, 1)
        step = np.where(crosses, after[..., 0] - z, 1.0)
        part = ((_NEAR - z) / step)[..., None]
        points = np.concatenate([corners, corners + part * (after - corners)], 1)
        valid = np.concatenate([front, crosses], 1)
    depth = np.where(valid, points[..., 0], 1.0)
    column = (points[..., 1] / depth * camera.fx + camera.cx - grid.first) / grid.step
    row = (points[..., 2] / depth * camera.fy + camera.cy - grid.first) / grid.step
    box = np.stack(
        [
            np.where(valid, column, np.inf).min(1),
            np.where(valid, column, -np.inf).max(1) + 1,
            np.where(valid, row, np.inf).min(1),
            np.where(valid, row, -np.inf).max(1) + 1,
        ],
        1,
    )
    limits = np.array([grid.columns, grid.columns, grid.rows, grid.rows])
    if not closed:
        near = ~front.all(1) & front.any(1)
        box[near] = [0, grid.columns, 0, grid.rows]
    box[~valid.any(1)] = 0
    box[:, 0::2] = np.ceil(box[:, 0::2] - 1e-3)
    box[:, 1::2] = np.floor(box[:, 1::2] + 1e-3)
    return np.clip(box, 0, limits).astype(np.intp)
