"""TIE-KD's students: an encoder of stride 8, a dense decoder, bins or a sigmoid at full size.

The names in the state dict are those of the published checkpoints (mmcv's `ConvModule`), so these
load as they are. Both heads' layers exist in every network, the unused one without gradient.

Reference:
    Choi et al., "TIE-KD", https://arxiv.org/abs/2402.14340, and its published configurations;
    Alhashim and Wonka, "High Quality Monocular Depth Estimation via Transfer Learning",
    https://arxiv.org/abs/1812.11941, for the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.errors import CheckpointError, UnknownNameError
from kdpipe.nets.checkpoint import load_state, read_state
from kdpipe.nets.prior import log_frequency
from kdpipe.students.base import StudentOutput, UniformBins

if TYPE_CHECKING:
    from kdpipe.cards import StudentCard

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class _ConvNorm(nn.Module):
    """Convolution, batch norm and, if asked, ReLU6; mmcv's names."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(outputs)
        self._act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.relu6(x, inplace=True) if self._act else x


class _InvertedResidual(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, *, stride: int, dilation: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        depthwise = _ConvNorm(hidden, hidden, 3, stride=stride, dilation=dilation, groups=hidden)
        project = _ConvNorm(hidden, outputs, 1, act=False)
        expand = [] if expansion == 1 else [_ConvNorm(inputs, hidden, 1)]
        self.conv = nn.Sequential(*expand, depthwise, project)
        self._shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self._shortcut else y


class MobileNetV2(nn.Module):
    """MobileNetV2 whose stride stops at 8; later layers dilate their first block instead.

    Reference:
        Sandler et al., "MobileNetV2", https://arxiv.org/abs/1801.04381, table 2; strides and
        dilations are TIE-KD's.
    """

    extra_blocks = 2
    """Doublings that remain from the shallowest map to the input's size."""

    _LAYERS = (  # expansion, channels, blocks, stride, dilation of the first block, is given
        (1, 16, 1, 1, 1, False),
        (6, 24, 2, 2, 1, True),
        (6, 32, 3, 2, 1, True),
        (6, 64, 4, 1, 2, False),
        (6, 96, 3, 1, 2, True),
        (6, 160, 3, 1, 4, False),
        (6, 320, 1, 1, 4, True),
    )

    def __init__(self, width: float = 1.0, stride: int = 8) -> None:
        super().__init__()
        inputs = _divisible(32 * width)
        self.conv1 = _ConvNorm(3, inputs, 3, stride=2)
        channels = []
        for number, (expansion, published, blocks, step, dilation, given) in enumerate(
            self._LAYERS, 1
        ):
            if stride == 16 and dilation > 1:  # the first dilated layer shrinks instead
                step, dilation = 2 if number == 4 else 1, dilation // 2
            outputs = _divisible(published * width)
            layer = nn.Sequential()
            for block in range(blocks):
                first = block == 0
                layer.append(
                    _InvertedResidual(
                        inputs,
                        outputs,
                        stride=step if first else 1,
                        dilation=dilation if first else 1,
                        expansion=expansion,
                    )
                )
                inputs = outputs
            self.add_module(f"layer{number}", layer)
            if given:
                channels.append(outputs)
        self.channels = tuple(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Gives the four maps, shallow to deep, of a normalised (B, 3, H, W)."""
        x = self.conv1(x)
        maps = []
        for number, (*_, given) in enumerate(self._LAYERS, 1):
            x = self.get_submodule(f"layer{number}")(x)
            if given:
                maps.append(x)
        return maps

    def torchvision_names(self) -> Iterator[tuple[str, str]]:
        """Pairs (torchvision's module name, ours), for each convolution and batch norm."""
        yield "features.0.0", "conv1.conv"
        yield "features.0.1", "conv1.bn"
        feature = 1
        for number, (expansion, _, blocks, *_) in enumerate(self._LAYERS, 1):
            for block in range(blocks):
                theirs, ours = f"features.{feature}.conv", f"layer{number}.{block}.conv"
                active = 1 if expansion == 1 else 2  # convolutions that an activation follows
                for i in range(active):
                    yield f"{theirs}.{i}.0", f"{ours}.{i}.conv"
                    yield f"{theirs}.{i}.1", f"{ours}.{i}.bn"
                yield f"{theirs}.{active}", f"{ours}.{active}.conv"
                yield f"{theirs}.{active + 1}", f"{ours}.{active}.bn"
                feature += 1


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


def _divisible(channels: float) -> int:
    """The multiple of 8 nearest to a number of channels, but not less than nine tenths of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class _Expectation(torch.autograd.Function):
    """Mean of the centers (N,) under probabilities (B, N, H, W), as (B, 1, H, W).

    A 1x1 convolution without the gradient towards its constant weights: many times faster on a CPU
    than `einsum` or a product and a sum, whose temporaries are as large as the probabilities.
    """

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, centers: Tensor) -> Tensor:
        ctx.save_for_backward(centers)
        with torch.autocast(probabilities.device.type, enabled=False):
            return F.conv2d(probabilities, centers.view(1, -1, 1, 1))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (centers,) = ctx.saved_tensors
        return upstream[0] * centers.view(1, -1, 1, 1), None


class _Head(nn.Module):
    """The decoder and both heads; mmseg calls all of it the decode head."""

    def __init__(
        self, encoder: MobileNetV2, channels: tuple[int, ...], bins: UniformBins, card: StudentCard
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
        own = (-(-size[0] // self._output_stride), -(-size[1] // self._output_stride))
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
        self, encoder: MobileNetV2, channels: tuple[int, ...], bins: UniformBins, card: StudentCard
    ) -> None:
        super().__init__()
        self.backbone = encoder
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


_ENCODERS: Mapping[str, tuple[Callable[[float, int], MobileNetV2], tuple[int, ...]]] = {
    "mobilenetv2": (MobileNetV2, (2048, 512, 256, 128)),
}
"""Encoder -> how to build it, and the published decoder's channels, deep to shallow."""


def build(card: StudentCard, bins: UniformBins) -> DenseDepth:
    """Builds a card's network with random weights.

    Raises:
        UnknownNameError: the card names an encoder that is not here.
    """
    if card.encoder not in _ENCODERS:
        raise UnknownNameError("students/densedepth.py", card.encoder, _ENCODERS)
    encoder, published = _ENCODERS[card.encoder]
    channels = tuple(_divisible(c * card.width) for c in published)
    network = DenseDepth(encoder(card.encoder_width, card.encoder_stride), channels, bins, card)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a third faster
    return network


def load_encoder(network: DenseDepth, path: Path) -> None:
    """Fills the encoder from an ImageNet checkpoint with torchvision's or with our own names.

    The classifier and the last 1280-channel convolution are left aside: the student has neither.

    Raises:
        CheckpointError: unreadable, or another network's.
    """
    state = read_state(path)
    names = dict(network.backbone.torchvision_names())
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        module, _, leaf = key.removeprefix("backbone.").rpartition(".")
        if module.startswith(("features.18", "classifier", "conv2.", "head")):
            continue
        renamed[f"{names.get(module, module)}.{leaf}"] = value
    if not renamed:
        raise CheckpointError(f"{path} holds no encoder: expected MobileNetV2's names")
    load_state(
        network.backbone,
        renamed,
        str(path),
        unused=lambda key: key.endswith("num_batches_tracked"),  # older files lack it
    )
