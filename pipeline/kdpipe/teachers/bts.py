"""BTS: dense features at 1/8 decoded by planes fitted to ever smaller blocks; no bins.

With a published encoder in the card this is the published network, and its state dict has the
published names and shapes. TIE-KD and the Monocular-Depth-Estimation-Toolbox have a variant:
`last_bias: true`; its names in their files, `backbone.` and `decode_head.`, are renamed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.errors import CardError, DataError
from kdpipe.nets.encoders import Normalise
from kdpipe.nets.pyramids import make_pyramid
from kdpipe.strict import build as build_checked
from kdpipe.teachers.base import Teacher, TeacherOutput

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard

RENAMES = (
    ("backbone.", "encoder.base_model."),
    ("decode_head.conv_depth.", "decoder.get_depth.0."),
    ("decode_head.", "decoder."),
)
"""Start of a name in mmcv's checkpoints -> its start here."""

_STRIDE = 32
"""Of the deepest map: sides are padded to its multiples."""

_DILATIONS = (3, 6, 12, 18, 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A card's `network:`; the defaults are the published network's on NYU."""

    encoder: str = "densenet161"
    """One of nets/pyramids.py, or an EfficientNet-like timm network."""

    bts_size: int = 512
    """Channels of the decoder at 1/16; each further step has half or a quarter of them."""

    last_bias: bool = False
    """The last convolution has a bias, as in TIE-KD's variant."""

    norm_momentum: float = 0.01
    """Of the decoder's batch norms: 0.01 takes some 500 steps to settle, a short training less."""

    reference_focal: float | None = None
    """The network's depth is that of a camera with this focal length [px]; other cameras' is
    multiplied by theirs / this. None: the focal length is not read."""

    def __post_init__(self) -> None:
        if self.bts_size < 32 or self.bts_size % 4:
            raise CardError(
                f"network: bts_size must be a multiple of 4, >= 32, got {self.bts_size}"
            )
        if not 0 < self.norm_momentum <= 1:
            raise CardError(f"network: norm_momentum must be in (0, 1], got {self.norm_momentum:g}")
        if self.reference_focal is not None and not 0 < self.reference_focal < math.inf:
            raise CardError(
                f"network: reference_focal must be pixels > 0, got {self.reference_focal:g}"
            )


@dataclass(frozen=True, slots=True)
class BtsOutput:
    """What the network gives, with gradients while it trains; all maps (B, H, W), as the input."""

    depth: Tensor
    """[m]"""

    lpg8x8: Tensor
    """Depth of planes fitted to blocks of 8x8 pixels, as a part of the card's max_depth."""

    lpg4x4: Tensor
    lpg2x2: Tensor
    reduc1x1: Tensor
    """The same of each pixel alone."""

    @property
    def probabilities(self) -> None:
        """It has no bins."""

    @property
    def centers(self) -> Tensor:
        """(0,)"""
        return self.depth.new_empty(0)


class UpConv(nn.Module):
    """Doubles the size by repetition, then convolves."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, out, 2h, 2w)."""
        return F.elu(self.conv(F.interpolate(x, scale_factor=2, mode="nearest")))


class AtrousConv(nn.Module):
    """A branch of the dense ASPP: 1x1 to twice the output's channels, then 3x3 with gaps."""

    def __init__(self, channels: int, out: int, dilation: int, *, norm_first: bool) -> None:
        super().__init__()
        self.atrous_conv = nn.Sequential()
        if norm_first:
            self.atrous_conv.add_module("first_bn", _norm(channels))
        self.atrous_conv.add_module(
            "aconv_sequence",
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels, 2 * out, 1, bias=False),
                nn.BatchNorm2d(2 * out),  # of all the decoder's, here eps is torch's 1e-5
                nn.ReLU(),
                nn.Conv2d(2 * out, out, 3, padding=dilation, dilation=dilation, bias=False),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, out, h, w)."""
        y: Tensor = self.atrous_conv(x)
        return y


class Reduction(nn.Module):
    """1x1 convolutions halve the channels down to 8; the last gives a plane, or a part of 1."""

    def __init__(self, channels: int, out: int, *, is_final: bool = False) -> None:
        super().__init__()
        self.reduc = nn.Sequential()
        while out >= 8:
            step = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.ELU())
            self.reduc.add_module(f"inter_{channels}_{out}", step)
            channels, out = out, out // 2
        last = nn.Conv2d(channels, 1 if is_final else 3, 1, bias=False)
        if is_final:
            self.reduc.add_module("final", nn.Sequential(last, nn.Sigmoid()))
        else:
            self.reduc.add_module("plane_params", last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 3, h, w), or (B, 1, h, w) in (0, 1)."""
        y: Tensor = self.reduc(x)
        return y


