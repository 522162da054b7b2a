"""Which images a training sees, and in what order labelled and unlabelled ones come."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from kdpipe.errors import TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.cards import MethodCard

logger = logging.getLogger(__name__)

MixName: TypeAlias = Literal["x", "u", "x+u", "x+u-prime"]
MIXES: tuple[str, ...] = get_args(MixName)
"""Hu et al.'s four settings, where X is the labelled data set and U the others.

`x`: X alone. `u`: U alone, of which a teacher knows something; X is only validated on. `x+u`: both,
U without its truth. `x+u-prime`: both, and the truth of U (their U') is read like that of X.

Reference:
    Hu et al., "Boosting LightWeight Depth Estimation Via Knowledge Distillation",
    https://arxiv.org/abs/2105.06143. Their teacher of X and U' was trained on the truth of both.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What of the data sets is learned from."""

    name: MixName
    ratio: float | None = None
    """Share of U in a batch; None: both are put together, and count as they are large."""

    @property
    def tag(self) -> str:
        """In the name of a run: what its data sets do not say by themselves."""
        return {"u": "u", "x+u-prime": "u-prime"}.get(self.name, "")

    @property
    def identity(self) -> dict[str, object]:
        """What it adds to a training's identity; the usual mix follows from the data sets."""
        return {"mix": [self.tag, self.ratio]} if self.tag or self.ratio else {}

    @property
    def reads_labelled(self) -> bool:
        """Whether X is trained on."""
        return self.name != "u"

    @property
    def reads_more_truth(self) -> bool:
        """Whether the truth of U is read."""
        return self.name == "x+u-prime"


def mix_of(name: str | None, ratio: float | None, aux: tuple[str, ...], method: MethodCard) -> Mix:
    """The mix that is asked for; None: `x`, or `x+u` where there are further data sets.

    Raises:
        TrainingError: it does not go with the data sets, the method or the ratio.
    """
    chosen = name or ("x+u" if aux else "x")
    if chosen not in MIXES:
        raise TrainingError(f"mix {chosen!r} found, one of {', '.join(MIXES)} expected")
    if chosen == "x" and aux:
        raise TrainingError(
            f"mix x is the labelled data set alone and --aux {','.join(aux)} is given: leave it "
            "out, or take --mix x+u"
        )
    if chosen != "x" and not aux:
        raise TrainingError(f"mix {chosen} needs further images: add --aux D2, or leave --mix out")
    if ratio is not None and not 0 < ratio < 1:
        raise TrainingError(f"ratio {ratio:g} found, a share of --aux between 0 and 1 expected")
    if ratio is not None and chosen in ("x", "u"):
        raise TrainingError(
            f"ratio {ratio:g} parts labelled and unlabelled images, mix {chosen} has only one of "
            "them: add --aux D2 and take --mix x+u, or leave --ratio out"
        )
    if aux and not method.teacher and chosen != "x+u-prime":
        raise TrainingError(
            f"method {method.name} learns from labels only and --aux {','.join(aux)} adds images "
            "without labels: leave --aux out, choose a method with a teacher, or read the labels "
            "of --aux with --mix x+u-prime"
        )
    return Mix(name=chosen, ratio=ratio)  # type: ignore[arg-type]  # it is one of MIXES


def say_unread(mix: Mix, method: MethodCard) -> None:
    """Logs where the truth of U that a mix reads teaches nothing."""
    if mix.reads_more_truth and not method.truth:
        logger.warning(
            "mix %s: method %s learns from no measured depth; that of --aux at most aligns "
            "relative teachers, else this is --mix x+u",
            mix.name,
            method.name,
        )


class Order:
    """Sample number -> its place among all samples of all parts; follows from the seed alone."""

    def __init__(self, sizes: tuple[int, ...], *, seed: int, ratio: float | None = None) -> None:
        """An endless order.

        Args:
            sizes: of the parts; the first is the labelled one.
            seed: of the shuffling.
            ratio: share of the samples that are not the first part's, in any stretch of samples
                to within one. None: every sample of every part once an epoch.
        """
        self._first = sizes[0]
        self._ratio = ratio
        self._all = _Shuffled(sum(sizes), seed, 0)
        self._own, self._more = _Shuffled(sizes[0], seed, 2), _Shuffled(sum(sizes[1:]), seed, 3)

    def __getitem__(self, k: int) -> int:
        """The place of the k-th sample since the start of training."""
        if self._ratio is None:
            return self._all[k]
        before = math.floor(k * self._ratio)  # so many were not the first part's
        if math.floor((k + 1) * self._ratio) > before:
            return self._first + self._more[before]
        return self._own[k - before]


class _Shuffled:
    """All numbers below a size, again and again, each time in another order."""

    def __init__(self, size: int, seed: int, kind: int) -> None:
        self._size = size
        self._seed = (seed, kind)
        self._round = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def __getitem__(self, k: int) -> int:
        round_, place = divmod(k, self._size)
        if round_ != self._round:
            self._order = np.random.default_rng([*self._seed, round_]).permutation(self._size)
            self._round = round_
        return int(self._order[place])
