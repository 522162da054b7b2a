"""A distillation method's card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from kdpipe.errors import CardError

Join: TypeAlias = Literal["log-mean", "mean"]
Confidence: TypeAlias = Literal["none", "entropy", "disagreement", "mirrored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCard:
    """A distillation method: losses and their weights, no code."""

    name: str
    teacher: bool
    """Whether it reads a teacher's store; False: labels only."""

    truth: Mapping[str, float] = field(default_factory=dict)
    """Loss against the measured depth -> weight, on rows that have it."""

    distillation: Mapping[str, float] = field(default_factory=dict)
    """Loss against the teacher's stored depth -> weight, on all rows."""

    truth_share: float | None = None
    """On a labelled row the losses against truth weigh this and the teacher's the rest to 1, on an
    unlabelled one the teacher's weigh 1. None: both weigh 1 on all rows that have them."""

    options: Mapping[str, object] = field(default_factory=dict)
    """Of the losses, e.g. `sigma` and `dpm_mode` of tie-kd; checked by losses/."""

    rotate_teacher: bool = True
    """False repeats TIE-KD's published pipeline, which turns image and truth but not the teacher's
    map."""

    join: Join = "log-mean"
    """Of several teachers, at each pixel over those that know it: the mean of depth, or of its
    logarithm. Their distributions are mixed."""

    weigh_teachers: Literal["equally", "inverse-variance"] = "equally"
    """`inverse-variance`: by how far each is from measured depth."""

    teacher_weights: Mapping[str, float] = field(default_factory=dict)
    """Teacher -> weight, with the sum 1, instead."""

    confidence: Confidence = "none"
    """How much a pixel of the teacher's counts: `entropy`: 1 less that of its bins, by the largest;
    `disagreement`: the smallest of several teachers' depths by the largest; `mirrored`: the same of
    one teacher's depth of the image and of its mirror image, from two stores of the same weights,
    one card with `mirror: true`, whose averaged depth is learned from."""

    confidence_threshold: float | None = None
    """Pixels below do not count and all others do; None: confidence is their weight."""

    about: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_weights()
        self._check_confidence()
        if self.truth_share is None:
            return
        if not 0 <= self.truth_share <= 1 or not (self.truth and self.distillation):
            raise CardError(
                f"methods/{self.name}: truth_share in [0, 1] expected, and losses under truth and "
                f"distillation to share, got {self.truth_share:g}"
            )

    def _check_weights(self) -> None:
        for name, weight in (*self.truth.items(), *self.distillation.items()):
            if not 0 < weight < math.inf:
                raise CardError(
                    f"methods/{self.name}: loss {name} weighs {weight:g}, a number above 0 "
                    "expected: leave out what does not count"
                )
        weights = self.teacher_weights.values()
        if not weights:
            return
        if min(weights) < 0 or not math.isclose(sum(weights), 1, abs_tol=1e-6):
            raise CardError(
                f"methods/{self.name}: teacher_weights {dict(self.teacher_weights)} found, numbers "
                "from 0 with the sum 1 expected"
            )
        if self.weigh_teachers != "equally":
            raise CardError(
                f"methods/{self.name}: teacher_weights and weigh_teachers: {self.weigh_teachers} "
                "found, one of the two expected: leave one out"
            )

    def _check_confidence(self) -> None:
        threshold = self.confidence_threshold
        if self.confidence != "none" and not self.distillation:
            raise CardError(
                f"methods/{self.name}: confidence is of a teacher, found no loss under distillation"
            )
        if threshold is not None and (self.confidence == "none" or not 0 < threshold <= 1):
            raise CardError(
                f"methods/{self.name}: confidence_threshold {threshold:g} found, expected one in "
                "(0, 1] beside confidence: entropy, disagreement or mirrored"
            )
