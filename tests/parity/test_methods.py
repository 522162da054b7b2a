"""The cards of published methods give the published code's values, as a training calls them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdpipe.cards import load_method
from kdpipe.students import StudentOutput
from kdpipe.students.base import BINS
from kdpipe.training.methods import loss_of

with np.load(Path(__file__).parent / "losses" / "golden.npz") as _file:
    GOLDEN = {name: _file[name] for name in _file.files}
TOLERANCE = 1e-5


def value_of(method: str, output: StudentOutput, teacher: torch.Tensor) -> float:
    """A method's loss over a batch that has a teacher everywhere and no truth."""
    nothing = torch.zeros_like(teacher)
    known = torch.ones_like(teacher, dtype=torch.bool)
    batch = {"truth": nothing, "valid": ~known, "teacher": teacher, "known": known}
    return float(loss_of(load_method(method))(output, batch))


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("res-kd-ssim", "ssim_loss_lw1.5"),
        ("res-kd-mse", "mse_loss"),
        ("res-kd-si", "si_loss_teacher"),
        ("res-kd-ssim-si", "ssim_si_loss_lw1.5"),
        ("res-kd-ssim-mse", "ssim_mse_loss_lw1.5"),
    ],
)
def test_res_kd(method: str, value: str) -> None:
    pred, teacher = (torch.from_numpy(GOLDEN[name]) for name in ("pred", "teacher"))

    found = value_of(method, StudentOutput(pred, None, torch.empty(0)), teacher)

    assert found == pytest.approx(float(GOLDEN[f"value/{value}"]), rel=TOLERANCE)


@pytest.mark.parametrize(
    ("method", "case", "value"),
    [
        ("tie-kd", "nyu49_sigma0.5", "tie_kd_total/nyu49_lw0.1"),
        ("tie-kd", "kitti257_sigma0.5", "tie_kd_total/kitti257_lw0.1"),
        ("tie-kd-dpm", "nyu49_sigma0.15", "l_dpm_mean/nyu49_sigma0.15"),
        ("tie-kd-depth", "nyu49_sigma0.15", "l_depth/nyu49_sigma0.15"),
        ("tie-kd-depth", "kitti257_sigma0.5", "l_depth/kitti257_sigma0.5"),
    ],
)
def test_tie_kd(method: str, case: str, value: str) -> None:
    teacher, probabilities, depth = (
        torch.from_numpy(GOLDEN[f"dpm/{case}/{name}"])
        for name in ("teacher", "student_probs", "student_depth")
    )
    bins = BINS["nyu" if case.startswith("nyu") else "kitti"]

    found = value_of(method, StudentOutput(depth, probabilities, bins.centers()), teacher)

    assert found == pytest.approx(float(GOLDEN[f"value/{value}"]), rel=TOLERANCE)
