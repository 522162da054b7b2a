"""The teacher's bins, both ways, and the divergence that is taken chunk by chunk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdpipe.losses import dpm
from kdpipe.losses.dpm import DpmMode, dpm_loss, dpm_target
from kdpipe.students.base import BINS

KITTI, NYU = BINS["kitti"].centers(), BINS["nyu"].centers()
GENERATOR = torch.Generator().manual_seed(0)
DEPTH = torch.rand(2, 6, 7, generator=GENERATOR) * 8 + 1
LOGITS = 3 * torch.randn(2, 49, 6, 7, generator=GENERATOR)
MODES: list[DpmMode] = ["published", "normalized"]


def plain(
    probabilities: Tensor, depth: Tensor, known: Tensor | None, sigma: float, mode: DpmMode
) -> Tensor:
    """The formula in one go, for autograd to differentiate."""
    q = dpm_target(depth, NYU.to(depth.dtype), sigma=sigma, mode=mode).to(probabilities.dtype)
    terms = q * torch.log(q / (probabilities + 1e-7) + 1e-7)
    divergence = torch.where(probabilities == 0, 0, terms).sum(1)
    return divergence.mean() if known is None else divergence[known].mean()


@pytest.mark.parametrize(
    ("depth", "sigma", "bins", "largest", "mean"),
    [
        (10.0, 0.5, 28, 0.067162, 9.96709),
        (40.0, 0.5, 27, 0.070829, 40.00043),
        (1.0, 0.5, 17, 0.102992, 2.31928),  # off by more than a metre, as published
        (10.0, 0.8, 44, 0.034216, 9.96504),
    ],
)
def test_the_published_target_is_nearly_flat(
    depth: float, sigma: float, bins: int, largest: float, mean: float
) -> None:
    q = dpm_target(torch.tensor([[[depth]]]), KITTI, sigma=sigma)[0, :, 0, 0]

    assert int((q > 0).sum()) == bins
    assert q.max().item() == pytest.approx(largest, abs=1e-6)
    assert float((q * KITTI).sum()) == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("depth", [1.0, 3.0, 9.0])
def test_the_normalized_target_has_the_teachers_depth_as_its_mean(depth: float) -> None:
    q = dpm_target(torch.tensor([[[depth]]]), NYU, sigma=0.15, mode="normalized")[0, :, 0, 0]

    assert float((q * NYU).sum()) == pytest.approx(depth, abs=1e-3)
    assert q.max() > 0.4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("depth", [0.0, 1e6])
def test_a_depth_far_from_all_bins_still_gives_probabilities(depth: float, mode: DpmMode) -> None:
    q = dpm_target(torch.tensor([[[depth]]]), NYU, sigma=0.15, mode=mode)

    torch.testing.assert_close(q.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("chunk", [1, 300, 2**18], ids=["a-row", "some-rows", "all"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_are_those_of_the_plain_formula(
    mode: DpmMode, masked: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpm, "_CHUNK", chunk)
    known = torch.rand(2, 6, 7, generator=GENERATOR) > 0.3 if masked else None
    probabilities = torch.softmax(LOGITS, 1).requires_grad_()
    double = torch.softmax(LOGITS, 1).double().requires_grad_()

    loss = 3 * dpm_loss(probabilities, DEPTH, NYU, known, sigma=0.5, mode=mode)
    torch.autograd.backward(loss)
    expected = 3 * plain(double, DEPTH, known, 0.5, mode)
    torch.autograd.backward(expected)

    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert probabilities.grad is not None
    assert double.grad is not None
    torch.testing.assert_close(probabilities.grad.double(), double.grad, rtol=1e-4, atol=1e-8)


def test_probabilities_of_exactly_zero_do_not_count() -> None:
    probabilities = torch.softmax(LOGITS, 1)
    probabilities[:, 10:20] = 0
    probabilities.requires_grad_()

    loss = dpm_loss(probabilities, DEPTH, NYU, sigma=0.5)
    torch.autograd.backward(loss)

    torch.testing.assert_close(loss, plain(probabilities, DEPTH, None, 0.5, "published"))
    assert probabilities.grad is not None
    assert (probabilities.grad[:, 10:20] == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_known_costs_nothing(mode: DpmMode) -> None:
    probabilities = torch.softmax(LOGITS, 1).requires_grad_()
    known = torch.zeros(2, 6, 7, dtype=torch.bool)

    loss = dpm_loss(probabilities, DEPTH, NYU, known, sigma=0.5, mode=mode)
    torch.autograd.backward(loss)

    assert loss.item() == 0
    assert probabilities.grad is not None
    assert (probabilities.grad == 0).all()


def test_a_certain_student_gets_finite_gradients() -> None:
    logits = (300 * torch.randn(2, 49, 6, 7, generator=GENERATOR)).requires_grad_()

    loss = dpm_loss(torch.softmax(logits, 1), DEPTH, NYU, sigma=0.15, mode="normalized")
    torch.autograd.backward(loss)

    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
