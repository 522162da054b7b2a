"""Torchvision's ResNets, ResNeXts and DenseNets as feature pyramids, with torchvision's names."""

from __future__ import annotations

import importlib
from typing import cast

from torch import Tensor, nn

from kdpipe.nets.encoders import EfficientNetPyramid
from kdpipe.nets.torchvision_shim import make_torchvision_importable

RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d"),
)
DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")


class ResNetPyramid(nn.Module):
    """A ResNet without its classifier: the stem's ReLU at 1/2, then each layer, 1/4 to 1/32.

    Args:
        name: one of RESNETS; weights are random.

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385;
        Xie et al., "Aggregated Residual Transformations", https://arxiv.org/abs/1611.05431
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.timm_name = name
        network = _of_torchvision(name)
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(part, network.get_submodule(part))
        deep = network.get_submodule("fc").in_features
        stem = cast("nn.Conv2d", network.get_submodule("conv1")).out_channels
        factor = cast("int", deep) // 8
        self.channels: tuple[int, ...] = (stem, *(factor * step for step in (1, 2, 4, 8)))
        """Of the five maps, finest first."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> five maps, finest first; sizes round up."""
        x = self.get_submodule("bn1")(self.get_submodule("conv1")(image))
        maps = [self.get_submodule("relu")(x)]
        x = self.get_submodule("maxpool")(maps[0])
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            maps.append(x)
        return maps


class DenseNetPyramid(nn.Module):
    """A DenseNet without its classifier: stem 1/2, pool 1/4, two transitions, the last norm 1/32.

    The deepest map is not rectified, as in the network itself before its classifier.

    Args:
        name: one of DENSENETS; weights are random.

    Reference:
        Huang et al., "Densely Connected Convolutional Networks", https://arxiv.org/abs/1608.06993
    """

    _TAPS = ("relu0", "pool0", "transition1", "transition2", "norm5")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.timm_name = name
        for part, module in _of_torchvision(name).get_submodule("features").named_children():
            self.add_module(part, module)
        stem = cast("nn.Conv2d", self.get_submodule("conv0")).out_channels
        first, second = (
            cast("nn.Conv2d", self.get_submodule(f"transition{number}.conv")).out_channels
            for number in (1, 2)
        )
        last = cast("nn.BatchNorm2d", self.get_submodule("norm5")).num_features
        self.channels: tuple[int, ...] = (stem, stem, first, second, last)
        """Of the five maps, finest first."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> five maps, finest first; sizes round down at pools."""
        x, maps = image, []
        for name, part in self.named_children():
            x = part(x)
            if name in self._TAPS:
                maps.append(x)
        return maps


def make_pyramid(name: str) -> ResNetPyramid | DenseNetPyramid | EfficientNetPyramid:
    """An encoder with random weights that gives five maps, 1/2 to 1/32, and their `channels`.

    Args:
        name: one of RESNETS or DENSENETS, with torchvision's names in the state dict, or an
            EfficientNet-like timm network.

    Raises:
        CardError: none of these.
    """
    if name in RESNETS:
        return ResNetPyramid(name)
    if name in DENSENETS:
        return DenseNetPyramid(name)
    return EfficientNetPyramid(name)


def _of_torchvision(name: str) -> nn.Module:
    make_torchvision_importable()
    models = importlib.import_module("torchvision.models")
    return cast("nn.Module", getattr(models, name)(weights=None))
