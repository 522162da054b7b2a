"""A bias that gives a known distribution."""

from __future__ import annotations

import torch

from kdpipe.nets.prior import log_frequency


def test_the_softmax_gives_back_how_often_each_bin_occurs() -> None:
    depths = torch.tensor([0.5, 1.5, 1.6, 3.9, 12.0, -1.0])

    share = torch.softmax(log_frequency(depths, 4, 0.0, 4.0), dim=0)

    assert torch.allclose(share, torch.tensor([2, 2, 0, 2]) / 6, atol=1e-3)
    assert share[2] > 0


def test_without_a_depth_all_bins_are_alike() -> None:
    assert torch.equal(log_frequency(torch.empty(0), 3, 0.0, 1.0), torch.zeros(3))
