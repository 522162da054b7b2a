"""Hu et al.'s student of 1.7 million parameters: MobileNetV2, four maps fused at half size.

The names in the state dict are the published ones. The published network resizes its depth to
228x304, the size of its images; here it is the input's, whatever that is.

Reference:
    Hu et al., "Boosting LightWeight Depth Estimation Via Knowledge Distillation",
    https://arxiv.org/abs/2105.06143; Sandler et al., "MobileNetV2",
    https://arxiv.org/abs/1801.04381.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.errors import CardError
from kdpipe.nets.encoders import Normalise, fill_in_order
from kdpipe.nets.fusion import MultiScaleFusion, Refinement
from kdpipe.nets.mobilenet_v2 import divisible
from kdpipe.nets.torchvision_shim import make_torchvision_importable
from kdpipe.students.base import StudentOutput, UniformBins

if TYPE_CHECKING:
    from kdpipe.cards import StudentCard

BINS = "nyu"
"""It has none: what range its depth is kept in, where nothing else says so."""

_TAPS = (3, 6, 13, 16)
"""Features whose output is given: 24, 32, 96 and 160 channels at 1/4 to 1/32."""

_WIDTH = 16
"""Channels that each map keeps."""

_SHARPNESS = 10.0
"""Of the floor at 0 m [1/m] in training: it lifts 0.1 m by 0.03 m and 0.5 m by less than 1 mm."""


class MobileNet(nn.Module):
    """The first 17 features of torchvision's MobileNetV2."""

    timm_name = "mobilenetv2"
    """Whose ImageNet weights it may start from."""

    def __init__(self, width: float) -> None:
        super().__init__()
        make_torchvision_importable()
        models = importlib.import_module("torchvision.models")
        features = models.mobilenet_v2(weights=None, width_mult=width).features
        self.mv2 = cast("nn.Sequential", features[: _TAPS[-1] + 1])
        self.channels = tuple(cast("int", self.mv2[tap].out_channels) for tap in _TAPS)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised (B, 3, H, W) -> four maps, finest first."""
        maps = []
        for number, feature in enumerate(self.mv2):
            x = feature(x)
            if number in _TAPS:
                maps.append(x)
        return maps


class HuStudent(nn.Module):
    """RGB in, depth of the input's size out; it has no bins."""

    def __init__(self, card: StudentCard) -> None:
        super().__init__()
        self.normalise = Normalise("imagenet")
        encoder = MobileNet(card.encoder_width)
        self.E = encoder
        width = divisible(_WIDTH * card.width)
        self.MFF = MultiScaleFusion(encoder.channels, width)
        self.R = Refinement(width * len(encoder.channels))

    def forward(self, rgb: Tensor) -> StudentOutput:
        """Predicts from RGB (B, 3, H, W) in [0, 1].

        In evaluation depth is as published, and may be negative; in training it has a smooth floor
        at 0 m, so that a loss may take its logarithm.
        """
        size = (rgb.shape[-2], rgb.shape[-1])
        depth = self.R(self.MFF(self.E(self.normalise(rgb))), size)[:, 0]
        if self.training:
            depth = F.softplus(depth.float(), beta=_SHARPNESS)
        return StudentOutput(depth, None, depth.new_empty(0))

    def start_at(self, depths: Tensor) -> None:
        """Sets the last bias so that any image gives about the median of these depths (n,) [m]."""
        with torch.no_grad():
            cast("Tensor", self.R.conv2.bias).fill_(depths.median().item())

    def is_unused(self, key: str) -> bool:
        """Whether the forward pass never reads this entry of the state dict: it reads all."""
        return False


_FIXED: Mapping[str, object] = {
    "encoder": "mobilenetv2",
    "encoder_stride": None,
    "output_stride": 1,
    "decoder_norm": False,
}
"""What other students may choose, and this network has one way only."""


def build(card: StudentCard, bins: UniformBins) -> HuStudent:
    """Builds a card's network with random weights.

    Raises:
        CardError: the card asks for bins, or for a choice that only the other family has.
    """
    if card.head != "regression":
        raise CardError(f"students/{card.name}: head is {card.head!r}, this family has regression")
    others = [key for key, value in _FIXED.items() if getattr(card, key) != value]
    if others:
        raise CardError(
            f"students/{card.name}: {', '.join(others)}: found in the card, but family hu has no "
            "such choice: take them out, or set family to densedepth"
        )
    return HuStudent(card)


def load_encoder(network: HuStudent, path: Path) -> None:
    """Fills the encoder from an ImageNet checkpoint with torchvision's, timm's or our names.

    Raises:
        CheckpointError: unreadable, or another network's.
    """
    fill_in_order(network.E, path)
