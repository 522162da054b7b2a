"""Losses on bins: a teacher's own distribution over them, and where AdaBins' lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from kdpipe.losses.fused import chunk_on, with_gradient

_EPSILON = 1e-7

Where: TypeAlias = tuple[slice, slice] | tuple[Tensor, Tensor]
"""Rows and columns of cells: a block of them, or an index of each."""


class TeacherBins(Protocol):
    """A batch of a teacher's distributions, at the cells of its native maps or windows of them."""

    @property
    def count(self) -> int:
        """K, of the teacher's bins."""

    def places(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Rows and columns, fractions of cells, (B, h, w) each, of the pixels of a map (h, w)."""

    def cells(self, image: int, where: Where) -> tuple[Tensor, Tensor]:
        """Probabilities (K, ...) of cells, up to a factor, and centers (K,) or (K, ...) [m]."""


Mixture: TypeAlias = Sequence[tuple[float, TeacherBins]]
"""Several teachers' distributions of the same pixels, each with its share; the shares sum to 1."""


def project(probabilities: Tensor, theirs: Tensor, centers: Tensor) -> Tensor:
    """Moves distributions to other bins and keeps their mean.

    The mass p of a center t between neighbours a <= t <= b is split linearly:

        p * (b - t) / (b - a)  to a,   p * (t - a) / (b - a)  to b

    so a and b together have its mass and its mean. Mass before the first or behind the last center
    goes there: the range has no more.

    Args:
        probabilities: (K, ...), not negative.
        theirs: their centers [m], in any order: (K,), or (K, ...) where each cell has its own.
        centers: mid-points of the new bins (N,) [m], rising, at least two.

    Returns:
        (N, ...), whose sum over N is that of `probabilities` over K.
    """
    above = torch.searchsorted(centers, theirs.contiguous()).clamp_(1, len(centers) - 1)
    low, high = centers[above - 1], centers[above]
    share = ((theirs - low) / (high - low)).clamp_(0, 1)  # of the upper neighbour
    if theirs.ndim == 1:
        column = torch.arange(len(theirs), device=theirs.device)
        places = torch.stack([torch.cat([above - 1, above]), column.repeat(2)])
        shape = (len(centers), len(theirs))
        split = torch.sparse_coo_tensor(
            places, torch.cat([1 - share, share]), shape, check_invariants=False
        )
        if split.device.type != "cpu":  # two numbers a column: a fifth of the time on a CPU only
            split = split.to_dense()
        moved = split @ probabilities.reshape(len(theirs), -1)
        return moved.view(-1, *probabilities.shape[1:])
    moved = probabilities.new_zeros(len(centers), *probabilities.shape[1:])
    upper = share.mul_(probabilities)
    moved.scatter_add_(0, above, upper)
    return moved.scatter_add_(0, above.sub_(1), probabilities - upper)


def bins_loss(
    probabilities: Tensor,
    centers: Tensor,
    teacher: TeacherBins | Mixture,
    known: Tensor | None = None,
) -> Tensor:
    """How far a student's bins are from the teacher's own distribution.

        mean over pixels of  sum_i q_i * ln(q_i / (s_i + 1e-7))

    Kullback-Leibler divergence, teacher against student. q is the teacher's distribution at its
    native cells, moved to the student's bins by `project`, then interpolated bilinearly: so the
    mean of q is the interpolated mean of the cells, and codes and centers are never interpolated.
    Bilinearly whatever rule the store has for depth: a bicubic mixture may be negative.

    Expansion, projection and gradient are made chunk by chunk: beside `probabilities` only one
    tensor of their size exists.

    Args:
        probabilities: the student's s (B, N, H, W), at any size.
        centers: mid-points of the student's bins (N,) [m], rising.
        teacher: its bins, or those of several: q is then the mixture of what each of them gives.
        known: pixels that count (B, ., .), bool, or their weights in [0, 1]; of another size than
            s where its corners are the same, and a pixel of s then counts if all known ones about
            it do. None: all.

    Returns:
        A scalar; 0 where no pixel counts.

    Reference:
        Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015,
        https://arxiv.org/abs/1503.02531, matches distributions; the projection is equation 7 of
        Bellemare, Dabney, Munos, "A Distributional Perspective on Reinforcement Learning", 2017,
        https://arxiv.org/abs/1707.06887, for centers of any distance.
    """
    b, _, h, w = probabilities.shape
    weight = torch.ones(b, h, w, device=probabilities.device) if known is None else known.float()
    if known is not None and known.shape[-2:] != (h, w):
        counts = _resized((known > 0).float(), (h, w)) > 1 - 1e-4
        weight = _resized(weight, (h, w)) * counts if known.is_floating_point() else counts.float()
    work = partial(_summed, centers=centers.float(), mixture=_mixture(teacher), weight=weight)
    return with_gradient(probabilities.float(), work)


def _moved(
    teacher: TeacherBins,
    image: int,
    places: tuple[Tensor, Tensor],
    box: tuple[int, int, int, int],
    centers: Tensor,
) -> Tensor:
    """q (N, h, w) at places (h, w) of one image, which lie within first and last row and column."""
    rows, columns = places
    first_row, last_row, first_column, last_column = box
    if (last_row - first_row + 1) * (last_column - first_column + 1) <= 4 * rows.numel():
        block = slice(first_row, last_row + 1), slice(first_column, last_column + 1)
        q = _normalised(project(*teacher.cells(image, block), centers))
        x = 2 * (columns - first_column) / max(1, last_column - first_column) - 1
        y = 2 * (rows - first_row) / max(1, last_row - first_row) - 1
        grid = torch.stack([x, y], dim=-1)[None].float()
        return F.grid_sample(q[None], grid, padding_mode="border", align_corners=True)[0]
    # Cells finer than the student's pixels: expand only those that a pixel lies between.
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top).float(), (columns - left).float()
    above, before, below, behind = (e.long() for e in (top, left, rows.ceil(), columns.ceil()))
    corners = (torch.stack([above, above, below, below]), torch.stack([before, behind] * 2))
    shares = [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
    q = _normalised(project(*teacher.cells(image, corners), centers))
    return q.mul_(torch.stack(shares)).sum(dim=1)


def _normalised(masses: Tensor) -> Tensor:
    return masses.div_(masses.sum(dim=0, keepdim=True).clamp_(min=1e-20))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=True)[:, 0]


