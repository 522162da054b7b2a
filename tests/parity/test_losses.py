"""The losses against the values of the official codes.

`losses/golden.npz` holds their inputs and values; of the KITTI crop only the rows that are not
cut, as the others must not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdpipe.losses import DISTILLATION_LOSSES, TRUTH_LOSSES, dpm_loss, dpm_target, silog, ssim
from kdpipe.losses.silog import ADABINS, BTS, TOOLBOX, TOOLBOX_WARM_UP, ZOEDEPTH
from kdpipe.losses.tie_kd import TieKd, tie_kd
from kdpipe.students import BINS

with np.load(Path(__file__).parent / "losses" / "golden.npz") as _file:
    GOLDEN: dict[str, Any] = {name: _file[name] for name in _file.files}
TOLERANCE = 1e-5  # of the fixtures' description
PRED, TRUTH, HALF, TEACHER = (
    torch.from_numpy(GOLDEN[name]) for name in ("pred", "gt", "pred_half", "teacher")
)
UPSAMPLED = F.interpolate(HALF[:, None], TRUTH.shape[-2:], mode="bilinear", align_corners=True)[
    :, 0
]
FULL = SimpleNamespace(depth=PRED, probabilities=None, centers=torch.empty(0))
EVERYWHERE = torch.ones_like(TRUTH, dtype=torch.bool)


def expect(name: str, found: Tensor) -> None:
    """Compares with the fixture's value, relative to its largest."""
    expected = GOLDEN[f"value/{name}"]
    assert np.abs(found.numpy() - expected).max() <= TOLERANCE * np.abs(expected).max(), name


def of_teacher(name: str) -> Tensor:
    """A loss of the dict, between the fixture's prediction and teacher."""
    return DISTILLATION_LOSSES[name](FULL, TEACHER, EVERYWHERE, {})


