"""What a student costs: its parameters, and the multiplications of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from kdpipe.students import build_network, used_parameters

if TYPE_CHECKING:
    from kdpipe.cards import StudentCard

SIZE = (416, 544)
"""(H, W) of the image [pixels]: TIE-KD's crop of NYU."""

_ENCODERS = ("backbone", "E")
"""What families call their encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one student."""

    parameters: int
    """That the forward pass reads."""

    macs: int
    """Multiplications and additions in pairs, of one image of `SIZE`."""

    decoder_macs: int
    """Those after the encoder."""


def cost_of(card: StudentCard) -> Cost:
    """Counts without computing: nothing is allocated.

    Raises:
        UnknownNameError, CardError: the card names no network.
    """
    with torch.device("meta"), torch.no_grad():
        network = build_network(card, bins_domain="nyu").eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, *SIZE))
    counts = {name: sum(by.values()) // 2 for name, by in counter.get_flop_counts().items()}
    encoder = sum(counts.get(f"{type(network).__name__}.{name}", 0) for name in _ENCODERS)
    total = counts["Global"]
    return Cost(
        parameters=used_parameters(network),
        macs=total,
        decoder_macs=total - encoder,
    )
