"""TIE-KD's combined loss, as its code runs, and with what is wrong in it put right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdpipe.errors import CardError
from kdpipe.losses.dpm import DpmMode, dpm_loss
from kdpipe.losses.ssim import known_ssim, ssim
from kdpipe.strict import build

KITTI_CROP_WIDTH = 704
"""Width of TIE-KD's KITTI crop: only maps of this width lose their top rows."""

TOP_ROWS = 110
"""Rows without LiDAR at the top of that crop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TieKd:
    """What the combined loss may vary in; the defaults are what the published code runs."""

    weight: float = 0.1
    """Of L_DPM; L_DEPTH has the rest to 1. 1 is L_DPM alone, 0 L_DEPTH alone."""

    sigma: float = 0.5
    """Of the teacher's Gaussian [m]. The published configurations say 0.8 (KITTI) and 0.15 (NYU),
    but the combined loss does not hand them on: 0.5 is what runs."""

    dpm_mode: DpmMode = "published"
    """Of `dpm_target`."""

    ssim: Literal["published", "known"] = "published"
    """`known`: signed covariance, windows and mean over known pixels."""

    top_rows: Literal["padded", "masked", "kept"] = "padded"
    """Of maps 704 wide, rows above 110: cut, and as many rows of zeros added below, so the means
    shrink (published); left out of the means; or kept."""

    known_only: bool = False
    """Whether pixels that the teacher does not know are left out; published: all count."""


PUBLISHED = TieKd()


def tie_kd(
    depth: Tensor,
    probabilities: Tensor,
    centers: Tensor,
    teacher: Tensor,
    known: Tensor | None = None,
    *,
    form: TieKd = PUBLISHED,
) -> Tensor:
    """TIE-KD's loss of a student's bins and depth against a teacher's depth.

        10 * (w * L_DPM + (1 - w) * (1 - SSIM))

    An image whose teacher knows no pixel at all (a bad file) is left out in every form.

    Args:
        depth: the student's (B, H, W) [m].
        probabilities: the student's, over bins (B, N, H, W), or at a smaller size: L_DPM is then
            taken there, against the nearest of the teacher's pixels.
        centers: mid-points of the bins (N,) [m].
        teacher: the teacher's depth (B, H, W) [m].
        known: where the teacher's depth is known (B, H, W), bool; None: everywhere.
        form: what to vary; see `TieKd`.

    Returns:
        A scalar; 0, with zero gradient, where nothing is known.

    Reference:
        Choi et al., "TIE-KD", https://arxiv.org/abs/2402.14340, section 3.3; the factor 10 and the
        row cut are only in the published code.
    """
    if known is None:
        known = torch.ones_like(teacher, dtype=torch.bool)
    some = known.flatten(1).any(dim=1)
    if not bool(some.any()):
        return depth.sum() * 0 + probabilities.sum() * 0
    if not bool(some.all()):
        depth, probabilities, teacher, known = (
            t[some] for t in (depth, probabilities, teacher, known)
        )
    counted = known if form.known_only else torch.ones_like(known)
    if teacher.shape[-1] == KITTI_CROP_WIDTH and teacher.shape[-2] > TOP_ROWS:
        if form.top_rows == "padded":
            probabilities = _at_size_of(teacher, probabilities)
            depth, teacher, probabilities = map(_pad_rows, (depth, teacher, probabilities))
        elif form.top_rows == "masked":
            counted = counted.clone()
            counted[:, :TOP_ROWS] = False
    total = depth.new_zeros(())
    if form.weight != 0:
        divergence = _divergence(probabilities, teacher, counted, centers, form)
        total = total + form.weight * divergence
    if form.weight != 1:
        similarity = _similarity(depth, teacher, counted, form)
        total = total + (1 - form.weight) * (1 - similarity)
    return 10 * total


def form_of(options: Mapping[str, object], bins: int) -> TieKd:
    """Reads a method card's options.

    Args:
        options: keys of `TieKd`; `sigma` may also be a mapping of numbers of bins to sigmas.
        bins: the student's number of bins, to choose among these.

    Raises:
        CardError: an unknown key, a value of the wrong type or out of its choices.
    """
    values = dict(options)
    sigma = values.get("sigma")
    if isinstance(sigma, Mapping):
        by_bins = {str(key): value for key, value in sigma.items()}
        if str(bins) not in by_bins:
            raise CardError(
                f"tie-kd: sigma names bins {', '.join(by_bins)}, the student has {bins}: "
                "add it to the method's card"
            )
        values["sigma"] = by_bins[str(bins)]
    form = build(TieKd, values, "tie-kd's options")
    if form.weight < 0 or form.sigma <= 0:
        raise CardError(f"tie-kd: weight >= 0 and sigma > 0 expected, got {form}")
    return form


def _divergence(
    probabilities: Tensor, teacher: Tensor, counted: Tensor, centers: Tensor, form: TieKd
) -> Tensor:
    """L_DPM, at the probabilities' size."""
    return dpm_loss(
        probabilities,
        _picked(teacher, probabilities),
        centers,
        _picked(counted, probabilities),
        sigma=form.sigma,
        mode=form.dpm_mode,
    )


def _similarity(depth: Tensor, teacher: Tensor, counted: Tensor, form: TieKd) -> Tensor:
    if form.ssim == "published":
        return ssim(depth, teacher).mean()
    return known_ssim(depth, teacher, counted)


def _at_size_of(maps: Tensor, probabilities: Tensor) -> Tensor:
    """Probabilities (B, N, H', W') at the size of maps (B, H, W): cut rows must be the same."""
    size = (maps.shape[-2], maps.shape[-1])
    if probabilities.shape[-2:] == size:
        return probabilities
    return F.interpolate(probabilities, size, mode="bilinear", align_corners=True)


def _pad_rows(maps: Tensor) -> Tensor:
    """Cuts the top rows of (..., H, W) and adds as many zeros below, as the era's cropping did."""
    return F.pad(maps[..., TOP_ROWS:, :], (0, 0, 0, TOP_ROWS))


def _picked(maps: Tensor, like: Tensor) -> Tensor:
    """The pixels of (B, H, W) nearest to those of a smaller map whose corners are the same.

    Nearest, not bilinear: no depth between two surfaces is made up, and known stays known.
    """
    h, w = like.shape[-2:]
    if maps.shape[-2:] == (h, w):
        return maps
    rows, columns = (
        torch.linspace(0, end - 1, count, device=maps.device).round().long()
        for end, count in ((maps.shape[-2], h), (maps.shape[-1], w))
    )
    return maps[:, rows][:, :, columns]
