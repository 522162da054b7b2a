"""The optimiser and its schedule, as a card's recipe says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from kdpipe.errors import CardError

if TYPE_CHECKING:
    from kdpipe.cards import FitRecipe
    from kdpipe.params import TrainParams

_POWER = 0.9
"""Of the polynomial schedule, BTS'."""


def encoder_of(network: nn.Module) -> nn.Module | None:
    """What has a learning rate of its own, and takes ImageNet weights; None: there is none."""
    found = getattr(network, "encoder", None) or getattr(network, "backbone", None)
    return found if isinstance(found, nn.Module) else None


def make_optimizer(network: nn.Module, recipe: FitRecipe, params: TrainParams) -> Optimizer:
    """Adam, or AdamW, with a group for each learning rate and decay.

    Raises:
        CardError: the recipe names parameters that the network has not.
    """
    encoder = encoder_of(network)
    inner = set(encoder.parameters()) if encoder is not None else set()
    rate = params.learning_rate or recipe.learning_rate
    _check_parts(network, (*recipe.learning_rate_factors, *recipe.no_decay))
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        factors = [f for part, f in recipe.learning_rate_factors.items() if part in name]
        factor = recipe.encoder_learning_rate_factor if parameter in inner else [*factors, 1.0][0]
        decay = 0.0 if any(part in name for part in recipe.no_decay) else recipe.weight_decay
        group = groups.setdefault(
            (factor, decay), {"params": [], "lr": rate * factor, "weight_decay": decay}
        )
        group["params"].append(parameter)
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(list(groups.values()), betas=recipe.betas, eps=recipe.epsilon)


def make_schedule(optimizer: Optimizer, recipe: FitRecipe, steps: int) -> LRScheduler:
    """The learning rate over all steps, each group to its own peak.

    Raises:
        CardError: the warm-up is no part of the steps.

    Reference:
        Smith, Topin, "Super-Convergence", https://arxiv.org/abs/1708.07120, for `one-cycle`, with
        cosines as AdaBins, ZoeDepth and TIE-KD have it. The others are those of the codes of BTS
        (`polynomial`), Depthformer (`cosine`) and Hu et al. 2019 (`quarters`).
    """
    if not 0 < recipe.warm_up < 1:
        raise CardError(f"fit: warm_up must be in (0, 1), got {recipe.warm_up:g}")
    if recipe.schedule != "one-cycle":
        return LambdaLR(optimizer, lambda step: _factor(recipe, step / steps))
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


def _factor(recipe: FitRecipe, share: float) -> float:
    """Of the learning rate, once this share of the steps is done."""
    if recipe.schedule == "quarters":
        return float(0.1 ** int(4 * share))
    end = 1 / recipe.end_division
    if recipe.schedule == "polynomial":
        return float(end + (1 - end) * (1 - share) ** _POWER)
    start = 1 / recipe.start_division
    ramp = min(1.0, start + (1 - start) * share / recipe.warm_up)
    return ramp * (end + (1 - end) * (1 + math.cos(math.pi * share)) / 2)


def _check_parts(network: nn.Module, parts: tuple[str, ...]) -> None:
    """Refuses a part of a name that no parameter has: it would change nothing."""
    names = [name for name, _ in network.named_parameters()]
    for part in parts:
        if not any(part in name for name in names):
            raise CardError(
                f"fit: no parameter has {part!r} in its name, as learning_rate_factors or no_decay "
                f"expects; names are like {names[-1]!r}: correct the card"
            )
