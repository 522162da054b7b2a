"""TIE-KD's students, and others with any encoder: a dense decoder, bins or a sigmoid.

The names in the state dict are those of the published checkpoints (mmcv's `ConvModule`), so these
load as they are. Both heads' layers exist in every network, the unused one without gradient.

Reference:
    Choi et al., "TIE-KD", https://arxiv.org/abs/2402.14340, and its published configurations;
    Alhashim and Wonka, "High Quality Monocular Depth Estimation via Transfer Learning",
    https://arxiv.org/abs/1812.11941, for the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.errors import CardError
from kdpipe.nets.encoders import fill_in_order
from kdpipe.nets.mobilenet_v2 import MobileNetV2, divisible
from kdpipe.nets.prior import log_frequency
from kdpipe.nets.pyramids import ResNetPyramid
from kdpipe.nets.timm_pyramid import TimmPyramid
from kdpipe.students.base import StudentOutput, UniformBins
from kdpipe.students.distribution import distribution

if TYPE_CHECKING:
    from kdpipe.cards import StudentCard

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Encoder(Protocol):
    """What the decoder asks of an encoder, beside its maps, shallow to deep."""

    channels: tuple[int, ...]

    extra_blocks: int
    """Doublings that remain from the shallowest map to the input's size."""


class ResNet(ResNetPyramid):
    """The stem and the four layers of a ResNet, 1/2 to 1/32; torchvision's names."""

    extra_blocks = 1


