from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.optim import Adam, AdamW

from kdpipe.cards import FitRecipe, load_teacher_card
from kdpipe.errors import CardError
from kdpipe.params import TrainParams
from kdpipe.teachers import build_network
from kdpipe.training.optimizer import encoder_of, make_optimizer, make_schedule

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler


class Toy(nn.Module):
    """An encoder, a decoder with a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 1)
        self.decoder = nn.ModuleDict({"conv": nn.Linear(1, 1), "norm": nn.LayerNorm(1)})
        self.head = nn.Linear(1, 1)


def recipe(**other: object) -> FitRecipe:
    return FitRecipe(learning_rate=1.0, **other)  # type: ignore[arg-type]


def schedule(how: FitRecipe, steps: int) -> LRScheduler:
    return make_schedule(make_optimizer(nn.Linear(1, 1), how, TrainParams()), how, steps)


def rates(how: FitRecipe, steps: int) -> list[float]:
    """The learning rate of each step."""
    moved, found = schedule(how, steps), []
    for step in range(steps):
        found.append(float(moved.get_last_lr()[0]))
        moved.optimizer.step()
        if step + 1 < steps:
            moved.step()
    return found


def settings(network: nn.Module, how: FitRecipe) -> dict[str, tuple[float, float]]:
    """Parameter -> its learning rate and weight decay."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in make_optimizer(network, how, TrainParams()).param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("warm_up", [0.25, 0.3, 0.5, 0.7])
def test_any_number_of_steps_ends_at_the_published_rate(steps: int, warm_up: float) -> None:
    assert rates(recipe(warm_up=warm_up), steps)[-1] == pytest.approx(1 / 25 / 100)


def test_a_polynomial_falls_from_the_first_step_to_a_part_of_it() -> None:
    """BTS: (1 - end) * (1 - step / steps) ** 0.9 + end."""
    found = rates(recipe(schedule="polynomial", end_division=10), 50)

    assert found[0] == 1
    assert found[20] == pytest.approx(0.1 + 0.9 * 0.6**0.9)
    assert found == sorted(found, reverse=True)


def test_a_cosine_falls_under_its_warm_up_too() -> None:
    how = recipe(schedule="cosine", warm_up=0.5, start_division=1000, end_division=1e8)

    found = rates(how, 100)

    assert found[0] == pytest.approx(1 / 1000)
    assert found[25] == pytest.approx((1 + math.cos(math.pi / 4)) / 2 * 0.5005)
    assert found[75] == pytest.approx((1 + math.cos(math.pi * 3 / 4)) / 2)


def test_quarters_are_a_tenth_each() -> None:
    found = rates(recipe(schedule="quarters"), 8)

    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_a_warm_up_that_is_no_part_of_the_steps_is_refused() -> None:
    with pytest.raises(CardError, match="warm_up must be in"):
        schedule(recipe(warm_up=2.0), 10)


def test_params_overrule_the_card_s_learning_rate() -> None:
    optimizer = make_optimizer(nn.Linear(1, 1), recipe(), TrainParams(learning_rate=0.25))

    assert [group["lr"] for group in optimizer.param_groups] == [0.25]


def test_each_parameter_has_the_rate_and_the_decay_of_its_name() -> None:
    how = recipe(
        encoder_learning_rate_factor=0.1,
        learning_rate_factors={"decoder.conv": 0.5, "decoder": 0.25, "encoder": 9.0},
        weight_decay=0.01,
        no_decay=("norm", "head.bias"),
    )

    found = settings(Toy(), how)

    assert found == {
        "encoder.weight": (0.1, 0.01),
        "encoder.bias": (0.1, 0.01),
        "decoder.conv.weight": (0.5, 0.01),
        "decoder.conv.bias": (0.5, 0.01),
        "decoder.norm.weight": (0.25, 0.0),
        "decoder.norm.bias": (0.25, 0.0),
        "head.weight": (1.0, 0.01),
        "head.bias": (1.0, 0.0),
    }


@pytest.mark.parametrize(
    ("card", "parameter", "factor", "decay"),
    [
        ("bts-nyu", r"encoder\.", 1, 0.01),
        ("bts-nyu", r"decoder\.", 1, 0),
        ("depthformer-kitti", r"(^|\.)norm\d?\.", 1, 0),
        ("depthformer-kitti", "relative_position_bias_table", 1, 0),
        ("depthformer-kitti", r"\.(w_msa\.qkv|bn|convA\.conv)\.", 1, 0.01),
        ("hu-resnet34", "", 1, 1e-4),
        *((f"zoedepth-{kind}", "backbone", 0.1, 0.01) for kind in ("n", "k", "nk")),
        *((f"zoedepth-{kind}", "relative_position", 0.1, 0.01) for kind in ("n", "nk")),
        *((f"zoedepth-{kind}", "reassemble_stage", 0.1, 0.01) for kind in ("n", "nk")),
        ("zoedepth-n", r"neck\.(fusion_stage|convs)|relative_head", 1, 0.01),
        ("zoedepth-nk", r"neck\.(fusion_stage|convs)|relative_head", 0.1, 0.01),
        *((f"zoedepth-{kind}", "metric_head", 1, 0.01) for kind in ("n", "nk")),
    ],
)
def test_published_networks_have_the_published_rates_and_decays(
    card: str, parameter: str, factor: float, decay: float
) -> None:
    teacher = load_teacher_card(card)
    assert teacher.fit is not None
    with torch.device("meta"):
        network = build_network(teacher)

    found = {
        (round(rate / teacher.fit.learning_rate, 9), decays)
        for name, (rate, decays) in settings(network, teacher.fit).items()
        if re.search(parameter, name)
    }

    assert found == {(factor, decay)}


@pytest.mark.parametrize("key", ["learning_rate_factors", "no_decay"])
def test_a_name_that_no_parameter_has_is_refused(key: str) -> None:
    value = {"nrom": 1.0} if key == "learning_rate_factors" else ("nrom",)

    with pytest.raises(CardError, match=r"'nrom'.*'head\.bias'"):
        make_optimizer(Toy(), recipe(**{key: value}), TrainParams())


def test_the_optimiser_is_the_card_s() -> None:
    adam = make_optimizer(nn.Linear(1, 1), recipe(optimizer="adam", epsilon=1e-3), TrainParams())

    assert isinstance(adam, Adam)
    assert not isinstance(adam, AdamW)
    assert adam.param_groups[0]["eps"] == 1e-3
    assert isinstance(make_optimizer(nn.Linear(1, 1), recipe(), TrainParams()), AdamW)


def test_the_encoder_is_found_by_either_name() -> None:
    toy = Toy()
    backbone = nn.Sequential()
    backbone.add_module("backbone", nn.Linear(1, 1))

    assert encoder_of(toy) is toy.encoder
    assert encoder_of(backbone) is backbone.backbone
    assert encoder_of(nn.Linear(1, 1)) is None
