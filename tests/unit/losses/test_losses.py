"""The dicts: every loss by name, called the way the training loop calls it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from kdpipe.cards import card_names, load_method
from kdpipe.errors import CardError
from kdpipe.losses import BINS_LOSSES, DISTILLATION_LOSSES, TRUTH_LOSSES, Loss
from kdpipe.students.base import BINS

GENERATOR = torch.Generator().manual_seed(0)
TARGET = torch.rand(2, 24, 32, generator=GENERATOR) * 8 + 1
EVERYWHERE = torch.ones_like(TARGET, dtype=torch.bool)
ALL = {**TRUTH_LOSSES, **DISTILLATION_LOSSES}
NEEDED: dict[str, dict[str, object]] = {"domain": {"domain": "nyu"}}
"""Loss -> options that it does not do without."""


@dataclass
class Output:
    """What a network gives, at half the target's size."""

    logits: Tensor = field(
        default_factory=lambda: torch.randn(2, 49, 12, 16, generator=GENERATOR).requires_grad_()
    )
    probabilities: Tensor | None = None
    centers: Tensor = field(default_factory=lambda: BINS["nyu"].centers().requires_grad_())

    def __post_init__(self) -> None:
        self.probabilities = torch.softmax(self.logits, 1)
        self.domain_logits: Tensor | None = self.logits[:, :2, 0, 0]
        self.depth = (self.probabilities * self.centers.view(1, -1, 1, 1)).sum(1)


@pytest.mark.parametrize("name", ALL)
def test_a_loss_is_a_positive_scalar_with_a_finite_gradient(name: str) -> None:
    output = Output()

    loss = ALL[name](output, TARGET, EVERYWHERE, NEEDED.get(name, {}))
    torch.autograd.backward(loss)

    assert loss.shape == ()
    assert loss > 0
    grads = [t.grad for t in (output.logits, output.centers) if t.grad is not None]
    assert all(g.isfinite().all() for g in grads)
    assert any(g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("options", [{}, {"dpm_mode": "normalized", "ssim": "known"}])
def test_mixed_precision_does_not_reach_into_a_loss(name: str, options: dict[str, object]) -> None:
    output = Output()
    options = NEEDED.get(name, options)

    with torch.autocast("cpu", torch.bfloat16):
        mixed = ALL[name](output, TARGET, EVERYWHERE, options)

    torch.testing.assert_close(mixed, ALL[name](output, TARGET, EVERYWHERE, options))


@pytest.mark.parametrize("name", ALL)
def test_nothing_valid_costs_nothing_and_teaches_nothing(name: str) -> None:
    output = Output()

    loss = ALL[name](output, torch.zeros_like(TARGET), ~EVERYWHERE, NEEDED.get(name, {}))
    torch.autograd.backward(loss)

    assert loss.item() == 0
    assert output.logits.grad is None or (output.logits.grad == 0).all()


def test_a_student_without_bins_cannot_learn_tie_kd() -> None:
    output = Output()
    output.probabilities = None

    with pytest.raises(CardError, match="expected `head: dpm`"):
        DISTILLATION_LOSSES["tie-kd"](output, TARGET, EVERYWHERE, {})


def test_a_network_without_router_cannot_learn_domains() -> None:
    output = Output()
    output.domain_logits = None

    with pytest.raises(CardError, match="has no router"):
        TRUTH_LOSSES["domain"](output, TARGET, EVERYWHERE, NEEDED["domain"])


@pytest.mark.parametrize("name", card_names("methods"))
def test_every_methods_card_names_losses_that_exist_and_options_that_they_take(name: str) -> None:
    card = load_method(name)
    depths = {n: w for n, w in card.distillation.items() if n not in BINS_LOSSES}
    losses: list[tuple[Loss, float]] = [
        *((TRUTH_LOSSES[n], w) for n, w in card.truth.items()),
        *((DISTILLATION_LOSSES[n], w) for n, w in depths.items()),
    ]

    total = sum(w * loss(Output(), TARGET, EVERYWHERE, card.options).item() for loss, w in losses)

    assert losses
    assert total > 0
    assert card.teacher == bool(card.distillation)
