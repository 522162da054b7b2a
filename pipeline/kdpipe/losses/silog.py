"""Scale-invariant log losses: four published forms that differ in what they add and multiply."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SilogForm:
    """One project's way to write the same idea."""

    inside_logs: float = 0.0
    """Added to both depths before the logarithm [m]."""

    factor: float = 10.0
    """Multiplies the root."""

    focus: float = 0.85
    """Part of the mean error that is forgiven: 1 forgives any common scale, 0 none."""

    is_unbiased: bool = True
    """Divides the variance by n - 1."""

    variance: bool = True
    """False: only the mean counts, the Toolbox's first 100 steps."""


ADABINS = SilogForm()
BTS = SilogForm(is_unbiased=False)
ZOEDEPTH = SilogForm(inside_logs=1e-7)
TOOLBOX = SilogForm(inside_logs=1e-3, factor=1.0)
TOOLBOX_WARM_UP = SilogForm(inside_logs=1e-3, factor=1.0, variance=False)


def silog(pred: Tensor, truth: Tensor, valid: Tensor, form: SilogForm = TOOLBOX) -> Tensor:
    """Scale-invariant log loss over all valid pixels of a batch together.

        factor * sqrt(var(g) + (1 - focus) * mean(g)**2),   g = ln(pred + e) - ln(truth + e)

    Args:
        pred: predicted depth (B, H, W) [m], > 0 (>= 0 where the form adds inside the logs).
        truth: measured depth (B, H, W) [m].
        valid: pixels that count (B, H, W), bool, or their weights; `truth` must be > 0 there.
        form: ADABINS, BTS, ZOEDEPTH, TOOLBOX (also TIE-KD's) or TOOLBOX_WARM_UP.

    Returns:
        A scalar >= 0. No valid pixel gives 0, with zero gradient; so does pred = truth, where the
        root's own gradient is infinite.

    Reference:
        Eigen et al., NeurIPS 2014, section 3.2, https://arxiv.org/abs/1406.2283; Lee et al., "From
        Big to Small" (BTS), https://arxiv.org/abs/1907.10326, equation 5; Bhat et al., "AdaBins",
        https://arxiv.org/abs/2011.14141, equation 5 (the paper's 0.85 and 10; its code takes the
        unbiased variance); Bhat et al., "ZoeDepth", https://arxiv.org/abs/2302.12288.
    """
    counted = valid > 0
    # `where`, not an index: finding the pixels takes longer than computing on all of them.
    one = torch.ones((), device=pred.device)
    error = torch.log(torch.where(counted, pred.float(), one) + form.inside_logs)
    error = error - torch.log(torch.where(counted, truth.float(), one) + form.inside_logs)
    weights = torch.where(counted, valid.float(), 0)
    total = weights.sum().clamp(min=1e-20)
    mean = (weights * error).sum() / total
    squared = (1 - form.focus) * mean.square()
    if form.variance:
        freedom = total  # less 1, of pixels that count alike, in an unbiased variance
        if form.is_unbiased:
            freedom = (total - weights.square().sum() / total).clamp(min=1e-6 * total)
        squared = squared + (weights * (error - mean).square()).sum() / freedom
    root = form.factor * squared.clamp(min=1e-14).sqrt()
    return torch.where(counted.any(), root, 0)