SINGLE: dict[str, Callable[[], Tensor]] = {
    "silog_adabins": lambda: silog(PRED, TRUTH, TRUTH > 1e-3, ADABINS),
    "silog_adabins_half_size_pred": lambda: TRUTH_LOSSES["silog-adabins"](
        SimpleNamespace(depth=HALF, probabilities=None, centers=torch.empty(0)),
        TRUTH,
        EVERYWHERE,
        {},
    ),
    "silog_zoedepth": lambda: silog(PRED, TRUTH, TRUTH > 1e-3, ZOEDEPTH),
    "silog_zoedepth_half_size_pred": lambda: silog(UPSAMPLED, TRUTH, TRUTH > 1e-3, ZOEDEPTH),
    "silog_bts_vf0.85": lambda: silog(PRED, TRUTH, TRUTH > 1e-3, BTS),
    "silog_bts_vf0.85_mask0.1": lambda: silog(PRED, TRUTH, TRUTH > 0.1, BTS),
    "silog_bts_vf0.85_mask1.0": lambda: silog(PRED, TRUTH, TRUTH > 1.0, BTS),
    "si_toolbox_gt_lw1": lambda: TRUTH_LOSSES["silog"](FULL, TRUTH, EVERYWHERE, {}),
    "si_toolbox_gt_lw10": lambda: 10 * silog(PRED, TRUTH, TRUTH > 0, TOOLBOX),
    "si_toolbox_gt_max8": lambda: silog(PRED, TRUTH, (TRUTH > 0) & (TRUTH <= 8)),
    "si_toolbox_warmup_first_step": lambda: silog(PRED, TRUTH, TRUTH > 0, TOOLBOX_WARM_UP),
    "ssim_index": lambda: ssim(PRED, TEACHER).mean(),
    "ssim_index_window7": lambda: ssim(PRED, TEACHER, window=7).mean(),
    "ssim_index_per_image": lambda: ssim(PRED, TEACHER),
    "ssim_loss_lw1": lambda: of_teacher("ssim"),
    "ssim_mse_loss_lw1": lambda: of_teacher("ssim") + of_teacher("mse"),
    "ssim_si_loss_lw1": lambda: of_teacher("ssim") + of_teacher("si"),
    "ssim_loss_lw1.5": lambda: 1.5 * of_teacher("ssim"),
    "ssim_mse_loss_lw1.5": lambda: 1.5 * of_teacher("ssim") + of_teacher("mse"),
    "ssim_si_loss_lw1.5": lambda: 1.5 * of_teacher("ssim") + of_teacher("si"),
    "mse_loss": lambda: of_teacher("mse"),
    "si_loss_teacher": lambda: of_teacher("si"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_loss_of_depth_gives_the_official_value(name: str) -> None:
    expect(name, SINGLE[name]())


@pytest.mark.parametrize(
    ("case", "bins", "sigma"),
    [
        ("nyu49_sigma0.15", "nyu", 0.15),
        ("nyu49_sigma0.5", "nyu", 0.5),
        ("kitti257_sigma0.5", "kitti", 0.5),
        ("kitti257_sigma0.8", "kitti", 0.8),
    ],
)
def test_a_pixels_target_and_divergence_are_the_official_ones(
    case: str, bins: str, sigma: float
) -> None:
    depth = torch.from_numpy(GOLDEN[f"pixels/{case}/teacher"]).view(-1, 1, 1)
    probabilities = torch.from_numpy(GOLDEN[f"pixels/{case}/probs"].T.copy())[..., None, None]
    centers = BINS[bins].centers()

    target = dpm_target(depth, centers, sigma=sigma)[..., 0, 0].T

    np.testing.assert_allclose(target, GOLDEN[f"pixels/{case}/target"], atol=1e-6)
    for one, mine, expected in zip(depth, probabilities, GOLDEN[f"pixels/{case}/kl"], strict=True):
        loss = dpm_loss(mine[None], one[None], centers, sigma=sigma)
        assert loss.item() == pytest.approx(float(expected), rel=TOLERANCE)


@pytest.mark.parametrize(
    ("case", "bins", "sigma"),
    [
        ("nyu49_sigma0.15", "nyu", 0.15),
        ("nyu49_sigma0.5", "nyu", 0.5),
        ("kitti257_sigma0.5", "kitti", 0.5),
    ],
)
def test_tie_kd_gives_the_official_values(case: str, bins: str, sigma: float) -> None:
    teacher, probabilities, depth = (
        torch.from_numpy(GOLDEN[f"dpm/{case}/{name}"])
        for name in ("teacher", "student_probs", "student_depth")
    )
    centers = BINS[bins].centers()

    expect(f"l_dpm_mean/{case}", dpm_loss(probabilities, teacher, centers, sigma=sigma))
    expect(f"l_depth/{case}", 1 - ssim(depth, teacher).mean())
    if sigma == 0.5:
        for weight in (0.1, 1.5):
            total = tie_kd(depth, probabilities, centers, teacher, form=TieKd(weight=weight))
            expect(f"tie_kd_total/{case.split('_')[0]}_lw{weight}", total)


def test_the_kitti_crop_drops_its_top_rows_and_counts_as_many_of_zeros() -> None:
    teacher, probabilities, depth = (
        # rubbish above: it must not matter
        F.pad(torch.from_numpy(GOLDEN[f"kitti_crop/{name}"]).float(), (0, 0, 110, 0), value=0.7)
        for name in ("teacher", "student_probs", "student_depth")
    )
    edges = torch.linspace(1e-3, 80, 34)
    centers = (edges[1:] + edges[:-1]) / 2

    def total(weight: float) -> Tensor:
        return tie_kd(depth, probabilities, centers, teacher, form=TieKd(weight=weight))

    expect("kitti_crop/tie_kd_total_lw0.1", total(0.1))
    expect("kitti_crop/l_dpm_mean", total(1.0) / 10)
    expect("kitti_crop/l_depth", total(0.0) / 10)
    expect(
        "kitti_crop/l_dpm_mean_over_cropped_rows_only",
        dpm_loss(probabilities[:, :, 110:], teacher[:, 110:], centers, sigma=0.5),
    )
