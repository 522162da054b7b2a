"""Hu et al.'s teacher: a ResNet-34 whose maps are fused at half size; its depth is 228x304.

With a card's default `network:` this is the published network, and its state dict has the published
names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.errors import CardError
from kdpipe.nets.encoders import Normalise
from kdpipe.nets.fusion import MultiScaleFusion, Refinement
from kdpipe.nets.pyramids import make_pyramid
from kdpipe.strict import build as build_checked
from kdpipe.teachers.base import Teacher, TeacherOutput

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard

RENAMES: tuple[tuple[str, str], ...] = ()
"""Start of a name in older checkpoints -> its start here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A card's `network:`; the defaults are the published network's."""

    encoder: str = "resnet34"
    """One of nets/pyramids.py, or an EfficientNet-like timm network; its four coarser maps."""

    width: int = 16
    """Channels that each of the four maps keeps."""

    output_size: tuple[int, int] | None = (228, 304)
    """(H, W) of the depth, whatever the input; None: the input's."""

    shorter_side: int | None = None
    """Larger frames are shrunk to this shorter side before the teacher looks [pixels]. Part of how
    the weights were trained: their images were 240x320, of which 228x304 were cut out."""

    def __post_init__(self) -> None:
        sides = (*(self.output_size or ()), self.shorter_side or 1, self.width)
        if min(sides) < 1:
            raise CardError(
                "network: width, output_size and shorter_side must be at least 1, got "
                f"{self.width}, {self.output_size} and {self.shorter_side}"
            )


@dataclass(frozen=True, slots=True)
class HuOutput:
    """What the network gives, with gradients while it trains."""

    depth: Tensor
    """(B, h, w) [m]; it may be negative, which the family's own loss bears."""

    @property
    def probabilities(self) -> None:
        """It has no bins."""

    @property
    def centers(self) -> Tensor:
        """(0,)"""
        return self.depth.new_empty(0)


class Hu(nn.Module):
    """The network: RGB in, depth of a fixed size out.

    Reference:
        Hu et al., "Boosting LightWeight Depth Estimation Via Knowledge Distillation",
        https://arxiv.org/abs/2105.06143. Here it normalises its input itself.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self._size = sizes.output_size
        self.normalise = Normalise("imagenet")
        pyramid = make_pyramid(sizes.encoder)
        self.E = pyramid
        self.MFF = MultiScaleFusion(pyramid.channels[1:], sizes.width)
        self.R = Refinement(sizes.width * len(pyramid.channels[1:]))

    @property
    def encoder(self) -> nn.Module:
        """What ImageNet weights fill, and a recipe trains at its own rate."""
        return self.E

    def forward(self, rgb: Tensor) -> HuOutput:
        """RGB (B, 3, H, W) in [0, 1] -> depth, not clipped."""
        maps = self.E(self.normalise(rgb))[1:]
        depth = self.R(self.MFF(maps), self._size or (rgb.shape[-2], rgb.shape[-1]))[:, 0]
        return HuOutput(depth)

    def start_at(self, depths: Tensor) -> None:
        """Sets the last bias so that any image gives about the median of these depths (n,) [m]."""
        with torch.no_grad():
            cast("Tensor", self.R.conv2.bias).fill_(depths.median().item())


class HuTeacher(Teacher):
    """Shrinks frames to what the network was trained on, and clips its depth to the range."""

    def __init__(
        self,
        card: TeacherCard,
        network: nn.Module,
        device: str,
        mirror: bool | None = None,
    ) -> None:
        super().__init__(card, network, device, mirror)
        self._shorter_side = _sizes_of(card).shorter_side

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        """One pass; `focal` is not read."""
        size = self._shrunk(rgb.shape[-2], rgb.shape[-1])
        if size != rgb.shape[-2:]:
            rgb = F.interpolate(rgb, size, mode="bilinear", antialias=True)
        out: HuOutput = self.network(rgb)
        return TeacherOutput(out.depth.clamp(min=self.card.min_depth))

    def size_seen(self, height: int, width: int) -> tuple[int, int]:
        """See `Teacher`: no larger than the card's shorter side asks for."""
        return self._shrunk(*super().size_seen(height, width))

    def _shrunk(self, height: int, width: int) -> tuple[int, int]:
        if self._shorter_side is None or min(height, width) <= self._shorter_side:
            return height, width
        scale = self._shorter_side / min(height, width)
        return round(scale * height), round(scale * width)


def build(card: TeacherCard) -> nn.Module:
    """The card's network with random weights.

    Raises:
        CardError: its `network:` has an unknown key, a wrong type or a value out of range.
    """
    return Hu(_sizes_of(card))


def make_teacher(
    card: TeacherCard, network: nn.Module, device: str, mirror: bool | None
) -> Teacher:
    """The card's network, with weights, as a teacher."""
    return HuTeacher(card, network, device, mirror)


def _sizes_of(card: TeacherCard) -> Sizes:
    return build_checked(Sizes, card.network, f"teachers/{card.name}: network")
