"""Of how many images of a training there is a teacher's depth."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, TypeAlias

from kdpipe.errors import StoreError
from kdpipe.training.teachers import NOT_TAUGHT

if TYPE_CHECKING:
    from kdpipe.training.samples import DistillDataset

logger = logging.getLogger(__name__)

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
