"""The decoder of Hu et al.'s networks: four maps joined at half size, then refined to one channel.

Names in the state dict are the published ones: a network holds the parts as `MFF` and `R`.

Reference:
    Hu et al., "Revisiting Single Image Depth Estimation", https://arxiv.org/abs/1803.08673, section
    3, and "Boosting LightWeight Depth Estimation Via Knowledge Distillation",
    https://arxiv.org/abs/2105.06143, which adds the attention over channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SQUEEZE = 16
"""The attention has this part of a map's channels in the middle."""


class _Reduce(nn.Module):
    """5x5 convolution, batch norm, ReLU, and only then the resize: less to convolve."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, out)
        self.bn1 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return _resize(F.relu(self.bn1(self.conv1(x))), size)


class MultiScaleFusion(nn.Module):
    """Weighs each map's channels, brings all maps to twice the finest one's size and joins them.

    Args:
        channels: of the encoder's maps, finest first.
        width: channels that each map keeps; `len(channels) * width` come out.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self._count = len(channels)
        for number, count in enumerate(channels, 1):
            self.add_module(f"att{number}", _attention(count))
        for number, count in enumerate(channels, 1):
            self.add_module(f"up{number}", _Reduce(count, width))
        self.conv = _conv(self._count * width, self._count * width)
        self.bn = nn.BatchNorm2d(self._count * width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, finest first (B, ., h, w) -> (B, len(maps) * width, 2h, 2w)."""
        size = (2 * maps[0].shape[-2], 2 * maps[0].shape[-1])
        joined = []
        for number, x in enumerate(maps, 1):
            weight = self.get_submodule(f"att{number}")(x)
            joined.append(self.get_submodule(f"up{number}")(weight * x, size))
        return F.relu(self.bn(self.conv(torch.cat(joined, dim=1))))


class Refinement(nn.Module):
    """Two 5x5 convolutions to one channel, resized to the output; no activation at the end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = _conv(channels, channels)
        self.bn0 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, 1, 5, padding=2)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, channels, ., .) -> (B, 1, *size); may be negative."""
        return _resize(self.conv2(F.relu(self.bn0(self.conv0(x)))), size)


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 5, padding=2, bias=False)


def _attention(channels: int) -> nn.Sequential:
    squeezed = max(1, channels // _SQUEEZE)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(channels, squeezed, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(squeezed, channels, 1, bias=False),
        nn.Sigmoid(),
    )


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=True)
