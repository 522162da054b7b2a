"""The loss of ZoeDepth-NK's router: rooms or roads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdpipe.errors import CardError

_CLASSES = {"nyu": 0, "rooms": 0, "kitti": 1}
"""A data set's domain -> the router's class: 0 indoor, 1 outdoor."""


def domain_loss(logits: Tensor, domain: str, counted: Tensor) -> Tensor:
    """Cross-entropy of a router's logits.

    All images of one `fit` are of one data set, so its domain is every image's class. That is half
    of what NK was trained on: a router that has seen one class learns to always say it, and the
    other head learns nothing.

    Args:
        logits: (B, 2), for indoor and outdoor.
        domain: of the data card: nyu, rooms or kitti.
        counted: images that count (B,), bool.

    Returns:
        A scalar >= 0; 0, with zero gradient, where no image counts.

    Raises:
        CardError: the domain is neither indoor nor outdoor.

    Reference:
        Bhat et al., "ZoeDepth", https://arxiv.org/abs/2302.12288, section 3.3; its code weighs this
        with 100.
    """
    if domain not in _CLASSES:
        raise CardError(
            f"domain: the data set's domain is {domain!r}, expected one of {', '.join(_CLASSES)}: "
            "name it in the data card, or leave this loss out of the teacher's"
        )
    classes = torch.full((len(logits),), _CLASSES[domain], device=logits.device)
    chosen = F.cross_entropy(logits.float(), classes, reduction="none")[counted]
    return chosen.sum() / counted.sum().clamp(min=1)
