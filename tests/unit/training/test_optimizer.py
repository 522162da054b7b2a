from __future__ import annotations

import pytest
from torch import nn

from kdpipe.cards import FitRecipe
from kdpipe.errors import CardError
from kdpipe.params import TrainParams
from kdpipe.training.optimizer import make_optimizer, make_schedule


def recipe(**other: float) -> FitRecipe:
    return FitRecipe(learning_rate=1.0, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("warm_up", [0.25, 0.3, 0.5, 0.7])
def test_any_number_of_steps_ends_at_the_published_rate(steps: int, warm_up: float) -> None:
    optimizer = make_optimizer(nn.Linear(1, 1), recipe(warm_up=warm_up), TrainParams())
    schedule = make_schedule(optimizer, recipe(warm_up=warm_up), steps)

    for _ in range(steps - 1):
        optimizer.step()
        schedule.step()

    assert schedule.get_last_lr() == pytest.approx([1 / 25 / 100])


def test_a_warm_up_that_is_no_part_of_the_steps_is_refused() -> None:
    optimizer = make_optimizer(nn.Linear(1, 1), recipe(), TrainParams())

    with pytest.raises(CardError, match="warm_up must be in"):
        make_schedule(optimizer, recipe(warm_up=2.0), 10)


def test_params_overrule_the_card_s_learning_rate() -> None:
    optimizer = make_optimizer(nn.Linear(1, 1), recipe(), TrainParams(learning_rate=0.25))

    assert [group["lr"] for group in optimizer.param_groups] == [0.25]
