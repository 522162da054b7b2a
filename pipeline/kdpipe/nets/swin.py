"""Swin Transformer as an image encoder: four maps from 1/4 to 1/32, of inputs of any size.

Names in the state dict are those of mmcv's checkpoints, so these load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 4
"""Side of a token's patch [pixels]."""

_APART = -100.0
"""Added to the logits of two tokens that only the shift brought into one window."""


class DropPath(nn.Module):
    """Leaves a residual branch out while training, each image by itself.

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", https://arxiv.org/abs/1603.09382
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same shape; the mean over many passes is unchanged."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty((len(x), *[1] * (x.ndim - 1))).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of a window, with a learned bias a relative position.

    Published state dicts hold `relative_position_index`; it is a constant, and what a checkpoint
    says of it is not read.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_positions(window))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, apart: Tensor | None) -> Tensor:
        """Windows (B, N, T, C), and logits to add (N, T, T) or none -> (B, N, T, C)."""
        batch, windows, tokens, width = x.shape
        split = self.qkv(x).view(batch, windows, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(tokens, tokens, self.heads).permute(2, 0, 1)  # (heads, T, T)
        if apart is not None:
            bias = bias + apart[:, None]
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + bias
        mixed = (logits.softmax(dim=-1) @ value).transpose(2, 3).flatten(3)
        out: Tensor = self.proj(mixed)
        return out

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        name = f"{prefix}relative_position_index"
        if name in state_dict:
            state_dict = {**state_dict, name: self.relative_position_index}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class ShiftedWindows(nn.Module):
    """Cuts a map into windows, after a shift or none, and lets the tokens of each attend."""

    def __init__(self, width: int, *, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.w_msa = WindowAttention(width, heads=heads, window=window)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape; zeros fill the last windows, right and below."""
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, self.window)
        batch, padded_height, padded_width, channels = x.shape
        apart = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
            apart = self._apart(padded_height, padded_width, x)
        mixed: Tensor = self.w_msa(cut_windows(x, self.window), apart)
        rows, columns = padded_height // self.window, padded_width // self.window
        x = mixed.view(batch, rows, columns, self.window, self.window, channels)
        x = x.transpose(2, 3).reshape(batch, padded_height, padded_width, channels)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]

    def _apart(self, height: int, width: int, like: Tensor) -> Tensor:
        """Logits to add (N, T, T): after the shift the last windows hold tokens of two borders."""
        rows, columns = (
            torch.arange(size, device=like.device).ge(size - self.window).long()
            + torch.arange(size, device=like.device).ge(size - self.shift).long()
            for size in (height, width)
        )
        parts = (3 * rows[:, None] + columns).view(1, height, width, 1)
        part = cut_windows(parts, self.window)[0, :, :, 0]
        differ = part[:, :, None] != part[:, None, :]
        return like.new_zeros(differ.shape).masked_fill(differ, _APART)


class FeedForward(nn.Module):
    """Two linear layers with GELU between, a token at a time."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(width, hidden), nn.GELU())
        self.layers = nn.Sequential(first, nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same shape."""
        out: Tensor = self.layers(x)
        return out


class SwinBlock(nn.Module):
    """Window attention, then a feed-forward network, each normed first and added."""

    def __init__(
        self, width: int, *, heads: int, window: int, shift: int, hidden: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = ShiftedWindows(width, heads=heads, window=window, shift=shift)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = FeedForward(width, hidden)
        self._drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        x = x + self._drop(self.attn(self.norm1(x)))
        out: Tensor = x + self._drop(self.ffn(self.norm2(x)))
        return out


class PatchEmbedding(nn.Module):
    """Patches of 4x4 pixels as tokens; zeros fill the last ones, right and below."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H / 4, W / 4, C), rounded up."""
        padded = pad_to_multiple(image.permute(0, 2, 3, 1), PATCH).permute(0, 3, 1, 2)
        tokens: Tensor = self.norm(self.projection(padded).permute(0, 2, 3, 1))
        return tokens


class PatchMerging(nn.Module):
    """Four neighbours into one token of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H / 2, W / 2, 2 C), rounded up."""
        x = pad_to_multiple(x, 2)
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, channels)
        # mmcv's order: all four neighbours of the first channel, then of the second. The original
        # Swin has the neighbours outside, so its weights would have to be reordered.
        merged: Tensor = self.reduction(self.norm(x.permute(0, 1, 3, 5, 2, 4).flatten(3)))
        return merged


