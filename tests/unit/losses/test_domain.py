from __future__ import annotations

import math

import pytest
import torch

from kdpipe.errors import CardError
from kdpipe.losses import domain_loss

LOGITS = torch.tensor([[2.0, 0.0], [-1.0, 1.0]])
BOTH = torch.tensor([True, True])


@pytest.mark.parametrize(("domain", "sign"), [("nyu", -1), ("rooms", -1), ("kitti", 1)])
def test_the_domain_is_every_images_class(domain: str, sign: int) -> None:
    """Cross-entropy of two classes: ln(1 + exp(-d)), d how far the right one is ahead."""
    ahead = sign * (LOGITS[:, 1] - LOGITS[:, 0])

    found = float(domain_loss(LOGITS, domain, BOTH))

    assert found == pytest.approx(sum(math.log1p(math.exp(-d)) for d in ahead.tolist()) / 2)


def test_an_image_without_truth_does_not_count() -> None:
    found = float(domain_loss(LOGITS, "nyu", torch.tensor([True, False])))

    assert found == pytest.approx(math.log1p(math.exp(-2)))


def test_a_domain_that_is_neither_rooms_nor_roads_is_refused() -> None:
    with pytest.raises(CardError, match=r"domain is 'any', expected one of nyu, rooms, kitti"):
        domain_loss(LOGITS, "any", BOTH)
