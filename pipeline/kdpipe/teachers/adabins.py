"""AdaBins: a U-Net whose mini-ViT chooses 256 depth bins an image; official layout, any width.

With a card's default `network:` this is the published network, and its state dict has the published
names and shapes. Smaller ones keep the names.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from kdpipe.errors import CardError
from kdpipe.nets.encoders import EfficientNetPyramid, Normalise
from kdpipe.nets.mini_vit import MiniViT
from kdpipe.nets.prior import log_frequency
from kdpipe.strict import build as build_checked
from kdpipe.teachers.base import Bins, Teacher, TeacherOutput, resize

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard

_CONVOLUTIONS = {"convA.conv": 0, "convA.bn": 1, "convB.conv": 3, "convB.bn": 4}
RENAMES = (
    ("adaptive_bins_layer.embedding_conv.", "adaptive_bins_layer.conv3x3."),
    (
        "adaptive_bins_layer.patch_transformer.embedding_encoder",
        "adaptive_bins_layer.patch_transformer.embedding_convPxP",
    ),
    ("backbone.", "encoder."),
    ("decode_head.conv_list.0.conv.", "decoder.conv2."),
    *(
        (f"decode_head.conv_list.{step}.{name}.", f"decoder.up{step}._net.{number}.")
        for step in range(1, 5)
        for name, number in _CONVOLUTIONS.items()
    ),
    ("decode_head.decode_final_conv.", "decoder.conv3."),
    ("decode_head.adaptive_bins_layer.", "adaptive_bins_layer."),
    ("decode_head.conv_out.", "conv_out."),
)
"""Start of a name in older checkpoints, and in mmcv's -> its start here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A card's `network:`; the defaults are the published network's."""

    encoder: str = "tf_efficientnet_b5.ap_in1k"
    """An EfficientNet-like timm network."""

    normalisation: Literal["imagenet", "half"] = "imagenet"
    """Of the input: mean and standard deviation that the encoder's weights expect."""

    decoder: Literal["published", "toolbox"] = "published"
    """`toolbox`: that of the Monocular-Depth-Estimation-Toolbox and of TIE-KD. No padding at its
    first convolution, ReLU, no biases before a batch norm."""

    features: int = 2048
    """Channels of the decoder at 1/32; each step up halves them."""

    embedding: int = 128
    """Channels of the decoder's output and of a token."""

    patch: int = 16
    """Side of a token's patch on the half-size map [pixels]."""

    queries: int = 128
    """Range-attention maps; there must be more patches than that."""

    positions: int = 500
    """Rows of the position table: the most patches an image may have."""

    bins: int = 256
    hidden_bins: int = 256
    """Width of the network that gives the bin widths."""

    layers: int = 4
    heads: int = 4
    feed_forward: int = 1024

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, int) and value < 1:
                raise CardError(f"network: {name} must be at least 1, got {value}")
        if self.features % 16:
            raise CardError(f"network: features must be a multiple of 16, got {self.features}")
        if self.embedding % self.heads:
            raise CardError(
                f"network: embedding must be a multiple of heads, got {self.embedding} and "
                f"{self.heads}"
            )
        if self.queries >= self.positions:
            raise CardError(
                f"network: queries must be fewer than positions, got {self.queries} and "
                f"{self.positions}"
            )


@dataclass(frozen=True, slots=True)
class AdaBinsOutput:
    """What the network gives, with gradients while it trains."""

    edges: Tensor
    """(B, K + 1) [m], from the card's min_depth to its max_depth."""

    depth: Tensor
    """(B, h, w) [m], half the input's size, rounded up: sum of probability * centre."""

    probabilities: Tensor
    """(B, K, h, w), sum 1 over K."""

    @property
    def centers(self) -> Tensor:
        """Mid-points of the bins (B, K) [m]."""
        return (self.edges[:, 1:] + self.edges[:, :-1]) / 2


