"""Chamfer distance: equal to the table of all distances."""

from __future__ import annotations

import pytest
import torch

from kdpipe.losses.bins import chamfer

GENERATOR = torch.Generator().manual_seed(0)
CENTERS = torch.rand(3, 16, generator=GENERATOR) * 10
TRUTH = torch.rand(3, 9, 11, generator=GENERATOR) * 10
VALID = torch.rand(3, 9, 11, generator=GENERATOR) > 0.4


def test_value_and_gradient_are_those_of_all_pairs() -> None:
    centers = CENTERS.clone().requires_grad_()
    expected = torch.zeros(())
    for points, truth, valid in zip(centers, TRUTH, VALID, strict=True):
        pairs = (points[:, None] - truth[valid][None]).square()
        expected = expected + (pairs.min(1).values.mean() + pairs.min(0).values.mean()) / 3

    found = chamfer(centers, TRUTH, VALID)

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, centers), torch.autograd.grad(expected, centers)
    )


@pytest.mark.parametrize("count", [1, 2])
def test_few_points_on_either_side_are_enough(count: int) -> None:
    valid = torch.zeros_like(VALID[:1])
    valid[0, 0, :count] = True
    points = CENTERS[:1, :count]
    pairs = (points[0][:, None] - TRUTH[:1][valid][None]).square()

    found = chamfer(points, TRUTH[:1], valid)

    torch.testing.assert_close(found, pairs.min(1).values.mean() + pairs.min(0).values.mean())


def test_an_image_without_truth_adds_nothing() -> None:
    valid = VALID.clone()
    valid[1:] = False
    centers = CENTERS.clone().requires_grad_()

    loss = chamfer(centers, TRUTH, valid)
    torch.autograd.backward(loss)

    torch.testing.assert_close(loss, chamfer(CENTERS[:1], TRUTH[:1], VALID[:1]) / 3)
    assert centers.grad is not None
    assert (centers.grad[1:] == 0).all()
    assert chamfer(CENTERS, TRUTH, torch.zeros_like(VALID)).item() == 0
