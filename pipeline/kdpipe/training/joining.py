"""How several teachers become one: what each of them weighs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from kdpipe.datasets import read_truth
from kdpipe.errors import TrainingError

if TYPE_CHECKING:
    from kdpipe.cards import Confidence, Join, MethodCard
    from kdpipe.rows import Rows
    from kdpipe.store import Store

logger = logging.getLogger(__name__)

_IMAGES = 64
"""That are looked at for a teacher's error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """How what several teachers say of a pixel becomes one."""

    join: Join = "log-mean"
    """`mean`: of depth, `log-mean`: of its logarithm."""

    weights: tuple[float, ...] = ()
    """A teacher each, with the sum 1; empty: all alike. Distributions are mixed by them too."""

    confidence: Confidence = "none"


def check_teachers(method: MethodCard, teachers: Sequence[str]) -> None:
    """Refuses teachers that a method cannot join.

    Raises:
        TrainingError: one is named twice, its weight is missing, or they are too few.
    """
    for name in teachers:
        if teachers.count(name) > 1:
            raise TrainingError(f"teacher {name} is named twice: name each teacher once")
    weighed = set(method.teacher_weights)
    if weighed and weighed != set(teachers):
        raise TrainingError(
            f"method {method.name} has teacher_weights of {', '.join(sorted(weighed))}, --teacher "
            f"names {', '.join(teachers)}: make the two agree"
        )
    if method.confidence == "disagreement" and len(teachers) < 2:
        raise TrainingError(
            f"method {method.name} takes confidence from the disagreement of teachers and "
            f"{len(teachers)} is given: name several, --teacher T1,T2"
        )
    if method.confidence == "mirrored" and (len(teachers) != 2 or weighed):
        raise TrainingError(
            f"method {method.name} takes confidence from a mirrored pass and {len(teachers)} "
            f"{'weighed ' * bool(weighed)}teachers are given, expected two cards of the same "
            "weights without teacher_weights: --teacher T,T2 where T2 is T with mirror: true"
        )


def check_same_weights(stores: Sequence[Sequence[Store]]) -> None:
    """Refuses data sets of which one and the same card spoke with different weights.

    What was imported does not say its weights, and passes.

    Args:
        stores: of each data set, one a teacher, in the same order; of some none at all.

    Raises:
        TrainingError: names two stores and their weights.
    """
    for first, *others in zip(*filter(None, stores), strict=True):
        for other in others:
            one, two = _weights(first), _weights(other)
            if one and two and one != two:
                raise TrainingError(
                    f"{other.path} was taught with weights {two[:12]} and {first.path} with "
                    f"{one[:12]}, one teacher expected: teach one of them again with the other's "
                    "weights, see --checkpoint and --fitted-on"
                )


def joining_of(
    method: MethodCard, teachers: Sequence[str], rows: Rows, stores: Sequence[Store]
) -> Joining:
    """What a method's card makes of these teachers.

    Args:
        method: says how they are weighed.
        teachers: their names.
        rows: of the labelled data set.
        stores: over it, one a teacher.

    Raises:
        TrainingError: they are weighed by their errors, and one has none: there is no measured
            depth, or it has no metres. Or they are to be one teacher, mirrored, and are not.
    """
    weights: tuple[float, ...] = ()
    if method.confidence == "mirrored":
        averaged = mirrored_of(stores)
        weights = tuple(float(place == averaged) for place in range(len(stores)))
    elif method.teacher_weights:
        weights = tuple(method.teacher_weights[name] for name in teachers)
    elif method.weigh_teachers == "inverse-variance" and len(stores) > 1:
        for store in stores:
            if not store.info.is_metric:
                raise TrainingError(
                    f"{store.path} holds a disparity without unit, which has no error in metres to "
                    f"weigh it by: give teacher_weights in the card of method {method.name}"
                )
        weights = _by_variance(rows, stores, method.join)
        told = [f"{name} {weight:.3f}" for name, weight in zip(teachers, weights, strict=True)]
        logger.info("%s: by their errors the teachers weigh %s", rows.name, ", ".join(told))
    return Joining(join=method.join, weights=weights, confidence=method.confidence)


def mirrored_of(stores: Sequence[Store]) -> int:
    """Which of two stores of the same weights has depth averaged with the mirrored image's.

    Raises:
        TrainingError: they differ in more than `mirror`, do not differ in it, or have no metres.
    """
    said = [_said(store) for store in stores]
    keys = sorted(said[0].keys() | said[-1].keys())
    other = [key for key in keys if said[0].get(key) != said[-1].get(key)]
    if len(stores) != 2 or other != ["mirror"] or not all(s.info.is_metric for s in stores):
        raise TrainingError(
            f"confidence: mirrored needs two metric stores that differ in mirror alone, found "
            f"{' and '.join(str(store.path) for store in stores)}, which differ in "
            f"{', '.join(other) or 'nothing'}: copy the teacher's card under another name with "
            "mirror: true and teach it with --checkpoint, the same weights"
        )
    return int(bool(said[1]["mirror"]))


def _weights(store: Store) -> str | None:
    weights = cast("dict[str, str]", store.info.identity["weights"])
    return None if "imported" in store.info.identity else weights["sha256"]


def _said(store: Store) -> dict[str, object]:
    """What decides a store's depth, without its card's name."""
    identity = store.info.identity
    card = cast("dict[str, object]", identity["teacher"])
    weights = cast("dict[str, object]", identity["weights"])
    named = ("name", "fingerprint", "weights_sha256")
    said = {key: value for key, value in card.items() if key not in named}
    return {**said, "weights": weights["sha256"], "precision": identity["precision"]}


def _by_variance(rows: Rows, stores: Sequence[Store], join: Join) -> tuple[float, ...]:
    """Weights that are as 1 / mean squared error of what is joined, depth or its logarithm.

    Of the val split where it has truth: teachers often know that of the train split by heart.
    """
    for split in ("val", "train"):
        truths = rows.table["truth"].to_pylist()
        numbers = [number for number in rows.of_split(split) if truths[number] is not None]
        taught = [n for n in numbers if all(_knows(store, n) for store in stores)]
        places = np.linspace(0, len(taught) - 1, min(len(taught), _IMAGES)).astype(int)
        found = [_errors(rows, taught[place], stores, join) for place in places]
        errors = [one for one in found if one is not None]
        if errors:
            break
    else:
        raise TrainingError(
            f"{rows.name} has no measured depth where all teachers know some, to weigh them by "
            "their errors: give teacher_weights in the method's card"
        )
    variances = np.mean(errors, axis=0).clip(min=1e-12)
    weights = (1 / variances) / (1 / variances).sum()
    return tuple(float(weight) for weight in weights)


def _knows(store: Store, number: int) -> bool:
    """Whether a store, which may be older than the rows, has a row's depth."""
    return number < len(store) and bool(store.finished[number]) and store.known(number)


def _errors(rows: Rows, number: int, stores: Sequence[Store], join: Join) -> list[float] | None:
    """Of each teacher, over the pixels that all of them and the truth know."""
    truth, card = read_truth(rows, number), rows.card
    maps = [store.depth(number) for store in stores]
    both = (truth > card.min_depth) & (truth <= card.max_depth)
    for depth in maps:
        both &= depth > 0
    if not both.any():
        return None
    if join == "mean":
        return [float(np.mean((depth[both] - truth[both]) ** 2)) for depth in maps]
    return [float(np.mean(np.log(depth[both] / truth[both]) ** 2)) for depth in maps]