def depth_of_planes(raw: Tensor, ratio: int) -> Tensor:
    """Depth of one plane a cell, at each of its ratio x ratio pixels.

    Args:
        raw: (B, 3, h, w), before the sigmoid: the normal's polar angle (to 60 degrees), its azimuth
            (the whole circle) and the distance (to 1).
        ratio: side of a cell [pixels].

    Returns:
        (B, 1, h * ratio, w * ratio), as a part of the largest distance. Steep planes have no bound:
        they may pass through the camera, and be beyond it or negative.

    Reference:
        Lee et al., "From Big to Small", https://arxiv.org/abs/1907.10326, section 3.2, equation 3.
    """
    polar, azimuth, distance = torch.split(raw.sigmoid(), 1, dim=1)
    polar, azimuth = polar * (math.pi / 3), azimuth * (2 * math.pi)
    normal = torch.cat(
        [polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()], dim=1
    )
    plane = torch.cat([F.normalize(normal, dim=1), distance], dim=1)
    plane = plane.repeat_interleave(ratio, dim=2).repeat_interleave(ratio, dim=3)
    across, down, ahead, distance = torch.split(plane, 1, dim=1)
    place = (torch.arange(ratio, device=raw.device, dtype=raw.dtype) - (ratio - 1) / 2) / ratio
    u = place.repeat(raw.shape[-1])
    v = place.repeat(raw.shape[-2])[:, None]
    return distance / (across * u + down * v + ahead)


