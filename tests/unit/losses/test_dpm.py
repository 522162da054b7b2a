"""The teacher's bins, both ways, and the divergence that is taken chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from kdpipe.losses import dpm, fused
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
    monkeypatch.setattr(fused, "_CHUNK", chunk)
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


@pytest.mark.parametrize("sigma", [0.05, 0.15, 0.8])
@pytest.mark.parametrize("bins", ["nyu", "kitti"])
def test_the_bins_near_a_depth_stand_for_all(bins: str, sigma: float) -> None:
    """Also of depths beyond the first and the last bin, of one image and odd sides."""
    centers = BINS[bins].centers()
    generator = torch.Generator().manual_seed(1)
    depth = torch.rand(1, 5, 9, generator=generator) * 1.3 * centers[-1]
    depth[0, 0] = 0
    values = torch.softmax(3 * torch.randn(1, len(centers), 5, 9, generator=generator), 1)
    uneven = torch.cat([centers[:1] - 1e-2 * (centers[1] - centers[0]), centers[1:]])

    found = [values.clone().requires_grad_() for _ in range(2)]
    near = dpm_loss(found[0], depth, centers, sigma=sigma, mode="normalized")
    torch.autograd.backward(near)
    double = found[1].double().detach().requires_grad_()
    q = dpm_target(depth.double(), centers.double(), sigma=sigma, mode="normalized")
    whole = (q * torch.log(q / (double + 1e-7) + 1e-7)).sum(1).mean()
    torch.autograd.backward(whole)

    assert near.item() == pytest.approx(whole.item(), rel=1e-6)
    assert found[0].grad is not None
    assert double.grad is not None
    error = (found[0].grad - double.grad).norm() / double.grad.norm()
    assert error < 2e-6  # float32's own: q of one bin has a relative rounding of 1e-6
    assert dpm._even_step(uneven) is None


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_the_derivative_in_double_precision(mode: DpmMode) -> None:
    values = torch.softmax(LOGITS[:1, :, :2, :3].double() / 3, 1).requires_grad_()
    depth, centers = DEPTH[:1, :2, :3].double(), NYU.double()

    assert torch.autograd.gradcheck(
        lambda s: dpm_loss(s, depth, centers, sigma=0.5, mode=mode), values, atol=1e-6
    )


def test_a_second_backward_pass_gives_the_same_gradient() -> None:
    probabilities = torch.softmax(LOGITS, 1).requires_grad_()

    loss = 3 * dpm_loss(probabilities, DEPTH, NYU, sigma=0.5)
    (first,) = torch.autograd.grad(loss, probabilities, retain_graph=True)
    (second,) = torch.autograd.grad(2 * loss, probabilities)

    torch.testing.assert_close(second, 2 * first)


class Largest(TorchDispatchMode):
    """Counts tensors as large as a given one that live at once beside it."""

    def __init__(self, own: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.own, self.most = own.untyped_storage(), 0
        self.seen: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.untyped_storage().nbytes() >= self.own.nbytes():
            storage = result.untyped_storage()
            if storage.data_ptr() != self.own.data_ptr():
                self.seen[storage.data_ptr()] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        living = [one for one in self.seen.values() if not one.expired()]  # type: ignore[no-untyped-call]
        self.most = max(self.most, len(living))
        return result


@pytest.mark.parametrize("mode", MODES)
def test_one_tensor_of_that_size_is_enough(mode: DpmMode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_CHUNK", 1)
    probabilities = torch.softmax(LOGITS, 1).requires_grad_()

    with Largest(probabilities) as seen:
        loss = dpm_loss(probabilities, DEPTH, NYU, sigma=0.15, mode=mode)
        torch.autograd.grad(3 * loss, probabilities)

    assert seen.most == 1


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
