"""Multi-scale deformable attention in plain PyTorch, and the positions it is told."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]
"""(height, width) of a map."""

_BUDGET = 2**26
"""Sampled values of one level held at once: 256 MiB. More queries are answered in parts."""


class DeformableAttention(nn.Module):
    """Each query reads a few points of each map, and says itself where and with what weight.

    Names in the state dict are those of mmcv's checkpoints.

    Args:
        width: channels of queries, values and output.
        heads: they divide the width.
        levels: maps that are read.
        points: a head reads of each map.

    Reference:
        Zhu et al., "Deformable DETR", ICLR 2021, section 4.1. https://arxiv.org/abs/2010.04159. The
        residual and dropout are the caller's.
    """

    def __init__(self, width: int, *, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._start()

    def forward(
        self, query: Tensor, values: Tensor, references: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """Answers queries from maps.

        Args:
            query: (B, Q, C), with what tells them their positions.
            values: (B, S, C), the maps' pixels row by row, one map after the other.
            references: (B or 1, Q, 2), the points (x, y) that the queries look around; 0 and 1 are
                the maps' outer edges.
            sizes: of the maps; their areas sum to S.

        Returns:
            (B, Q, C).
        """
        batch, count, width = query.shape
        references = references.expand(batch, -1, -1)
        projected = self.value_proj(values)
        maps = [
            # (B * heads, C / heads, h, w)
            part.transpose(1, 2).reshape(batch * self.heads, width // self.heads, *size)
            for part, size in zip(
                torch.split(projected, [h * w for h, w in sizes], dim=1), sizes, strict=True
            )
        ]
        step = max(1, _BUDGET // (batch * width * self.points))
        answers = [
            self._answer(query[:, i : i + step], maps, references[:, i : i + step])
            for i in range(0, count, step)
        ]
        out: Tensor = self.output_proj(torch.cat(answers, dim=1))
        return out

    def _answer(self, query: Tensor, maps: Sequence[Tensor], references: Tensor) -> Tensor:
        batch, count, width = query.shape
        # Queries last, so that what follows runs along them; points come first.
        shape = (batch, self.heads, self.levels, self.points)
        offsets = _transposed(self.sampling_offsets, query).view(*shape, 2, count)
        offsets = offsets.permute(2, 0, 1, 3, 5, 4)  # (levels, B, heads, points, Q, 2)
        weights = _transposed(self.attention_weights, query).view(batch, self.heads, -1, count)
        weights = weights.softmax(dim=2).view(*shape, count).flatten(0, 1)
        around = (2 * references - 1)[:, None, None]  # grid_sample counts from -1 to 1
        answer = query.new_zeros(batch * self.heads, width // self.heads, count)
        for level, values in enumerate(maps):
            # Offsets are in pixels of their map.
            scale = query.new_tensor([2 / values.shape[-1], 2 / values.shape[-2]])
            grid = torch.addcmul(around, offsets[level], scale).flatten(0, 1)
            sampled = F.grid_sample(
                values, grid, mode="bilinear", padding_mode="zeros", align_corners=False
            )  # (B * heads, C / heads, points, Q)
            answer = answer + (sampled * weights[:, None, level]).sum(dim=2)
        return answer.view(batch, width, count).transpose(1, 2)

    def _start(self) -> None:
        """As published: heads look in directions all around, their points further and further."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        towards = torch.stack([angles.cos(), angles.sin()], dim=-1)
        towards = towards / towards.abs().amax(dim=-1, keepdim=True)
        far = torch.arange(1, self.points + 1)
        places = towards[:, None, None] * far[:, None]  # (heads, 1, points, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(places.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def _transposed(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer over (B, Q, C), as (B, outputs, Q)."""
    return torch.baddbmm(
        layer.bias[:, None], layer.weight.expand(len(x), -1, -1), x.transpose(1, 2)
    )


def sine_positions(size: Size, width: int, like: Tensor) -> Tensor:
    """Sine code of each pixel's row and column, counted from 1, as (h * w, width), row by row.

    The first half of the channels tells the row, the second the column; sine and cosine alternate.

    Args:
        size: of the map.
        width: a multiple of 4.
        like: gives device and type.

    Reference:
        Carion et al., "End-to-End Object Detection with Transformers", section A.4.
        https://arxiv.org/abs/2005.12872. Positions are not scaled to the map's size.
    """
    height, columns = size
    half = width // 2
    pair = torch.arange(half, device=like.device) // 2
    periods = 10000 ** (2 * pair.to(like.dtype) / half)
    codes = []
    for count in (height, columns):
        place = torch.arange(1, count + 1, device=like.device, dtype=like.dtype)
        angle = place[:, None] / periods
        codes.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1))
    down = codes[0][:, None].expand(-1, columns, -1)
    across = codes[1][None].expand(height, -1, -1)
    return torch.cat([down, across], dim=2).flatten(0, 1)


def pixel_centres(size: Size, like: Tensor) -> Tensor:
    """Centres (x, y) of a map's pixels, 0 and 1 being its outer edges, as (h * w, 2)."""
    height, width = size
    y, x = (
        (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count
        for count in (height, width)
    )
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=-1).flatten(0, 1)