class Decoder(nn.Module):
    """Five maps of the encoder -> depth at the image's size, through planes at 1/8, 1/4 and 1/2."""

    def __init__(self, channels: tuple[int, ...], size: int, last_bias: bool) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = (size // part for part in (2, 4, 8, 16))
        self.upconv5 = UpConv(channels[4], size)
        self.bn5 = _norm(size)
        self.conv5 = _conv(size + channels[3], size)
        self.upconv4 = UpConv(size, half)
        self.bn4 = _norm(half)
        self.conv4 = _conv(half + channels[2], half)
        self.bn4_2 = _norm(half)
        for number, dilation in enumerate(_DILATIONS):
            # All but the first branch start from what conv4 read, not from what it gave.
            inputs = half + (channels[2] + number * quarter if number else 0)
            branch = AtrousConv(inputs, quarter, dilation, norm_first=number > 0)
            self.add_module(f"daspp_{dilation}", branch)
        self.daspp_conv = _conv(half + len(_DILATIONS) * quarter, quarter)
        self.reduc8x8 = Reduction(quarter, quarter)
        self.upconv3 = UpConv(quarter, quarter)
        self.bn3 = _norm(quarter)
        self.conv3 = _conv(quarter + channels[1] + 1, quarter)
        self.reduc4x4 = Reduction(quarter, eighth)
        self.upconv2 = UpConv(quarter, eighth)
        self.bn2 = _norm(eighth)
        self.conv2 = _conv(eighth + channels[0] + 1, eighth)
        self.reduc2x2 = Reduction(eighth, sixteenth)
        self.upconv1 = UpConv(eighth, sixteenth)
        self.reduc1x1 = Reduction(sixteenth, size // 32, is_final=True)
        self.conv1 = _conv(sixteenth + 4, sixteenth)
        last = nn.Conv2d(sixteenth, 1, 3, padding=1, bias=last_bias)
        self.get_depth = nn.Sequential(last, nn.Sigmoid())

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        """Maps, finest first -> depth, planes of 8, 4 and 2 pixels, single pixels: parts of 1."""
        x = self.bn5(self.upconv5(F.relu(maps[4])))
        x = self.conv5(torch.cat([x, maps[3]], dim=1))
        x = self._dense_features(torch.cat([self.bn4(self.upconv4(x)), maps[2]], dim=1))
        planes8 = depth_of_planes(self.reduc8x8(x), 8)
        x = torch.cat([self.bn3(self.upconv3(x)), maps[1], planes8[..., ::4, ::4]], dim=1)
        x = self.conv3(x)
        planes4 = depth_of_planes(self.reduc4x4(x), 4)
        x = torch.cat([self.bn2(self.upconv2(x)), maps[0], planes4[..., ::2, ::2]], dim=1)
        x = self.conv2(x)
        planes2 = depth_of_planes(self.reduc2x2(x), 2)
        x = self.upconv1(x)
        pixels = self.reduc1x1(x)
        x = self.conv1(torch.cat([x, pixels, planes2, planes4, planes8], dim=1))
        return self.get_depth(x), planes8, planes4, planes2, pixels

    def _dense_features(self, joined: Tensor) -> Tensor:
        """The dense ASPP, at 1/8: each branch sees what came in and all branches before it."""
        first = self.bn4_2(self.conv4(joined))
        found = [self.get_submodule(f"daspp_{_DILATIONS[0]}")(first)]
        for dilation in _DILATIONS[1:]:
            seen = torch.cat([joined, *found], dim=1)
            found.append(self.get_submodule(f"daspp_{dilation}")(seen))
        features: Tensor = self.daspp_conv(torch.cat([first, *found], dim=1))
        return features


class Encoder(nn.Module):
    """A pyramid under the name it has in the published checkpoints."""

    def __init__(self, name: str) -> None:
        super().__init__()
        pyramid = make_pyramid(name)
        self.base_model = pyramid
        self.channels = pyramid.channels

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> five maps, finest first."""
        maps: list[Tensor] = self.base_model(image)
        return maps


class Bts(nn.Module):
    """The network: RGB in, depth of the same size out.

    Reference:
        Lee, Han, Ko, Suh, "From Big to Small: Multi-Scale Local Planar Guidance for Monocular Depth
        Estimation", https://arxiv.org/abs/1907.10326. Here it normalises its input itself, and
        takes any size: sides that are no multiples of 32 are padded by repeating the last row and
        column, and the padding is cut off the output.
    """

    def __init__(self, sizes: Sizes, max_depth: float) -> None:
        super().__init__()
        self.max_depth, self.reference_focal = max_depth, sizes.reference_focal
        self.normalise = Normalise("imagenet")
        self.encoder = Encoder(sizes.encoder)
        self.decoder = Decoder(self.encoder.channels, sizes.bts_size, sizes.last_bias)
        for part in self.decoder.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = sizes.norm_momentum

    def forward(self, rgb: Tensor, focal: Tensor | None = None) -> BtsOutput:
        """Depth, not clipped, and the four maps that guided it.

        Args:
            rgb: (B, 3, H, W) in [0, 1].
            focal: focal lengths (B,) [px]; read only with a `reference_focal`. None: that one.
        """
        height, width = rgb.shape[-2:]
        padding = (0, -width % _STRIDE, 0, -height % _STRIDE)
        image = self.normalise(rgb)
        if any(padding):
            image = F.pad(image, padding, mode="replicate")
        parts, *guides = (
            found[:, 0, :height, :width] for found in self.decoder(self.encoder(image))
        )
        depth = parts * self.max_depth
        if focal is not None and self.reference_focal is not None:
            depth = depth * (focal.to(depth) / self.reference_focal)[:, None, None]
        return BtsOutput(depth, *guides)

    def start_at(self, depths: Tensor) -> None:
        """Sets the last bias so that any image gives about the median of these depths (n,) [m].

        Raises:
            CardError: the last convolution has no bias.
        """
        bias = cast("nn.Conv2d", self.decoder.get_depth[0]).bias
        if bias is None:
            raise CardError(
                "fit.start_at_data is true, but this BTS has no last bias to start from: set "
                "network.last_bias to true, or start_at_data to false"
            )
        part = (depths.median() / self.max_depth).clamp(1e-3, 1 - 1e-3)
        with torch.no_grad():
            bias.fill_(torch.logit(part).item())

    def is_unused(self, key: str) -> bool:
        """Whether an entry of the published files is never read: the ResNets' classifier."""
        return key.startswith("encoder.base_model.fc.")


class BtsTeacher(Teacher):
    """Asks for focal lengths where the card needs them, which may lift depth over its range."""

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        """One pass.

        Raises:
            DataError: the card needs focal lengths, and they are missing or wrong.
        """
        reference = cast("Bts", self.network).reference_focal
        if reference is not None:
            _check_focal(self.card.name, reference, focal, len(rgb))
        out: BtsOutput = self.network(rgb, focal if reference is not None else None)
        return TeacherOutput(out.depth.clamp(min=self.card.min_depth))


def _check_focal(name: str, reference: float, focal: Tensor | None, count: int) -> None:
    why = f"{name} gives depth for a focal length of {reference:g} px and scales it to the image's"
    if focal is None:
        raise DataError(
            f"{why}: found none, expected one an image [px]. Give focal=, or index the data set "
            "with focal lengths (a third column in its list)"
        )
    if focal.shape != (count,) or not bool(((focal > 0) & focal.isfinite()).all()):
        raise DataError(
            f"{why}: found focal {focal.tolist()!r}, expected {count} finite numbers > 0 [px]"
        )


def build(card: TeacherCard) -> nn.Module:
    """The card's network with random weights.

    Raises:
        CardError: its `network:` has an unknown key, a wrong type or a value out of range.
    """
    sizes = build_checked(Sizes, card.network, f"teachers/{card.name}: network")
    return Bts(sizes, card.max_depth)


def make_teacher(
    card: TeacherCard, network: nn.Module, device: str, mirror: bool | None
) -> Teacher:
    """The card's network, with weights, as a teacher."""
    return BtsTeacher(card, network, device, mirror)


def _conv(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.ELU())


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1.1e-5)
