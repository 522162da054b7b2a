from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdpipe.losses import hu

LEAST = 3 * math.log(0.5)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 1 + 3 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).double()


def everywhere(maps: Tensor) -> Tensor:
    return torch.ones_like(maps, dtype=torch.bool)


def inside(maps: Tensor, ring: int) -> Tensor:
    valid = torch.zeros_like(maps, dtype=torch.bool)
    valid[:, ring:-ring, ring:-ring] = True
    return valid


def as_published(pred: Tensor, truth: Tensor) -> Tensor:
    """The formula with its convolutions, all pixels counted."""
    across = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    kernels = torch.stack([across, across.T])[:, None]
    of_pred, of_truth = (
        F.conv2d(maps.float()[:, None], kernels, padding=1) for maps in (pred, truth)
    )
    ahead = torch.ones(len(pred), 1, *pred.shape[1:])
    cosine = F.cosine_similarity(
        torch.cat([-of_pred, ahead], 1), torch.cat([-of_truth, ahead], 1), dim=1, eps=0
    )
    x, y = (of_pred - of_truth).unbind(dim=1)
    logs = [torch.log(e.abs() + 0.5).mean() for e in (pred.float() - truth.float(), x, y)]
    return torch.stack(logs).sum() + (1 - cosine).abs().mean()


def test_a_perfect_map_costs_three_logarithms_of_a_half() -> None:
    depth = noise(2, 9, 12)

    assert float(hu(depth, depth, everywhere(depth))) == pytest.approx(LEAST, abs=1e-6)


def test_with_every_pixel_valid_it_is_the_published_loss() -> None:
    pred, truth = noise(2, 9, 12), noise(2, 9, 12, seed=1)

    found = float(hu(pred, truth, everywhere(truth)))

    assert found == pytest.approx(float(as_published(pred, truth)), rel=1e-5)


def test_a_map_that_is_off_by_a_metre_has_the_right_gradients() -> None:
    truth = noise(1, 9, 12)

    found = float(hu(truth + 1, truth, inside(truth, 1)))

    assert found == pytest.approx(math.log(1.5) + 2 * math.log(0.5), abs=1e-5)


def test_a_tilted_plane_has_the_wrong_normals_and_one_wrong_gradient() -> None:
    truth = torch.full((1, 9, 12), 2.0)
    slope = 0.1  # metres a pixel
    pred = truth + slope * torch.arange(12.0)
    valid = inside(truth, 1)

    found = float(hu(pred, truth, valid))

    depth = torch.log(slope * torch.arange(1.0, 11) + 0.5).mean()
    gradient = math.log(8 * slope + 0.5) + math.log(0.5)
    normal = 1 - 1 / math.sqrt(1 + (8 * slope) ** 2)
    assert found == pytest.approx(float(depth) + gradient + normal, rel=1e-5)


def test_what_stands_in_a_hole_does_not_matter() -> None:
    pred, truth = noise(1, 9, 12), noise(1, 9, 12, seed=1)
    valid = everywhere(truth)
    valid[0, 4, 5] = False

    found = hu(torch.where(valid, pred, 9.0), torch.where(valid, truth, math.nan), valid)

    assert torch.equal(found, hu(pred, truth, valid))


def test_the_rim_of_a_hole_is_no_edge() -> None:
    """Off by a metre around a hole: with the hole's 0 as a neighbour there would be gradients."""
    truth = noise(1, 9, 12)
    valid = inside(truth, 1)
    valid[0, 4, 5] = False

    found = float(hu(truth + 1, truth, valid))

    assert found == pytest.approx(math.log(1.5) + 2 * math.log(0.5), abs=1e-5)


def test_of_sparse_pixels_only_the_depth_counts() -> None:
    pred, truth = noise(1, 9, 12), noise(1, 9, 12, seed=1)
    valid = torch.zeros_like(truth, dtype=torch.bool)
    valid[:, ::2, ::2] = True

    found = float(hu(pred, truth, valid))

    error = (pred - truth)[valid].abs()
    assert found == pytest.approx(float(torch.log(error + 0.5).mean()), rel=1e-5)


def test_unknown_pixels_teach_nothing() -> None:
    pred = noise(1, 9, 12).float().requires_grad_()
    valid = inside(pred, 2)

    torch.autograd.backward(hu(pred, torch.full_like(pred, math.nan).where(~valid, 2.0), valid))

    assert pred.grad is not None
    assert (pred.grad[~valid] == 0).all()
    assert (pred.grad[valid] != 0).any()
    assert pred.grad.isfinite().all()