def _mixture(teacher: TeacherBins | Mixture) -> Mixture:
    return teacher if isinstance(teacher, Sequence) else [(1.0, teacher)]


class _Placed:
    """A teacher's cells, and where the student's pixels lie among them."""

    def __init__(self, share: float, teacher: TeacherBins, size: tuple[int, int]) -> None:
        self.share = share
        self.teacher = teacher
        self.rows, self.columns = teacher.places(size)
        self.ends = [end for place in (self.rows, self.columns) for end in place.aminmax(dim=-1)]
        """Where each line of pixels begins and ends among the cells."""

    def moved(
        self, image: int, lines: slice, ends: Sequence[Sequence[float]], centers: Tensor
    ) -> Tensor:
        """q (N, lines, w) of some lines of an image, times the share."""
        tops, bottoms, lefts, rights = ends
        top, left = math.floor(min(tops)), math.floor(min(lefts))
        box = (top, math.ceil(max(bottoms)), left, math.ceil(max(rights)))
        places = self.rows[image, lines], self.columns[image, lines]
        q = _moved(self.teacher, image, places, box, centers)
        return q if self.share == 1 else q.mul_(self.share)


def _summed(
    probabilities: Tensor, wanted: bool, *, centers: Tensor, mixture: Mixture, weight: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The sum over chunks, and its gradient with respect to the probabilities."""
    b, n, h, w = probabilities.shape
    chunk = chunk_on(probabilities.device)
    most = max(n, *(teacher.count for _, teacher in mixture))
    lines = max(1, chunk // (most * w))
    scale = weight / weight.sum().clamp(min=1)
    placed = [_Placed(share, teacher, (h, w)) for share, teacher in mixture]
    # Of each line, told by the device in one go.
    ends = [end for one in placed for end in one.ends]
    told = torch.stack([weight.amax(dim=-1), *ends], dim=-1).tolist()
    gradient = torch.empty_like(probabilities) if wanted else None
    total = torch.zeros((), dtype=torch.float64, device=probabilities.device)
    for image in range(b):
        for first in range(0, h, lines):
            part = (image, slice(first, first + lines))
            counts, *ends_here = zip(*told[image][part[1]], strict=True)
            if not any(counts):
                if gradient is not None:
                    gradient[image, :, part[1]] = 0
                continue
            q = placed[0].moved(*part, ends_here[:4], centers)
            for place, one in enumerate(placed[1:], start=1):
                q.add_(one.moved(*part, ends_here[4 * place : 4 * place + 4], centers))
            q = q.flatten(1).t().contiguous().view(*q.shape[1:], n)  # as students have them
            share = scale[part][..., None]
            ratio = probabilities[image].movedim(0, -1)[part[1]] + _EPSILON
            torch.div(q, ratio, out=ratio)
            if gradient is not None:
                torch.mul(ratio, -share, out=gradient[image].movedim(0, -1)[part[1]])
            logarithm = ratio.clamp_(min=1e-30).log_()  # of no mass: finite, and times 0
            total += q.mul_(logarithm).sum(dim=-1).mul_(scale[part]).sum()
    return total.to(probabilities.dtype), gradient


def chamfer(centers: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Squared Chamfer distance between an image's bin centers and its measured depths, both ways.

        mean_c min_t (c - t)**2  +  mean_t min_c (t - c)**2,   the mean over images

    On a line the nearest neighbour is one of two in sorted order: exact, O(P log P), and no table
    of P x N distances.

    Args:
        centers: (B, N) [m].
        truth: measured depth (B, H, W) [m].
        valid: pixels that count (B, H, W), bool; an image without any adds 0.

    Returns:
        A scalar [m^2].

    Reference:
        Bhat et al., "AdaBins", https://arxiv.org/abs/2011.14141, equation 6; AdaBins counts
        pixels of at least 1e-3 m and weighs this loss with 0.1.
    """
    total = centers.float().sum() * 0
    for points, chosen, pixels in zip(centers.float(), valid, truth.float(), strict=True):
        depths = pixels[chosen]
        if depths.numel() == 0:
            continue
        ordered, _ = points.sort()
        with torch.no_grad():
            depths, _ = depths.sort()
            nearest_depth = _nearest(ordered, depths)
            nearest_center = _nearest(depths, ordered)
        total = total + (ordered - depths[nearest_depth]).square().mean()
        total = total + (depths - ordered[nearest_center]).square().mean()
    return total / len(centers)


def _nearest(of: Tensor, among: Tensor) -> Tensor:
    """Index of the element of `among`, sorted, that is nearest to each element of `of`."""
    above = torch.searchsorted(among, of.contiguous()).clamp(max=len(among) - 1)
    below = (above - 1).clamp(min=0)
    return torch.where((of - among[below]).abs() <= (among[above] - of).abs(), below, above)
