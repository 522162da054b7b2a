"""The formulas of the depth tables, over the valid pixels of one image: numpy only.

Reference:
    Eigen, Puhrsch, Fergus, "Depth Map Prediction from a Single Image using a Multi-Scale Deep
    Network", NeurIPS 2014, section 4.2. https://arxiv.org/abs/1406.2283
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kdpipe.types import Depths

METRICS = (
    "abs_rel",
    "sq_rel",
    "rmse",
    "rmse_log",
    "log10",
    "silog",
    "delta1",
    "delta2",
    "delta3",
)
"""What every table shows, in this order."""

LOWER_IS_BETTER = frozenset(METRICS[:6])
"""The others are shares of good pixels."""


def abs_rel(pred: Depths, truth: Depths) -> float:
    """mean(|truth - pred| / truth), the error people call REL or AbsRel."""
    return float(np.mean(np.abs(truth - pred) / truth))


def sq_rel(pred: Depths, truth: Depths) -> float:
    """mean((truth - pred)**2 / truth) [m]; divided by truth once, as in all published tables."""
    return float(np.mean((truth - pred) ** 2 / truth))


def rmse(pred: Depths, truth: Depths) -> float:
    """Root of the mean squared difference [m]."""
    return float(np.sqrt(np.mean((truth - pred) ** 2)))


def mae(pred: Depths, truth: Depths) -> float:
    """Mean absolute difference [m]; only Hu et al. print it."""
    return float(np.mean(np.abs(truth - pred)))


def rmse_log(pred: Depths, truth: Depths) -> float:
    """Root of the mean squared difference of natural logarithms."""
    return float(np.sqrt(np.mean((np.log(truth) - np.log(pred)) ** 2)))


def log10(pred: Depths, truth: Depths) -> float:
    """Mean absolute difference of decimal logarithms."""
    return float(np.mean(np.abs(np.log10(truth) - np.log10(pred))))


def silog(pred: Depths, truth: Depths) -> float:
    """Scale-invariant log error in hundredths: 100 * std(ln pred - ln truth).

    Eigen et al.'s error with lambda = 1. The loss of this name keeps 15 % of the mean and is
    multiplied by 10: the two are not comparable.
    """
    return float(100 * np.std(np.log(pred) - np.log(truth)))


def delta(pred: Depths, truth: Depths, power: int, *, strict: bool = True) -> float:
    """Share of pixels with max(truth / pred, pred / truth) below 1.25**power.

    Args:
        pred: depth (N,) [m], > 0.
        truth: measured depth (N,) [m], > 0.
        power: 1, 2 or 3.
        strict: False counts equality too, as Hu et al. do.
    """
    ratio = np.maximum(truth / pred, pred / truth)
    limit = 1.25**power
    return float(np.mean(ratio < limit if strict else ratio <= limit))


_FORMULAS: dict[str, Callable[[Depths, Depths], float]] = {
    "abs_rel": abs_rel,
    "sq_rel": sq_rel,
    "rmse": rmse,
    "mae": mae,
    "rmse_log": rmse_log,
    "log10": log10,
    "silog": silog,
}


def depth_errors_of_valid(
    pred: Depths, truth: Depths, *, strict: bool = True, names: tuple[str, ...] = METRICS
) -> dict[str, float]:
    """All errors of one image.

    Args:
        pred: depth (N,) [m], finite and > 0, valid pixels only.
        truth: measured depth (N,) [m], > 0, the same pixels.
        strict: whether the delta thresholds themselves are bad.
        names: which errors, and their order.

    Returns:
        Error by name; a set's error is the mean of its images' errors, never of pooled pixels.

    Raises:
        ValueError: the shapes differ, no pixel is valid (the mean of nothing is not 0), or a
            depth is not positive and finite.
    """
    if pred.shape != truth.shape:
        raise ValueError(f"pred and truth need equal shapes, got {pred.shape} and {truth.shape}")
    if pred.size == 0:
        raise ValueError("no valid pixel: check the protocol's depth range and crop")
    exact_pred, exact_truth = pred.astype(np.float64), truth.astype(np.float64)
    for name, depth in (("pred", exact_pred), ("truth", exact_truth)):
        if not (np.isfinite(depth).all() and (depth > 0).all()):
            raise ValueError(f"{name} holds depths that are not positive and finite: mask them")
    return {
        name: delta(exact_pred, exact_truth, int(name[-1]), strict=strict)
        if name.startswith("delta")
        else _FORMULAS[name](exact_pred, exact_truth)
        for name in names
    }