class UpSampleBN(nn.Module):
    """Up to the skip's size, joined with it, then twice convolution, batch norm, activation."""

    def __init__(self, channels: int, skip: int, out: int, *, toolbox: bool) -> None:
        super().__init__()
        self._net = nn.Sequential(
            nn.Conv2d(channels + skip, out, 3, padding=1, bias=not toolbox),
            nn.BatchNorm2d(out),
            nn.ReLU() if toolbox else nn.LeakyReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=not toolbox),
            nn.BatchNorm2d(out),
            nn.ReLU() if toolbox else nn.LeakyReLU(),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, channels, ., .) and (B, skip, h, w) -> (B, out, h, w)."""
        up = resize(x, (skip.shape[-2], skip.shape[-1]))
        joined: Tensor = self._net(torch.cat([up, skip], dim=1))
        return joined


class Decoder(nn.Module):
    """Five maps of the encoder -> one at half the image's size."""

    def __init__(
        self, channels: tuple[int, ...], features: int, out: int, *, toolbox: bool
    ) -> None:
        super().__init__()
        # The published 1x1 convolution has padding 1: the grid grows by a ring of biases, which
        # the next resize squeezes in. Trained weights rely on it.
        self.conv2 = nn.Conv2d(channels[4], features, 1, padding=0 if toolbox else 1)
        self.up1 = UpSampleBN(features, channels[3], features // 2, toolbox=toolbox)
        self.up2 = UpSampleBN(features // 2, channels[2], features // 4, toolbox=toolbox)
        self.up3 = UpSampleBN(features // 4, channels[1], features // 8, toolbox=toolbox)
        self.up4 = UpSampleBN(features // 8, channels[0], features // 16, toolbox=toolbox)
        self.conv3 = nn.Conv2d(features // 16, out, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first -> (B, out, h, w) of the finest map's size."""
        x = self.conv2(maps[4])
        for number, up in enumerate((self.up1, self.up2, self.up3, self.up4)):
            x = up(x, maps[3 - number])
        decoded: Tensor = self.conv3(x)
        return decoded


class AdaBins(nn.Module):
    """The network: RGB in, depth and its distribution at half size out.

    Reference:
        Bhat, Alhashim, Wonka, "AdaBins: Depth Estimation using Adaptive Bins", CVPR 2021.
        https://arxiv.org/abs/2011.14141. Here the network also returns the probabilities, and
        normalises its input itself.
    """

    def __init__(self, sizes: Sizes, min_depth: float, max_depth: float) -> None:
        super().__init__()
        self.min_depth, self.max_depth = min_depth, max_depth
        self.normalise = Normalise(sizes.normalisation)
        self.encoder = EfficientNetPyramid(sizes.encoder)
        self.adaptive_bins_layer = MiniViT(
            sizes.embedding,
            patch=sizes.patch,
            queries=sizes.queries,
            bins=sizes.bins,
            hidden_bins=sizes.hidden_bins,
            positions=sizes.positions,
            layers=sizes.layers,
            heads=sizes.heads,
            hidden=sizes.feed_forward,
        )
        toolbox = sizes.decoder == "toolbox"
        self.decoder = Decoder(
            self.encoder.channels, sizes.features, sizes.embedding, toolbox=toolbox
        )
        self.conv_out = nn.Sequential(nn.Conv2d(sizes.queries, sizes.bins, 1), nn.Softmax(dim=1))

    def forward(self, rgb: Tensor) -> AdaBinsOutput:
        """RGB (B, 3, H, W) in [0, 1] -> edges, depth, probabilities; not clipped, not resized.

        Raises:
            DataError: the image has too few or too many patches for the card's sizes.
        """
        decoded = self.decoder(self.encoder(self.normalise(rgb)))
        widths, attention = self.adaptive_bins_layer(decoded)
        with torch.autocast(rgb.device.type, enabled=False):
            probabilities = self.conv_out(attention.float())
        widths = (self.max_depth - self.min_depth) * widths
        start = widths.new_full((len(widths), 1), self.min_depth)
        edges = torch.cat([start, widths], dim=1).cumsum(dim=1)
        centers = (edges[:, 1:] + edges[:, :-1]) / 2
        with torch.autocast(rgb.device.type, enabled=False):
            depth = torch.einsum("bk,bkhw->bhw", centers, probabilities)
        return AdaBinsOutput(edges, depth, probabilities)

    def is_unused(self, key: str) -> bool:
        """Whether an entry of a checkpoint is never read: mmcv's heads all have a regression."""
        return key.startswith("decode_head.conv_depth.")

    def start_at(self, depths: Tensor) -> None:
        """Sets the last bias so that any image gives about the distribution of these depths (n,).

        The bins' widths start out nearly equal.
        """
        last = cast("nn.Conv2d", self.conv_out[0])
        bias = log_frequency(depths, last.out_channels, self.min_depth, self.max_depth)
        with torch.no_grad():
            cast("Tensor", last.bias).copy_(bias)


class AdaBinsTeacher(Teacher):
    """Clips the depth to the card's range, before averaging with the mirrored image's."""

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        """One pass; `focal` is not read."""
        out: AdaBinsOutput = self.network(rgb)
        depth = out.depth.clamp(self.card.min_depth, self.card.max_depth)
        return TeacherOutput(depth, Bins(out.edges, out.probabilities))


def build(card: TeacherCard) -> nn.Module:
    """The card's network with random weights.

    Raises:
        CardError: its `network:` has an unknown key, a wrong type or a value out of range.
    """
    sizes = build_checked(Sizes, card.network, f"teachers/{card.name}: network")
    return AdaBins(sizes, card.min_depth, card.max_depth)


def make_teacher(
    card: TeacherCard, network: nn.Module, device: str, mirror: bool | None
) -> Teacher:
    """The card's network, with weights, as a teacher."""
    return AdaBinsTeacher(card, network, device, mirror)
