from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdpipe.errors import TrainingError
from kdpipe.rows import Rows
from kdpipe.training.pictures import colours
from kdpipe.training.validation import Validation

if TYPE_CHECKING:
    from kdpipe.training.samples import Sample

MakeRows = Callable[..., Rows]


class Constant(nn.Module):
    """Says one depth, at half the size."""

    def __init__(self, metres: float) -> None:
        super().__init__()
        self.metres = nn.Parameter(torch.tensor(metres))


def constant(network: nn.Module, batch: Sample) -> Tensor:
    assert isinstance(network, Constant)
    b, _, h, w = batch["image"].shape
    return network.metres.detach().expand(b, h // 2, w // 2)


def test_errors_are_means_over_the_val_split(make_tiny: MakeRows) -> None:
    rows = make_tiny(val=3)
    validation = Validation(rows, (48, 64), constant, batch_size=2)

    found = validation(Constant(3.0))

    batch = validation.some(9)
    assert batch is not None
    truth = batch["truth"].numpy().astype(np.float64)
    expected = np.mean([np.mean(np.abs(3 - one) / one) for one in truth])
    assert found["abs_rel"] == pytest.approx(float(expected), rel=1e-5)
    assert set(found) == {"abs_rel", "delta1", "rmse"}


def test_a_depth_out_of_range_is_clipped_not_an_error(make_tiny: MakeRows) -> None:
    assert Validation(make_tiny(), (48, 64), constant)(Constant(-5.0))["abs_rel"] < 1.01


def test_a_data_set_without_val_split_is_said(
    make_tiny: MakeRows, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        validation = Validation(make_tiny(val=0), (48, 64), constant)

    assert "no split 'val'" in caplog.text
    assert validation(Constant(1.0)) == {}
    assert validation.some(1) is None


def test_colours_are_fixed_and_unknown_is_black() -> None:
    painted = colours(np.array([[0.0, 1.0, 9.0]], np.float32), 10.0)
    alone = colours(np.array([[1.0]], np.float32), 10.0)

    assert (painted[0, 0] == 0).all()
    assert (painted[0, 1] == alone[0, 0]).all()
    assert int(painted[0, 1].sum()) > int(painted[0, 2].sum()) > 0


def test_a_network_that_diverged_is_one_line(make_tiny: MakeRows) -> None:
    validation = Validation(make_tiny(), (48, 64), constant)

    with pytest.raises(TrainingError, match="depth that is no number in validation"):
        validation(Constant(float("nan")))
