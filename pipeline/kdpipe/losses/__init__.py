"""Losses: tensors in, one scalar out; by name, for the cards of methods and teachers.

A loss of the two dicts below is called as `f(output, target, valid, options)`: `target` is depth
(B, H, W) [m], measured or a teacher's, `valid` says where it counts. A prediction smaller than its
target (AdaBins: half the size) is resized to it first, bilinearly with aligned corners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from kdpipe.errors import CardError
from kdpipe.losses.bins import Mixture, TeacherBins, bins_loss, chamfer, project
from kdpipe.losses.domain import domain_loss
from kdpipe.losses.dpm import dpm_loss, dpm_target
from kdpipe.losses.hu import hu
from kdpipe.losses.silog import ADABINS, BTS, TOOLBOX, ZOEDEPTH, SilogForm, silog
from kdpipe.losses.ssim import known_ssim, ssim
from kdpipe.losses.tie_kd import TieKd, form_of, tie_kd

__all__ = [
    "BINS_LOSSES",
    "DISTILLATION_LOSSES",
    "TRUTH_LOSSES",
    "WEIGHTED",
    "Loss",
    "Prediction",
    "SilogForm",
    "TeacherBins",
    "TieKd",
    "bins_loss",
    "chamfer",
    "domain_loss",
    "dpm_loss",
    "dpm_target",
    "hu",
    "known_ssim",
    "project",
    "silog",
    "ssim",
    "tie_kd",
]


class Prediction(Protocol):
    """What a network in training gives: a student's output, or a teacher's."""

    @property
    def depth(self) -> Tensor:
        """(B, h, w) [m]"""

    @property
    def probabilities(self) -> Tensor | None:
        """(B, N, h, w), or None."""

    @property
    def centers(self) -> Tensor:
        """(N,) or (B, N) [m]"""


Options: TypeAlias = Mapping[str, object]
Loss: TypeAlias = Callable[[Prediction, Tensor, Tensor, Options], Tensor]
BinsLoss: TypeAlias = Callable[[Prediction, TeacherBins | Mixture, Tensor, Options], Tensor]


def _depth_at(output: Prediction, target: Tensor) -> Tensor:
    depth = output.depth.float()
    if depth.shape[-2:] == target.shape[-2:]:
        return depth
    size = (target.shape[-2], target.shape[-1])
    return F.interpolate(depth[:, None], size, mode="bilinear", align_corners=True)[:, 0]


def _silog(output: Prediction, target: Tensor, valid: Tensor, options: Options) -> Tensor:
    return silog(_depth_at(output, target), target, valid * (target > 0), TOOLBOX)


def _silog_adabins(output: Prediction, target: Tensor, valid: Tensor, options: Options) -> Tensor:
    return silog(_depth_at(output, target), target, valid & (target > 1e-3), ADABINS)


def _silog_bts(output: Prediction, target: Tensor, valid: Tensor, options: Options) -> Tensor:
    return silog(_depth_at(output, target), target, valid & (target > 1e-3), BTS)


def _silog_zoedepth(output: Prediction, target: Tensor, valid: Tensor, options: Options) -> Tensor:
    return silog(_depth_at(output, target), target, valid & (target > 1e-3), ZOEDEPTH)


def _chamfer(output: Prediction, target: Tensor, valid: Tensor, options: Options) -> Tensor:
    centers = output.centers.expand(len(target), output.centers.shape[-1])
    return chamfer(centers, target, valid & (target >= 1e-3))


def _domain(output: Prediction, target: Tensor, valid: Tensor, options: Options) -> Tensor:
    logits: Tensor | None = getattr(output, "domain_logits", None)
    if logits is None:
        raise CardError("domain: the network has no router, expected `domains` in its card")
    return domain_loss(logits, str(options.get("domain")), valid.flatten(1).any(dim=1))


def _tie_kd(output: Prediction, target: Tensor, valid: Tensor, options: Options) -> Tensor:
    if output.probabilities is None:
        raise CardError("tie-kd: the student has no bins, expected `head: dpm` in its card")
    form = form_of(options, output.probabilities.shape[1])
    depth = _depth_at(output, target)
    return tie_kd(depth, output.probabilities, output.centers, target, valid, form=form)


def _bins(
    output: Prediction, teacher: TeacherBins | Mixture, known: Tensor, _options: Options
) -> Tensor:
    if output.probabilities is None:
        raise CardError("bins: the student has no bins, expected `head: dpm` in its card")
    return bins_loss(output.probabilities, output.centers, teacher, known)


def _ssim(output: Prediction, target: Tensor, valid: Tensor, options: Options) -> Tensor:
    some = valid.flatten(1).any(dim=1)
    lost = 1 - ssim(_depth_at(output, target), target)
    return lost[some].sum() / some.sum().clamp(min=1)


def _hu(output: Prediction, target: Tensor, valid: Tensor, options: Options) -> Tensor:
    return hu(_depth_at(output, target), target, valid)


def _mse(output: Prediction, target: Tensor, valid: Tensor, options: Options) -> Tensor:
    error = torch.where(valid > 0, _depth_at(output, target) - target, 0)
    return (valid * error.square()).sum() / valid.sum().clamp(min=1e-6)


TRUTH_LOSSES: Mapping[str, Loss] = {
    "silog": _silog,
    "silog-adabins": _silog_adabins,
    "silog-bts": _silog_bts,
    "silog-zoedepth": _silog_zoedepth,
    "chamfer": _chamfer,
    "hu": _hu,
    "domain": _domain,
}
"""Against measured depth; `domain` is ZoeDepth-NK's router against the data set's domain."""

DISTILLATION_LOSSES: Mapping[str, Loss] = {
    "tie-kd": _tie_kd,
    "ssim": _ssim,
    "mse": _mse,
    "si": _silog,
    "hu": _hu,
}
"""Against a teacher's stored depth. `ssim`, `mse` and `si` are TIE-KD's Res-KD baselines, whose
published weight of 1 - SSIM is 1.5."""

WEIGHTED = frozenset({"mse", "si", "hu", "bins"})
"""Of these two, those that also take weights of pixels in [0, 1] in the place of a mask."""

BINS_LOSSES: Mapping[str, BinsLoss] = {"bins": _bins}
"""Against a teacher's stored distribution, which takes the place of `target`."""
