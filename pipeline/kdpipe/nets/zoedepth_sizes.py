"""Sizes of a ZoeDepth network, as a card gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdpipe.errors import CardError

PATCH = 16
"""Side of the encoder's patches [pixels]."""

MULTIPLE = 32
"""Both sides of the network's input are multiples of this [pixels]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A card's `network:`; the defaults are ZoeD-M12-N's."""

    hidden: int = 1024
    """Width of the BEiT encoder."""

    layers: int = 24
    heads: int = 16
    feed_forward: int = 4096
    image: int = 384
    """Side of the square for which each block has a table of relative positions [pixels]; other
    sizes interpolate it."""

    taps: tuple[int, int, int, int] = (6, 12, 18, 24)
    """Blocks whose outputs the decoder reads, counted from 1."""

    neck: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    """Channels of the four maps at 1/4, 1/8, 1/16 and 1/32."""

    fusion: int = 256
    """Channels of the decoder."""

    relative: int = 32
    """Channels of the last map of the relative-depth head."""

    bins: int = 64
    embedding: int = 128
    """Channels of the bins' embeddings."""

    attractors: tuple[int, int, int, int] = (16, 8, 4, 1)
    """Points on the maps at 1/16, 1/8, 1/4 and 1/2; with `domains`, 16 on each."""

    centers: Literal["softplus", "normed"] = "softplus"
    """`softplus`: centres in metres, free; `normed`: between the card's min_depth and max_depth."""

    domains: tuple[str, ...] = ()
    """Names of the heads between which a router chooses for each image; none: one head."""

    classes: int = 1000
    """Of the encoder's classifier, which nothing reads and every official file holds; 0: without,
    and a state dict without it."""

    target: tuple[int, int] | None = (384, 512)
    """(H, W) that the teacher shows its network [pixels]; None: the frame's, in multiples of 32."""

    preprocess: Literal["eval", "infer"] = "eval"
    """`eval`: the frame is resized to `target` exactly, as for the published figures. `infer`: it
    is padded by reflection, which spares the borders, and resized near `target` without distortion;
    depth comes back bicubically."""

    @property
    def points(self) -> tuple[int, ...]:
        """Attractor points on each map, as the network gives them."""
        return (16,) * len(self.attractors) if self.domains else self.attractors

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "feed_forward", "image", "fusion", "relative"):
            if getattr(self, name) < 1:
                raise CardError(f"network: {name} must be at least 1, got {getattr(self, name)}")
        if self.hidden % self.heads:
            raise CardError(
                f"network: hidden must be a multiple of heads, got {self.hidden} and {self.heads}"
            )
        if self.image % PATCH:
            raise CardError(f"network: image must be a multiple of {PATCH}, got {self.image}")
        rises = all(a < b for a, b in zip((0, *self.taps), self.taps, strict=False))
        if not rises or self.taps[-1] > self.layers:
            raise CardError(f"network: taps must rise within 1..{self.layers}, got {[*self.taps]}")
        if min(self.neck) < 1 or min(self.attractors) < 1 or self.fusion % 2:
            raise CardError(
                "network: neck and attractors must be at least 1, fusion even, got "
                f"{[*self.neck]}, {[*self.attractors]} and {self.fusion}"
            )
        if self.bins < 2 or self.embedding < 2 or self.classes < 0:
            raise CardError(
                "network: bins and embedding must be at least 2, classes at least 0, got "
                f"{self.bins}, {self.embedding} and {self.classes}"
            )
        # transformers' router has two outputs.
        if self.domains and not (len(set(self.domains)) == len(self.domains) == 2):
            raise CardError(f"network: domains must be two or none, got {[*self.domains]}")
        if not all(name.isidentifier() for name in self.domains):
            raise CardError(f"network: domains must be plain names, got {[*self.domains]}")
        if self.domains and self.centers == "normed":
            raise CardError("network: domains have centres of `softplus` only, got `normed`")
        if self.target is not None and any(s <= 0 or s % MULTIPLE for s in self.target):
            raise CardError(
                f"network: target must be positive multiples of {MULTIPLE}, got {[*self.target]}"
            )
        if self.target is None and self.preprocess == "infer":
            raise CardError("network: preprocess `infer` needs a target")
