"""ZoeDepth's distribution of depth: 64 bins a pixel from two numbers and a few attracted centres.

The probabilities are a closed form of (p, T). The centres start as seeds at 1/32 of the network's
size and are drawn to attractor points on four finer maps; replaying that needs no weights. So what
is kept of an image is `LogBinomialBins`, and nothing is lost.

Reference:
    Bhat, Birkl, Wofk, Wonka, Müller, "ZoeDepth: Zero-shot Transfer by Combining Relative and Metric
    Depth", 2023, section 3.2. https://arxiv.org/abs/2302.12288
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA = 300.0
"""How narrowly an attractor draws. The published configurations say 1000, which the published code
never hands on: its weights were trained with this."""

_STIRLING_EPSILON = 1e-7
_LEAST_PROBABILITY = 1e-4
_PAIR_EPSILON = 1e-4


class Span(NamedTuple):
    """Depths between which normalised centres lie [m]."""

    near: float
    far: float


@dataclass(frozen=True, slots=True)
class LogBinomialBins:
    """A two-parameter distribution a pixel over centres a pixel (ZoeDepth)."""

    p: Tensor
    """(B, h, w) in (0, 1): where along the bins the mass lies."""

    temperature: Tensor
    """(B, h, w) > 0: how widely it is spread."""

    seeds: Tensor
    """(B, K, h / 32, w / 32) [m], where the centres start."""

    attractors: tuple[Tensor, ...]
    """Points (B, n, ., .) that draw the centres, coarse to fine: 1/16 to 1/2 of (h, w). Metres, or
    parts of `span` if that is given."""

    span: Span | None = None
    """Centres are normalised to it, at last sorted and kept inside; None: they are free."""

    domain_logits: Tensor | None = None
    """(B, D): what the router thought of each head, where there are several."""

    def of(self, number: int) -> LogBinomialBins:
        """Those of one image of the batch."""
        one = slice(number, number + 1)
        logits = None if self.domain_logits is None else self.domain_logits[one]
        attractors = tuple(points[one] for points in self.attractors)
        p, temperature = self.p[one], self.temperature[one]
        return LogBinomialBins(p, temperature, self.seeds[one], attractors, self.span, logits)

    def probabilities(self) -> Tensor:
        """(B, K, h, w) float32, sum 1 over K."""
        return log_binomial(self.p, self.temperature, self.seeds.shape[1])

    def centers(self) -> Tensor:
        """(B, K, h, w) [m]."""
        centers = replay(self.seeds, self.attractors, self.span)
        return _resize(centers, (self.p.shape[-2], self.p.shape[-1]))


def pair_of(values: Tensor, coldest: float, hottest: float) -> tuple[Tensor, Tensor]:
    """The head's four values (B, 4, h, w), none negative, as p and temperature (B, h, w)."""
    left, right, low, high = (values.float() + _PAIR_EPSILON).unbind(1)
    return left / (left + right), (hottest - coldest) * (low / (low + high)) + coldest


def log_binomial(p: Tensor, temperature: Tensor, count: int) -> Tensor:
    """softmax over k of [ln C(n, k) + k ln p + (n - k) ln(1 - p)] / T, with n = count - 1.

    ln C is Stirling's leading term n ln n - k ln k - (n - k) ln(n - k), as the weights were trained
    with; the true coefficient gives another distribution.

    Args:
        p: (B, h, w) in [0, 1].
        temperature: (B, h, w).
        count: of bins.

    Returns:
        (B, count, h, w), sum 1 over count.
    """
    k = torch.arange(count, device=p.device, dtype=p.dtype).view(1, -1, 1, 1)
    n = torch.full_like(k, count - 1)
    inverse = 1 / temperature[:, None]
    odds = p.clamp(_LEAST_PROBABILITY, 1).log() - (1 - p).clamp(_LEAST_PROBABILITY, 1).log()
    # Without n ln(1 - p) / T, the same for every k: two maps are spread over the bins, not four.
    scores = torch.addcmul((k - n / 2) * (odds[:, None] * inverse), _log_choose(n, k), inverse)
    return scores.softmax(dim=1)


def replay(seeds: Tensor, attractors: Sequence[Tensor], span: Span | None = None) -> Tensor:
    """Centres (B, K, ., .) [m] on the finest attractors' map, from where they started.

    On each map the centres, resized from the coarser one, move by the mean over its points a of
    (a - c) / (1 + ALPHA * (a - c)**2).

    Args:
        seeds: (B, K, ., .) [m].
        attractors: points (B, n, ., .), coarse to fine.
        span: see LogBinomialBins.
    """
    centers = seeds.float()
    if span is not None:
        centers = (centers - span.near) / (span.far - span.near)
    for points in attractors:
        centers = _resize(centers, (points.shape[-2], points.shape[-1]))
        shift = torch.zeros_like(centers)
        for number in range(points.shape[1]):
            away = points[:, number : number + 1].float() - centers
            shift = shift + away / (1 + ALPHA * away.square())
        centers = centers + shift / points.shape[1]
    if span is None:
        return centers
    centers = (span.far - span.near) * centers + span.near
    return centers.sort(dim=1).values.clamp(span.near, span.far)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    n, k = n + _STIRLING_EPSILON, k + _STIRLING_EPSILON
    return n * n.log() - k * k.log() - (n - k) * (n - k + _STIRLING_EPSILON).log()


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)
