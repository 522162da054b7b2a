from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kdpipe.metrics.depth import METRICS, delta, depth_errors_of_valid

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _truth() -> NDArray[np.float64]:
    return np.random.default_rng(0).uniform(0.5, 9.0, 1000)


def test_a_perfect_prediction_has_no_error() -> None:
    errors = depth_errors_of_valid(_truth(), _truth())

    assert tuple(errors) == METRICS
    assert all(errors[name] == 0 for name in METRICS[:6])
    assert all(errors[name] == 1 for name in METRICS[6:])


@pytest.mark.parametrize("factor", [0.5, 1.1, 3.0])
def test_a_constant_factor_costs_what_the_formulas_say(factor: float) -> None:
    errors = depth_errors_of_valid(factor * _truth(), _truth())

    assert errors["abs_rel"] == pytest.approx(abs(factor - 1))
    assert errors["silog"] == pytest.approx(0, abs=1e-6)
    assert errors["rmse_log"] == pytest.approx(abs(math.log(factor)))
    assert errors["log10"] == pytest.approx(abs(math.log10(factor)))


def test_two_pixels_by_hand() -> None:
    errors = depth_errors_of_valid(np.array([3.0, 4.0]), np.array([2.0, 8.0]))

    assert errors["abs_rel"] == pytest.approx((1 / 2 + 4 / 8) / 2)
    assert errors["sq_rel"] == pytest.approx((1 / 2 + 16 / 8) / 2)
    assert errors["rmse"] == pytest.approx(math.sqrt((1 + 16) / 2))
    assert errors["silog"] == pytest.approx(50 * math.log(3))


def test_the_threshold_itself_is_bad_unless_hu_asks() -> None:
    pred, truth = np.array([5.0]), np.array([4.0])  # exactly 1.25

    assert delta(pred, truth, 1) == 0
    assert delta(truth, pred, 1) == 0
    assert delta(pred, truth, 2) == 1
    assert delta(pred, truth, 1, strict=False) == 1


def test_single_precision_input_is_judged_in_double() -> None:
    truth = np.full(1_000_000, 7.3, np.float32)

    assert depth_errors_of_valid(truth * np.float32(1.1), truth)["silog"] < 1e-5


@pytest.mark.parametrize(
    ("pred", "truth", "says"),
    [
        pytest.param([], [], "no valid pixel", id="nothing"),
        pytest.param([1.0], [1.0, 2.0], "equal shapes", id="shapes"),
        pytest.param([0.0], [1.0], "pred", id="zero-pred"),
        pytest.param([1.0], [0.0], "truth", id="zero-truth"),
        pytest.param([np.nan], [1.0], "pred", id="nan-pred"),
        pytest.param([1.0], [np.inf], "truth", id="endless-truth"),
    ],
)
def test_what_has_no_error_is_refused(pred: list[float], truth: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        depth_errors_of_valid(np.array(pred), np.array(truth))
