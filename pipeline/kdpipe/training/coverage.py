"""Of how many images of a training there is a teacher's depth, and of what pixels it counts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch

from kdpipe.errors import StoreError, TrainingError
from kdpipe.training.teachers import NOT_TAUGHT

if TYPE_CHECKING:
    from kdpipe.cards import MethodCard
    from kdpipe.training.samples import DistillDataset, Sample

logger = logging.getLogger(__name__)

_IMAGES = 16
"""That are looked at for what stores do not say."""

OnMissing: TypeAlias = Literal["error", "subset"]


def say_coverage(part: DistillDataset, on_missing: OnMissing) -> None:
    """Logs it.

    Args:
        part: one data set of a training.
        on_missing: what to do where a store is not finished: refuse, or train on what is there.

    Raises:
        StoreError: a store is not finished, and all of it is wanted.
    """
    numbers = (*part.numbers, *part.left_out)
    for store, missing in zip(part.teachers.stores, part.teachers.missing, strict=True):
        late = sum(missing.get(number) == NOT_TAUGHT for number in numbers)
        if late and on_missing == "error":
            raise StoreError(
                f"{store.path} has {len(numbers) - late} of the {len(numbers)} rows of "
                f"{part.rows.name}'s train split, expected all: finish `kdpipe teach`, or take "
                "--on-missing subset"
            )
    if part.teachers.stores and not part.left_out:
        logger.info("%s: all %d images have the teacher's depth", part.rows.name, len(part))
    elif part.left_out:
        late = sum(reason == NOT_TAUGHT for reason in part.left_out.values())
        logger.warning(
            "%s: %d of %d images (%.1f %%) have the teacher's depth; left out: %d not taught yet, "
            "%d that could not be read",
            part.rows.name,
            len(part),
            len(numbers),
            100 * len(part) / len(numbers),
            late,
            len(part.left_out) - late,
        )


def say_aligned(part: DistillDataset) -> None:
    """Logs how many images of a training a relative teacher that stands alone can be aligned in.

    Args:
        part: one data set of a training; some of its images are looked at, evenly spaced.

    Raises:
        TrainingError: in none of them, so nothing would be learned.
    """
    stores = part.teachers.stores
    if not stores or any(store.info.is_metric for store in stores):
        return
    samples = _some(part)
    aligned = sum(bool(one["known"].any()) for one in samples)
    said = f"{part.rows.name}: {aligned} of {len(samples)} images that were looked at could be "
    said += f"aligned to measured depth in {', '.join(str(store.path) for store in stores)}"
    if not aligned:
        raise TrainingError(
            f"{said}, expected a larger disparity where it is nearer: check the teacher's card "
            "and weights, or name a metric teacher too, --teacher T,T2"
        )
    logger.info("%s", said)


def say_confidence(part: DistillDataset, method: MethodCard) -> None:
    """Logs what a method's confidence_threshold, if it has one, leaves of the teacher's pixels.

    Args:
        part: one data set of a training; some of its images are looked at, evenly spaced.
        method: of the training.

    Raises:
        TrainingError: it leaves none, so nothing would be learned.
    """
    threshold = method.confidence_threshold
    if threshold is None:
        return
    samples = _some(part)
    found = torch.cat([one["confidence"][one["known"]] for one in samples])
    share = float((found >= threshold).sum()) / max(1, len(found))
    said = f"{part.rows.name}: {100 * share:.1f} % of the teacher's pixels of {len(samples)} images"
    said += f" have the confidence of {threshold:g} that method {method.name} asks for"
    if not share:
        highest = float(found.max()) if len(found) else 0.0
        raise TrainingError(
            f"{said}, expected some: lower confidence_threshold, the highest here is {highest:.3f}"
        )
    logger.info("%s; their median is %.3f", said, float(found.median()))


def _some(part: DistillDataset) -> list[Sample]:
    places = np.linspace(0, len(part) - 1, min(_IMAGES, len(part))).astype(int)
    return [part.sample(int(place), np.random.default_rng(0)) for place in places]
