"""Scale-invariant log loss: what it forgives, and its edges."""

from __future__ import annotations

import pytest
import torch

from kdpipe.losses.silog import ADABINS, BTS, TOOLBOX, ZOEDEPTH, SilogForm, silog

TRUTH = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(0)) * 5 + 1
EVERYWHERE = torch.ones_like(TRUTH, dtype=torch.bool)


def test_one_factor_for_all_costs_only_what_the_focus_leaves() -> None:
    found = silog(1.2 * TRUTH, TRUTH, EVERYWHERE, ADABINS)

    expected = 10 * (0.15 * torch.log(torch.tensor(1.2)) ** 2) ** 0.5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("form", [ADABINS, BTS, ZOEDEPTH, TOOLBOX])
def test_a_perfect_prediction_costs_nothing_and_has_a_finite_gradient(form: SilogForm) -> None:
    depth = TRUTH.clone().requires_grad_()

    loss = silog(depth, TRUTH, EVERYWHERE, form)
    torch.autograd.backward(loss)

    assert loss.item() < 1e-5
    assert depth.grad is not None
    assert depth.grad.isfinite().all()


def test_pixels_that_are_not_valid_do_not_count_whatever_they_hold() -> None:
    valid = EVERYWHERE.clone()
    valid[:, 0] = False
    wrong = TRUTH.clone()
    wrong[:, 0] = torch.nan
    depth = (TRUTH + 0.3).requires_grad_()

    loss = silog(depth, wrong, valid)
    torch.autograd.backward(loss)

    torch.testing.assert_close(loss, silog(depth[:, 1:], TRUTH[:, 1:], EVERYWHERE[:, 1:]))
    assert depth.grad is not None
    assert (depth.grad[:, 0] == 0).all()


def test_no_valid_pixel_costs_nothing_and_one_has_no_variance() -> None:
    depth = (TRUTH + 0.3).requires_grad_()
    one = torch.zeros_like(EVERYWHERE)

    nothing = silog(depth, TRUTH, one)
    torch.autograd.backward(nothing)
    one[0, 0, 0] = True
    single = silog(depth, TRUTH, one)

    assert nothing.item() == 0
    assert depth.grad is not None
    assert (depth.grad == 0).all()
    assert 0 < single.item() < 1


@pytest.mark.parametrize("weight", [0.3, 0.7, 1e-3])
def test_one_pixel_of_any_weight_has_no_variance(weight: float) -> None:
    depth = TRUTH * torch.linspace(1.1, 3, TRUTH.numel()).view_as(TRUTH)
    whole, part = torch.zeros_like(TRUTH), torch.zeros_like(TRUTH)
    for place in range(TRUTH.numel()):
        whole.view(-1)[place], part.view(-1)[place] = 1, weight
        torch.testing.assert_close(silog(depth, TRUTH, part), silog(depth, TRUTH, whole))
        whole.zero_()
        part.zero_()


def test_half_precision_is_computed_in_single() -> None:
    depth = (TRUTH + 0.3).bfloat16()

    found = silog(depth, TRUTH, EVERYWHERE)

    assert found.dtype == torch.float32
    torch.testing.assert_close(found, silog(depth.float(), TRUTH, EVERYWHERE))


def test_the_gradient_is_that_of_finite_differences() -> None:
    # `silog` computes in float32: steps of 1e-2 keep its rounding below the tolerance
    depth = (TRUTH + torch.rand_like(TRUTH)).requires_grad_()
    direction = torch.rand_like(depth) - 0.5

    (gradient,) = torch.autograd.grad(silog(depth, TRUTH, EVERYWHERE), depth)

    with torch.no_grad():
        ahead = silog(depth + 1e-2 * direction, TRUTH, EVERYWHERE)
        behind = silog(depth - 1e-2 * direction, TRUTH, EVERYWHERE)
    torch.testing.assert_close(
        (gradient * direction).sum(), (ahead - behind) / 2e-2, rtol=1e-2, atol=1e-4
    )