class _ConvReLU(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, *, act: bool = True, norm: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(outputs) if norm else None
        self._act = act
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu" if act else "linear")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return F.relu(x, inplace=True) if self._act else x


class _UpBlock(nn.Module):
    """Resizes, joins the encoder's map where there is one, and convolves twice."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool) -> None:
        super().__init__()
        self.convA = _ConvReLU(inputs, outputs, norm=norm)
        self.convB = _ConvReLU(outputs, outputs, norm=norm)

    def forward(self, x: Tensor, size: tuple[int, int], skip: Tensor | None = None) -> Tensor:
        x = _resized(x, size)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        y: Tensor = self.convB(self.convA(x))
        return y


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


class _Head(nn.Module):
    """The decoder and both heads; mmseg calls all of it the decode head."""

    def __init__(
        self, encoder: Encoder, channels: tuple[int, ...], bins: UniformBins, card: StudentCard
    ) -> None:
        super().__init__()
        deepest, *skips = reversed(encoder.channels)
        last = channels[-1]
        self.conv_depth = nn.Conv2d(last, 1, 3, padding=1)
        self.conv_out = nn.Sequential(nn.Conv2d(last, bins.count, 1))
        self.conv_list = nn.ModuleList([_ConvReLU(deepest, channels[0], 1, act=False)])
        for above, skip, outputs in zip(channels, skips, channels[1:], strict=False):
            self.conv_list.append(_UpBlock(above + skip, outputs, norm=card.decoder_norm))
        self.extra_blocks = encoder.extra_blocks - (card.output_stride - 1)
        for number in range(1, max(2, self.extra_blocks) + 1):
            self.add_module(_extra_name(number), _UpBlock(last, last, norm=card.decoder_norm))
        self.is_regression = card.head == "regression"
        self._output_stride = card.output_stride
        self.near, self.far = bins.near, bins.far
        self.centers: Tensor
        self.register_buffer("centers", bins.centers(), persistent=False)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> StudentOutput:
        first, *blocks = self.conv_list
        x: Tensor = first(maps[-1])
        for block, skip in zip(blocks, reversed(maps[:-1]), strict=True):
            x = block(x, tuple(skip.shape[-2:]), skip)
        stride = self._output_stride  # rounded up; `-(-size // stride)` is another number in ONNX
        own = ((size[0] + stride - 1) // stride, (size[1] + stride - 1) // stride)
        for number in range(1, self.extra_blocks + 1):
            extra = self.get_submodule(_extra_name(number))
            twice = (2 * x.shape[-2], 2 * x.shape[-1])
            x = extra(x, own if number == self.extra_blocks else twice)  # `own`: odd sides too
        if self.is_regression:
            depth = torch.sigmoid(self.conv_depth(x).float()) * self.far
            return StudentOutput(_resized(depth, size)[:, 0], None, self.centers[:0])
        if torch.onnx.is_in_onnx_export():  # channels come first there, and integers in Conv only
            probabilities = torch.softmax(self.conv_out(x), dim=1)
            depth = F.conv2d(probabilities, self.centers.view(1, -1, 1, 1))[:, 0]
        else:
            last = cast("nn.Conv2d", self.conv_out[0])  # 1x1
            logits = F.linear(x.permute(0, 2, 3, 1), last.weight.flatten(1), last.bias)
            probabilities, depth = distribution(logits, self.centers)
        depth = _resized(depth[:, None], size)[:, 0]
        return StudentOutput(depth, probabilities, self.centers)


class DenseDepth(nn.Module):
    """A student of TIE-KD or, with the regression head, of its Res-KD baselines."""

    def __init__(
        self, encoder: Encoder, channels: tuple[int, ...], bins: UniformBins, card: StudentCard
    ) -> None:
        super().__init__()
        self.backbone = cast("nn.Module", encoder)
        self.decode_head = _Head(encoder, channels, bins, card)
        self.mean: Tensor
        self.std: Tensor
        for name, usual in (("mean", _MEAN), ("std", _STD)):
            values = torch.tensor(getattr(encoder, name, usual)).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, rgb: Tensor) -> StudentOutput:
        """Predicts from RGB (B, 3, H, W) in [0, 1]; normalises it itself."""
        normalised = ((rgb - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        maps = self.backbone(normalised)
        output: StudentOutput = self.decode_head(maps, (rgb.shape[-2], rgb.shape[-1]))
        return output

    def start_at(self, depths: Tensor) -> None:
        """Sets the last bias so that any image gives the distribution of these depths (n,) [m].

        The regression head gives their median.
        """
        head = self.decode_head
        with torch.no_grad():
            if head.is_regression:
                part = (depths.median() / head.far).clamp(1e-3, 1 - 1e-3)
                head.conv_depth.bias.fill_(torch.logit(part).item())  # type: ignore[union-attr]
            else:
                bias = log_frequency(depths, len(head.centers), head.near, head.far)
                cast("Tensor", cast("nn.Conv2d", head.conv_out[0]).bias).copy_(bias)

    def is_unused(self, key: str) -> bool:
        """Whether the forward pass never reads this entry of the state dict."""
        head = self.decode_head
        others = ["conv_out." if head.is_regression else "conv_depth."]
        others += [f"{_extra_name(number)}." for number in (1, 2) if number > head.extra_blocks]
        return key.startswith(tuple(f"decode_head.{other}" for other in others))


def _extra_name(number: int) -> str:
    return "upsample_custom" + (str(number) if number > 1 else "")


_PUBLISHED: Mapping[str, tuple[int, ...]] = {
    "mobilenetv2": (2048, 512, 256, 128),
    "resnet18": (512, 256, 256, 128, 128),
    "resnet50": (2048, 1024, 512, 256, 128),
}
"""Encoder -> the published decoder's channels, deep to shallow."""

_NARROWEST = 128
"""Channels of every published decoder's last block."""


def _encoder_of(card: StudentCard) -> Encoder:
    name, stride = card.encoder, card.encoder_stride
    if name == "mobilenetv2":
        if stride == 32:
            raise CardError(f"students/{card.name}: encoder_stride of mobilenetv2 is 8 or 16")
        return MobileNetV2(card.encoder_width, stride or 8)
    if card.encoder_width != 1:
        raise CardError(
            f"students/{card.name}: encoder_width is {card.encoder_width:g}, but {name} has one "
            "width, 1: take another encoder, or scale the decoder with width"
        )
    if name not in _PUBLISHED:
        return TimmPyramid(name, stride)
    if stride not in (None, 32):
        raise CardError(f"students/{card.name}: encoder_stride of {name} is 32, got {stride}")
    return ResNet(name)


def _channels_of(card: StudentCard, encoder: Encoder) -> tuple[int, ...]:
    """Of the decoder: as published, else Alhashim and Wonka's rule, halved from map to map."""
    published = _PUBLISHED.get(card.encoder) or tuple(
        max(encoder.channels[-1] >> step, _NARROWEST) for step in range(len(encoder.channels))
    )
    return tuple(divisible(count * card.width) for count in published)


def build(card: StudentCard, bins: UniformBins) -> DenseDepth:
    """Builds a card's network with random weights.

    Raises:
        CardError: nobody knows the card's encoder, or it asks of it what that has not.
    """
    encoder = _encoder_of(card)
    network = DenseDepth(encoder, _channels_of(card, encoder), bins, card)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a third faster
    return network


def load_encoder(network: DenseDepth, path: Path) -> None:
    """Fills the encoder from an ImageNet checkpoint with torchvision's, timm's or our own names.

    Raises:
        CheckpointError: unreadable, or another network's.
    """
    encoder = network.backbone
    if isinstance(encoder, TimmPyramid):
        encoder.load(path)
        return
    fill_in_order(encoder, path)
