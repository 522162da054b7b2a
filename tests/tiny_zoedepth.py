"""ZoeDepth, tiny, of each kind, with weights as uneven as trained ones are."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kdpipe.cards import TeacherCard, load_teacher_card
from kdpipe.nets.zoedepth import ZoeDepth, ZoeDepthOutput
from kdpipe.teachers import build_network

SMALL = load_teacher_card("zoedepth-small")
TINY = {
    **SMALL.network,
    **{"hidden": 32, "heads": 2, "feed_forward": 64, "neck": [8, 8, 16, 16], "fusion": 16},
}
KINDS: dict[str, dict[str, object]] = {
    "softplus": {},
    "normed": {"centers": "normed"},
    "routed": {"domains": ["nyu", "kitti"]},
}


def card_of(kind: str = "softplus", **changes: object) -> TeacherCard:
    return replace(SMALL, network={**TINY, **KINDS[kind], **changes})


def stirred(kind: str = "softplus", **changes: object) -> ZoeDepth:
    """Weights as trained ones are: positions matter, layer scales differ, centres spread."""
    generator = torch.Generator().manual_seed(4)
    torch.manual_seed(0)
    network = build_network(card_of(kind, **changes)).eval()
    assert isinstance(network, ZoeDepth)
    for name, value in network.named_parameters():
        with torch.no_grad():
            if value.ndim == 1 or "relative_position" in name:
                value.add_(0.3 * torch.randn(value.shape, generator=generator))
            if name.endswith("conv2.weight") or ".mlp.2." in name:
                value.mul_(4)
    return network


def images(batch: int, height: int = 64, width: int = 96) -> Tensor:
    """Flat colours with some noise, so that a router may tell them apart."""
    generator = torch.Generator().manual_seed(2)
    colours = torch.rand(batch, 3, 1, 1, generator=generator)
    return 0.7 * colours + 0.3 * torch.rand(batch, 3, height, width, generator=generator)


def run(network: ZoeDepth, rgb: Tensor) -> ZoeDepthOutput:
    with torch.no_grad():
        out: ZoeDepthOutput = network(rgb)
    return out
