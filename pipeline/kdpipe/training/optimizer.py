"""AdamW and its one cycle, as a card's recipe says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from kdpipe.errors import CardError

if TYPE_CHECKING:
    from kdpipe.cards import FitRecipe
    from kdpipe.params import TrainParams


def make_optimizer(network: nn.Module, recipe: FitRecipe, params: TrainParams) -> AdamW:
    """AdamW with two groups: the encoder, and the rest."""
    encoder = getattr(network, "encoder", None) or getattr(network, "backbone", None)
    inner = set(encoder.parameters()) if isinstance(encoder, nn.Module) else set()
    rate = params.learning_rate or recipe.learning_rate
    groups = [
        {
            "params": [p for p in network.parameters() if p in inner],
            "lr": rate * recipe.encoder_learning_rate_factor,
        },
        {"params": [p for p in network.parameters() if p not in inner], "lr": rate},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
    )


def make_schedule(optimizer: AdamW, recipe: FitRecipe, steps: int) -> OneCycleLR:
    """One cosine cycle over all steps, each group to its own peak.

    Raises:
        CardError: the warm-up is no part of the steps.
    """
    if not 0 < recipe.warm_up < 1:
        raise CardError(f"fit: warm_up must be in (0, 1), got {recipe.warm_up:g}")
    # A peak at exactly the first step makes torch divide by zero.
    warm_up = recipe.warm_up + 1e-9 * (recipe.warm_up * steps == 1)
    low, high = recipe.cycle_momentum or (0.85, 0.95)
    return OneCycleLR(
        optimizer,
        max_lr=[float(group["lr"]) for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=warm_up,
        cycle_momentum=recipe.cycle_momentum is not None,
        base_momentum=low,
        max_momentum=high,
        div_factor=recipe.start_division,
        final_div_factor=recipe.end_division,
    )
