"""TIE-KD's MobileNetV2: the network of its paper at stride 8, with mmcv's names."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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

    timm_name = "mobilenetv2"
    """Whose ImageNet weights it may start from."""

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
        inputs = divisible(32 * width)
        self.conv1 = _ConvNorm(3, inputs, 3, stride=2)
        channels = []
        for number, (expansion, published, blocks, step, dilation, given) in enumerate(
            self._LAYERS, 1
        ):
            if stride == 16 and dilation > 1:  # the first dilated layer shrinks instead
                step, dilation = 2 if number == 4 else 1, dilation // 2
            outputs = divisible(published * width)
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


def divisible(channels: float) -> int:
    """The multiple of 8 nearest to a number of channels, but not less than nine tenths of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
