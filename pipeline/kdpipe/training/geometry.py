"""One geometric transform for all that belongs to an image.

Crop, flip, zoom and rotation compose into one affine map; image, truth, the teacher's stored maps,
valid mask and intrinsics all go through that one object, so none can be left behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from kdpipe.store.frame import native_line
from kdpipe.training.resampling import between, extended, gather, taps

if TYPE_CHECKING:
    from kdpipe.types import Depth, Image, Valid

Matrix: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """Focal lengths and principal point [pixels]; a pixel's centre has whole coordinates."""

    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """Where each output pixel lies in the frame, and by what its depth is divided.

    Positions are continuous: pixel i covers [i, i + 1), its centre is i + 0.5. Each method gives a
    new transform whose output is this one's, cropped, flipped and so on.
    """

    frame: tuple[int, int]
    """(H, W) of the frame [pixels]."""

    size: tuple[int, int]
    """(h, w) of the output [pixels]."""

    matrix: Matrix
    """(2, 3): output (x, y, 1) -> frame (x, y)."""

    depth_divisor: float = 1.0
    """What depth and bin centres are divided by."""

    @classmethod
    def identity(cls, height: int, width: int) -> Transform:
        """The frame as it is."""
        return cls((height, width), (height, width), np.eye(2, 3))

    def crop(self, top: float, left: float, height: int, width: int) -> Transform:
        """A window of the output; `top` and `left` may be fractions [pixels]."""
        return self._then(np.array([[1, 0, left], [0, 1, top]], np.float64), (height, width))

    def flip(self) -> Transform:
        """The output mirrored left to right."""
        return self._then(np.array([[-1, 0, self.size[1]], [0, 1, 0]], np.float64), self.size)

    def resize(self, height: int, width: int) -> Transform:
        """The output at another resolution: the focal length changes with it, depth does not."""
        y, x = self.size[0] / height, self.size[1] / width
        return self._then(np.array([[x, 0, 0], [0, y, 0]], np.float64), (height, width))

    def zoom(self, scale: float, *, at_fixed_focal: bool) -> Transform:
        """The output enlarged `scale` times about its centre, cut to the size it had.

        Args:
            scale: > 1 enlarges; below 1 the output reaches beyond what it showed.
            at_fixed_focal: read the result as another picture of the same camera: what looks
                `scale` times larger is `scale` times nearer, so depth and bin centres are divided
                by it. Otherwise the focal length grows and depth stays.
        """
        y, x = (side * (1 - 1 / scale) / 2 for side in self.size)
        zoomed = self._then(np.array([[1 / scale, 0, x], [0, 1 / scale, y]], np.float64), self.size)
        divisor = self.depth_divisor * (scale if at_fixed_focal else 1)
        return replace(zoomed, depth_divisor=divisor)

    def rotate(self, degrees: float) -> Transform:
        """The output turned about its centre, counter-clockwise as seen, at the size it had."""
        turn = math.radians(degrees)
        cos, sin = math.cos(turn), math.sin(turn)
        y, x = self.size[0] / 2, self.size[1] / 2
        step = np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])
        return self._then(step, self.size)

    def _then(self, step: Matrix, size: tuple[int, int]) -> Transform:
        whole = self.matrix @ np.vstack([step, [0, 0, 1]])
        return replace(self, matrix=whole, size=size)

    @property
    def is_rotated(self) -> bool:
        """Whether rows of the output are not rows of the frame."""
        return bool(np.abs(self.matrix[[0, 1], [1, 0]]).max() > 1e-9)

    def positions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Frame positions (x, y) of the output's pixel centres, each (h, w) or broadcastable."""
        y = np.arange(self.size[0])[:, None] + 0.5
        x = np.arange(self.size[1])[None, :] + 0.5
        (a, b, c), (d, e, f) = self.matrix
        if self.is_rotated:
            return a * x + b * y + c, d * x + e * y + f
        return a * x + c, e * y + f

    def inside(self) -> Valid:
        """Output pixels (h, w) whose centre lies in the frame."""
        x, y = self.positions()
        within: Valid = (x >= 0) & (x < self.frame[1]) & (y >= 0) & (y < self.frame[0])
        return within

    def image(self, image: Image) -> torch.Tensor:
        """Moves an image: bilinear, with a low-pass filter where it shrinks; 0 outside the frame.

        Args:
            image: RGB (H, W, 3) of the frame, 0..255.

        Returns:
            float32 (3, h, w) in [0, 1].
        """
        pixels = torch.from_numpy(np.array(image, order="C"))
        return self._moved(pixels).div_(255).clamp_(0, 1).permute(2, 0, 1).contiguous()

    def channels(self, values: torch.Tensor) -> torch.Tensor:
        """Moves smooth values (C, H, W) -> float32 (C, h, w), as `image` does."""
        return self._moved(values.permute(1, 2, 0).contiguous()).permute(2, 0, 1)

    def _moved(self, values: torch.Tensor) -> torch.Tensor:
        """(H, W, C) -> float32 (h, w, C): whole lines are copied, three times as fast."""
        if self.is_rotated:
            return self._turned(values)
        x, y = self.positions()
        rows = taps(y[:, 0], self.frame[0], abs(self.matrix[1, 1]))
        columns = taps(x[0], self.frame[1], abs(self.matrix[0, 0]))
        moved = gather(gather(values, rows, 0), columns, 1)
        inside = self.inside()
        return moved if inside.all() else moved * torch.from_numpy(inside)[..., None]

    def _turned(self, values: torch.Tensor) -> torch.Tensor:
        # Shrink along the frame's axes first, then turn at about one pixel a pixel.
        steps = np.maximum(1.0, np.linalg.norm(self.matrix[:, :2], axis=1))
        height, width = (
            max(1, math.ceil(n / s)) for n, s in zip(self.frame, steps[::-1], strict=True)
        )
        if (height, width) != self.frame:
            values = Transform.identity(*self.frame).resize(height, width)._moved(values)
        values = values.float()
        # A ring beyond the border, so that the outer half of a shrunk pixel is not flat.
        values = extended(extended(values, 0), 1)
        x, y = self.positions()
        column = (2 * (x * width / self.frame[1] + 1) / (width + 2)) - 1
        row = (2 * (y * height / self.frame[0] + 1) / (height + 2)) - 1
        grid = torch.from_numpy(np.stack([column, row], -1).astype(np.float32))
        turned = F.grid_sample(values.permute(2, 0, 1)[None], grid[None], align_corners=False)[0]
        return turned.permute(1, 2, 0) * torch.from_numpy(self.inside())[..., None]

    def truth(self, depth: Depth) -> Depth:
        """Moves measured depth by its nearest pixel: holes stay holes, nothing is made up.

        Args:
            depth: (H, W) [m] of the frame; 0 unknown.

        Returns:
            (h, w) [m]; 0 unknown, also outside the frame.
        """
        x, y = self.positions()
        column = np.clip(np.floor(x), 0, self.frame[1] - 1).astype(np.intp)
        row = np.clip(np.floor(y), 0, self.frame[0] - 1).astype(np.intp)
        moved: Depth = np.where(self.inside(), depth[row, column], np.float32(0))
        return moved / np.float32(self.depth_divisor)

    def stored_depth(self, native: Depth) -> Depth:
        """Moves a teacher's stored depth, straight from its native grid.

        The map in the frame is a function that is piecewise bilinear over the native grid (rule
        `bilinear-align-corners`); it is evaluated at the output's pixel centres, so a window of the
        frame equals that window of the whole map.

        Args:
            native: (h', w') [m] at the teacher's own size, which spans the frame; 0 unknown.

        Returns:
            (h, w) [m]; 0 where the interpolation touches an unknown pixel, or outside the frame.
        """
        x, y = self.positions()
        left, right_share = between(x - 0.5, self.frame[1], native.shape[1])
        top, below_share = between(y - 0.5, self.frame[0], native.shape[0])
        right = np.minimum(left + 1, native.shape[1] - 1)
        below = np.minimum(top + 1, native.shape[0] - 1)
        depth, unknown = np.zeros(self.size), ~self.inside()
        has_holes = bool((native <= 0).any())
        for row, row_share in ((top, 1 - below_share), (below, below_share)):
            for column, column_share in ((left, 1 - right_share), (right, right_share)):
                corner, weight = native[row, column], row_share * column_share
                depth += corner * weight
                if has_holes:
                    unknown |= (corner <= 0) & (weight > 0)
        return np.where(unknown, 0, depth / self.depth_divisor).astype(np.float32)

    def native_places(self, native: tuple[int, int], rule: str) -> Matrix:
        """Where the output's pixels lie on a teacher's native map.

        Args:
            native: (h', w') of the map [pixels].
            rule: of the store, one of store.frame.RULES.

        Returns:
            (2, 3): output (x, y, 1) -> native (x, y), both counted from the first pixel's centre.
        """
        height, width = self.frame
        scale, offset = np.array(
            [native_line(native[1], width, rule), native_line(native[0], height, rule)]
        ).T
        pixels = self.matrix.copy()
        pixels[:, 2] += 0.5 * pixels[:, :2].sum(axis=1) - 0.5
        places: Matrix = scale[:, None] * pixels
        places[:, 2] += offset
        return places

    def centers(self, centers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bin centres [m] that belong to moved probabilities."""
        return centers / np.float32(self.depth_divisor)

    def intrinsics(self, intrinsics: Intrinsics) -> Intrinsics:
        """The camera of the output; at fixed focal length a zoom leaves the focal lengths alone."""
        inverse = np.linalg.inv(np.vstack([self.matrix, [0, 0, 1]]))
        cx, cy, _ = inverse @ [intrinsics.cx + 0.5, intrinsics.cy + 0.5, 1]
        x, y = np.linalg.norm(self.matrix[:, :2], axis=0) * self.depth_divisor
        return Intrinsics(intrinsics.fx / x, intrinsics.fy / y, cx - 0.5, cy - 0.5)
