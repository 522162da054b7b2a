"""TIE-KD's students: an encoder, a dense decoder, bins or a sigmoid at full size.

The names in the state dict are those of the published checkpoints (mmcv's `ConvModule`), so these
load as they are. Both heads' layers exist in every network, the unused one without gradient.

Reference:
    Choi et al., "TIE-KD", https://arxiv.org/abs/2402.14340, and its published configurations;
    Alhashim and Wonka, "High Quality Monocular Depth Estimation via Transfer Learning",
    https://arxiv.org/abs/1812.11941, for the decoder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.errors import CardError, CheckpointError, UnknownNameError
from kdpipe.nets.checkpoint import load_state, read_state
from kdpipe.nets.mobilenet_v2 import MobileNetV2, divisible
from kdpipe.nets.prior import log_frequency
from kdpipe.nets.pyramids import ResNetPyramid
from kdpipe.students.base import StudentOutput, UniformBins

if TYPE_CHECKING:
    from kdpipe.cards import StudentCard

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Encoder(Protocol):
    """What the decoder asks of an encoder, beside its maps, shallow to deep."""

    channels: tuple[int, ...]

    extra_blocks: int
    """Doublings that remain from the shallowest map to the input's size."""

    def torchvision_names(self) -> Mapping[str, str]:
        """Torchvision's module names -> ours, where they differ."""


class ResNet(ResNetPyramid):
    """The stem and the four layers of a ResNet, 1/2 to 1/32; torchvision's names."""

    extra_blocks = 1

    def torchvision_names(self) -> Mapping[str, str]:
        """None differs."""
        return {}


class _ConvReLU(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self._act = act
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu" if act else "linear")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu(x, inplace=True) if self._act else x


class _UpBlock(nn.Module):
    """Resizes, joins the encoder's map where there is one, and convolves twice."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convA = _ConvReLU(inputs, outputs)
        self.convB = _ConvReLU(outputs, outputs)

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


class _Expectation(torch.autograd.Function):
    """Mean of the centers (N,) under probabilities (B, N, H, W), as (B, 1, H, W).

    A 1x1 convolution without the gradient towards its constant weights: many times faster on a CPU
    than `einsum` or a product and a sum, whose temporaries are as large as the probabilities.
    """

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, centers: Tensor) -> Tensor:
        ctx.save_for_backward(centers)
        kind = probabilities.device.type
        off = torch.autocast(kind, enabled=False) if kind != "meta" else contextlib.nullcontext()
        with off:  # there is none where costs are counted without computing
            return F.conv2d(probabilities, centers.view(1, -1, 1, 1))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (centers,) = ctx.saved_tensors
        return upstream[0] * centers.view(1, -1, 1, 1), None


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
            self.conv_list.append(_UpBlock(above + skip, outputs))
        self.upsample_custom = _UpBlock(last, last)
        self.upsample_custom2 = _UpBlock(last, last)
        self.extra_blocks = encoder.extra_blocks - (card.output_stride - 1)
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
            extra = self.upsample_custom if number == 1 else self.upsample_custom2
            twice = (2 * x.shape[-2], 2 * x.shape[-1])
            x = extra(x, own if number == self.extra_blocks else twice)  # `own`: odd sides too
        if self.is_regression:
            depth = torch.sigmoid(self.conv_depth(x).float()) * self.far
            return StudentOutput(_resized(depth, size)[:, 0], None, self.centers[:0])
        probabilities = torch.softmax(self.conv_out(x).float(), dim=1)
        depth = _Expectation.apply(probabilities, self.centers)  # type: ignore[no-untyped-call]
        return StudentOutput(_resized(depth, size)[:, 0], probabilities, self.centers)


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
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

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
        others += [] if head.extra_blocks > 1 else ["upsample_custom2."]
        return key.startswith(tuple(f"decode_head.{other}" for other in others))


def _mobilenet_v2(card: StudentCard) -> Encoder:
    return MobileNetV2(card.encoder_width, card.encoder_stride)


def _resnet(card: StudentCard) -> Encoder:
    if card.encoder_width != 1:
        raise CardError(
            f"students/{card.name}: encoder_width is {card.encoder_width:g}, but {card.encoder} "
            "has one width, 1: take another encoder, or scale the decoder with width"
        )
    return ResNet(card.encoder)


_ENCODERS: Mapping[str, tuple[Callable[[StudentCard], Encoder], tuple[int, ...]]] = {
    "mobilenetv2": (_mobilenet_v2, (2048, 512, 256, 128)),
    "resnet18": (_resnet, (512, 256, 256, 128, 128)),
    "resnet50": (_resnet, (2048, 1024, 512, 256, 128)),
}
"""Encoder -> how to build it, and the published decoder's channels, deep to shallow."""


def build(card: StudentCard, bins: UniformBins) -> DenseDepth:
    """Builds a card's network with random weights.

    Raises:
        UnknownNameError: the card names an encoder that is not here.
        CardError: it asks of the encoder what that has not.
    """
    if card.encoder not in _ENCODERS:
        raise UnknownNameError("students/densedepth.py", card.encoder, _ENCODERS)
    encoder, published = _ENCODERS[card.encoder]
    channels = tuple(divisible(c * card.width) for c in published)
    network = DenseDepth(encoder(card), channels, bins, card)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a third faster
    return network


def load_encoder(network: DenseDepth, path: Path) -> None:
    """Fills the encoder from an ImageNet checkpoint with torchvision's or with our own names.

    The classifier and the last 1280-channel convolution are left aside: the student has neither.

    Raises:
        CheckpointError: unreadable, or another network's.
    """
    state = read_state(path)
    names = cast("Encoder", network.backbone).torchvision_names()
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        module, _, leaf = key.removeprefix("backbone.").rpartition(".")
        if module.startswith(("features.18", "classifier", "conv2.", "head", "fc")):
            continue
        renamed[f"{names.get(module, module)}.{leaf}"] = value
    if not renamed:
        kind = type(network.backbone).__name__
        raise CheckpointError(f"{path} holds no encoder: expected the names of a {kind}")
    load_state(
        network.backbone,
        renamed,
        str(path),
        unused=lambda key: key.endswith("num_batches_tracked"),  # older files lack it
    )