class SwinStage(nn.Module):
    """Blocks of one width; every other one shifts its windows by half their side."""

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        window: int,
        hidden: int,
        drop_paths: Sequence[float],
        is_last: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(
                width,
                heads=heads,
                window=window,
                shift=window // 2 if number % 2 else 0,
                hidden=hidden,
                drop_path=rate,
            )
            for number, rate in enumerate(drop_paths)
        )
        self.downsample = None if is_last else PatchMerging(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) -> the same shape, and what goes to the next stage."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.downsample is None else self.downsample(x)


_TIMM: dict[tuple[int, tuple[int, ...], int], str] = {
    (96, (2, 2, 6, 2), 7): "swin_tiny_patch4_window7_224.ms_in1k",
    (192, (2, 2, 18, 2), 7): "swin_large_patch4_window7_224.ms_in22k",
}
"""Width, depths and window -> where Depthformer starts from, as timm calls it."""


class SwinPyramid(nn.Module):
    """A Swin Transformer without its classifier: maps at 1/4, 1/8, 1/16 and 1/32, each normed.

    Args:
        width: channels at 1/4; each stage doubles them.
        depths: blocks of the four stages.
        heads: of the four stages' attention; they divide the stages' widths.
        window: side of a window [tokens].
        feed_forward_ratio: hidden width of the feed-forward networks, over the stage's width.
        drop_path: rate of stochastic depth in the last block; it rises linearly from 0.

    Reference:
        Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV
        2021. https://arxiv.org/abs/2103.14030. Here, as in mmcv, windows larger than the map stay
        as they are: the map is filled up with zeros, and shifted too.
    """

    def __init__(
        self,
        width: int,
        *,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        feed_forward_ratio: int = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels = tuple(width * 2**number for number in range(len(depths)))
        """Of the maps, finest first."""

        count = sum(depths)
        rates = [drop_path * number / max(1, count - 1) for number in range(count)]
        if name := _TIMM.get((width, tuple(depths), window)):
            self.timm_name = name
        self.patch_embed = PatchEmbedding(width)
        self.stages = nn.ModuleList()
        for number, (channels, depth) in enumerate(zip(self.channels, depths, strict=True)):
            start = sum(depths[:number])
            self.stages.append(
                SwinStage(
                    channels,
                    heads=heads[number],
                    window=window,
                    hidden=feed_forward_ratio * channels,
                    drop_paths=rates[start : start + depth],
                    is_last=number == len(depths) - 1,
                )
            )
        for number, channels in enumerate(self.channels):
            self.add_module(f"norm{number}", nn.LayerNorm(channels))
        self.apply(_start)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> maps (B, C, h, w), finest first; sizes round up."""
        x = self.patch_embed(image)
        maps: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            out, x = stage(x)
            maps.append(self.get_submodule(f"norm{number}")(out).permute(0, 3, 1, 2).contiguous())
        return maps


def pad_to_multiple(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) with zeros at the right and below, until `side` divides both sides."""
    height, width = x.shape[1:3]
    down, right = -height % side, -width % side
    return F.pad(x, (0, 0, 0, right, 0, down)) if down or right else x


def cut_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C), H and W multiples of `window` -> (B, N, window * window, C), row by row."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(batch, -1, window * window, channels)


def _relative_positions(window: int) -> Tensor:
    """Of each pair of a window's tokens, the row of the bias table (T, T)."""
    steps = torch.arange(window)
    # Row major: a step down is as far as all steps across, of which there are 2 * window - 1.
    place = (steps[:, None] * (2 * window - 1) + steps).flatten()
    return place[:, None] - place[None, :] + 2 * window * (window - 1)


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
