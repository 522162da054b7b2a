"""Depthformer: Swin and a convolution stem, mixed by deformable attention; depth without bins.

With a card's default `network:` this is the published Swin-L network, and its state dict has the
names and shapes of the published files, as mmcv writes them. Smaller ones keep the names.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.errors import CardError
from kdpipe.nets.deformable import DeformableAttention, pixel_centres, sine_positions
from kdpipe.nets.encoders import Normalise
from kdpipe.nets.swin import SwinPyramid
from kdpipe.strict import build as build_checked
from kdpipe.teachers.base import Teacher, TeacherOutput, resize

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard

RENAMES: tuple[tuple[str, str], ...] = ()
"""Published names are ours."""

_LEVELS = 4
"""Maps of the Swin Transformer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A card's `network:`; the defaults are the published Swin-L network's."""

    width: int = 192
    """Channels of Swin at 1/4; each stage doubles them."""

    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    """Swin's blocks of each stage."""

    heads: tuple[int, int, int, int] = (6, 12, 24, 48)
    """Of each stage's attention."""

    window: int = 7
    """Side of an attention window [tokens of 4x4 pixels at the first stage]."""

    feed_forward_ratio: int = 4
    """Hidden width of Swin's feed-forward networks, over their stage's width."""

    drop_path: float = 0.3
    """Rate of stochastic depth in Swin's last block, while training."""

    stem: int = 64
    """Channels of the convolution branch, at 1/2."""

    neck: int = 512
    """Channels in which the maps meet."""

    neck_heads: int = 8
    neck_points: int = 8
    """Points a head reads of each map."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if name != "drop_path" and min(numbers) < 1:
                raise CardError(f"network: {name} must be at least 1, got {value}")
        if not 0 <= self.drop_path < 1:
            raise CardError(f"network: drop_path must be in [0, 1), got {self.drop_path:g}")
        for number, heads in enumerate(self.heads):
            if self.width * 2**number % heads:
                raise CardError(
                    f"network: heads must divide the stages' widths, got {heads} for "
                    f"{self.width * 2**number}"
                )
        if self.neck % 4:  # a sine and a cosine for two axes
            raise CardError(f"network: neck must be a multiple of 4, got {self.neck}")
        if self.neck % self.neck_heads:
            raise CardError(
                f"network: neck must be a multiple of neck_heads, got {self.neck} and "
                f"{self.neck_heads}"
            )


@dataclass(frozen=True, slots=True)
class DepthformerOutput:
    """What the network gives, with gradients while it trains."""

    depth: Tensor
    """(B, h, w) [m], half the input's size, rounded up: at least the card's min_depth, without a
    largest."""

    probabilities: None = None
    centers: Tensor = field(default_factory=lambda: torch.empty(0))
    """(0,): there are no bins."""


class ConvBlock(nn.Module):
    """Convolution, and what its flags name; mmcv's names."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, norm: bool = False, leaky: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(outputs) if norm else None
        self._leaky = leaky
        # Without it a signal fades in the decoder, which has no norms, and the last bias decides.
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="leaky_relu" if leaky else "relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w); with a norm, after ReLU."""
        x = self.conv(x)
        if self.bn is not None:
            x = F.relu(self.bn(x))
        return F.leaky_relu(x) if self._leaky else x


class Backbone(SwinPyramid):
    """Swin's four maps, and before them a map at 1/2 of one convolution that keeps details."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(
            sizes.width,
            depths=sizes.depths,
            heads=sizes.heads,
            window=sizes.window,
            feed_forward_ratio=sizes.feed_forward_ratio,
            drop_path=sizes.drop_path,
        )
        self.channels = (sizes.stem, *self.channels)
        self.conv1 = nn.Conv2d(3, sizes.stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(sizes.stem)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> five maps at 1/2 to 1/32; sizes round up."""
        return [F.relu(self.bn1(self.conv1(image))), *super().forward(image)]


class Neck(nn.Module):
    """Hierarchical aggregation and heterogeneous interaction (HAHI): five maps mixed, sizes kept.

    Swin's maps attend to each other; then the stem's map attends to what they became.
    """

    def __init__(self, channels: tuple[int, ...], width: int, *, heads: int, points: int) -> None:
        super().__init__()
        stem, *swin = channels
        self.level_embed = nn.Parameter(torch.randn(_LEVELS, width))
        self.lateral_convs = nn.ModuleList(ConvBlock(c, c, 1, norm=True) for c in channels)
        self.trans_proj = nn.ModuleList(ConvBlock(c, width, 1, norm=True) for c in swin)
        self.trans_fusion = nn.ModuleList(ConvBlock(c + width, c, 3, norm=True) for c in swin)
        self.conv_proj = nn.ModuleList([ConvBlock(stem, width, 1, norm=True)])
        self.conv_fusion = nn.ModuleList([ConvBlock(stem + width, stem, 3, norm=True)])
        self.reference_points = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)
        self.multi_att = DeformableAttention(width, heads=heads, levels=_LEVELS, points=points)
        self.self_attn = DeformableAttention(width, heads=heads, levels=_LEVELS, points=points)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Five maps, finest first -> five of the same shapes."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        stem, *swin = laterals
        sizes = [(x.shape[2], x.shape[3]) for x in swin]
        tokens = self._aggregate(swin, sizes)
        attended = self._interact(stem, tokens, sizes)
        fused = [self.conv_fusion[0](torch.cat([attended, stem], dim=1))]
        parts = torch.split(tokens, [h * w for h, w in sizes], dim=1)
        for conv, lateral, part in zip(self.trans_fusion, swin, parts, strict=True):
            aggregated = part.transpose(1, 2).reshape(len(part), -1, *lateral.shape[2:])
            fused.append(conv(torch.cat([lateral, aggregated], dim=1)))
        return fused

    def _aggregate(self, maps: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Swin's maps, each pixel looking around itself in all of them -> tokens (B, S, C)."""
        projected = [proj(x) for proj, x in zip(self.trans_proj, maps, strict=True)]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in projected], dim=1)
        positions = torch.cat(
            [
                sine_positions(size, tokens.shape[2], tokens) + level
                for size, level in zip(sizes, self.level_embed, strict=True)
            ]
        )
        centres = torch.cat([pixel_centres(size, tokens) for size in sizes])
        looked: Tensor = self.self_attn(tokens + positions, tokens, centres[None], sizes)
        return tokens + looked

    def _interact(self, stem: Tensor, tokens: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """The stem's map, its pixels looking where they learned to in the tokens' maps."""
        projected = self.conv_proj[0](stem)
        query = projected.flatten(2).transpose(1, 2)
        positions = sine_positions((stem.shape[2], stem.shape[3]), query.shape[2], query)
        references = self.reference_points(positions).sigmoid()
        looked = self.multi_att(query + positions, tokens, references[None], sizes)
        attended: Tensor = (query + looked).transpose(1, 2).reshape(projected.shape)
        return attended


class UpSample(nn.Module):
    """Up to the skip's size, joined with it, then twice convolution and LeakyReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convA = ConvBlock(inputs, outputs, 3, leaky=True)
        self.convB = ConvBlock(outputs, outputs, 3, leaky=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, ., .) and (B, outputs, h, w) -> (B, outputs, h, w)."""
        up = resize(x, (skip.shape[-2], skip.shape[-1]))
        joined: Tensor = self.convB(self.convA(torch.cat([up, skip], dim=1)))
        return joined


class Head(nn.Module):
    """Dense decoder without norms: five maps -> one number a pixel of the finest."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        deepest, *skips = reversed(channels)
        self.conv_depth = nn.Conv2d(channels[0], 1, 3, padding=1)
        self.conv_list = nn.ModuleList([ConvBlock(deepest, deepest, 1)])
        for skip in skips:
            self.conv_list.append(UpSample(deepest + skip, skip))
            deepest = skip

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first -> (B, h, w) of the finest map's size, >= 0."""
        x = self.conv_list[0](maps[-1])
        for number, skip in enumerate(reversed(maps[:-1])):
            x = self.conv_list[number + 1](x, skip)
        depth: Tensor = F.relu(self.conv_depth(x))[:, 0]
        return depth


class Depthformer(nn.Module):
    """The network: RGB in, depth at half size out.

    Reference:
        Li, Chen, Liu, Jiang, "DepthFormer: Exploiting Long-Range Correlation and Local Information
        for Accurate Monocular Depth Estimation", https://arxiv.org/abs/2203.14211, and its
        published configurations. Here the network normalises its input itself, and its deformable
        attention has no dropout.
    """

    def __init__(self, sizes: Sizes, min_depth: float) -> None:
        super().__init__()
        self.min_depth = min_depth
        self.normalise = Normalise("imagenet")
        self.backbone = Backbone(sizes)
        self.decode_head = Head(self.backbone.channels)
        self.neck = Neck(
            self.backbone.channels, sizes.neck, heads=sizes.neck_heads, points=sizes.neck_points
        )

    def forward(self, rgb: Tensor) -> DepthformerOutput:
        """RGB (B, 3, H, W) in [0, 1] -> depth; not clipped at the far end, not resized."""
        maps = self.neck(self.backbone(self.normalise(rgb)))
        return DepthformerOutput(self.decode_head(maps) + self.min_depth)

    def start_at(self, depths: Tensor) -> None:
        """Sets the last bias so that any image gives about the median of these depths (n,) [m].

        Without it about half of a fresh head's pixels are below zero, where ReLU has no gradient.
        """
        bias = self.decode_head.conv_depth.bias
        if bias is not None and len(depths):
            with torch.no_grad():
                bias.fill_((depths.float().median() - self.min_depth).clamp(min=0))

    def is_unused(self, key: str) -> bool:
        """Whether the forward pass never reads this entry of a published state dict.

        TIE-KD's files hold a `conv_out` for bins; window positions are built here.
        """
        return key.startswith("decode_head.conv_out.") or key.endswith("relative_position_index")


class DepthformerTeacher(Teacher):
    """Clips the depth to the card's range, before averaging with the mirrored image's."""

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        """One pass; `focal` is not read."""
        out: DepthformerOutput = self.network(rgb)
        return TeacherOutput(out.depth.clamp(self.card.min_depth, self.card.max_depth))


def build(card: TeacherCard) -> nn.Module:
    """The card's network with random weights.

    Raises:
        CardError: its `network:` has an unknown key, a wrong type or a value out of range.
    """
    sizes = build_checked(Sizes, card.network, f"teachers/{card.name}: network")
    return Depthformer(sizes, card.min_depth)


def make_teacher(
    card: TeacherCard, network: nn.Module, device: str, mirror: bool | None
) -> Teacher:
    """The card's network, with weights, as a teacher."""
    return DepthformerTeacher(card, network, device, mirror)
