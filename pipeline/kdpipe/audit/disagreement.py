"""How far two teachers' depths of one image are from each other, in its frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.audit.records import records_of
from kdpipe.cards import load_teacher_card
from kdpipe.errors import StoreError
from kdpipe.store import Store, open_store
from kdpipe.store.layout import store_path
from kdpipe.store.stale import check_weights

if TYPE_CHECKING:
    from kdpipe.rows import Rows
    from kdpipe.types import Depth


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Of one image, over the pixels that both teachers give a depth."""

    abs_rel: float
    """mean(|own - other| / other), as if the other were the truth."""

    log: float
    """mean(|ln own - ln other|), the same whoever is asked."""

    ratio: float
    """median(own / other): what is left when it is 1 is no matter of scale."""


def split_relative(
    teachers: Iterable[str], manifests: Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """Teachers that can be compared in metres, and why the others cannot.

    What a relative teacher's store holds is aligned where it is learned from, to what is known
    there; it says nothing of its own about metres.

    Raises:
        UnknownNameError: no card has this name.
    """
    metric: list[str] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(teachers):
        if load_teacher_card(name, manifests).is_metric:
            metric.append(name)
        else:
            left_out[name] = "affine-invariant: its depth has no metres"
    return metric, left_out


def open_others(teachers: Sequence[str], rows: Rows, manifests: Path | None = None) -> list[Store]:
    """The stores of other teachers over the same rows.

    Raises:
        StoreError: one is not there, or has no finished row.
        StaleStoreError: one is another teacher's, of other weights, or of other rows.
    """
    opened = []
    for name in teachers:
        card = load_teacher_card(name, manifests)
        store = open_store(store_path(rows.name, name), card=card)
        check_weights(store.path, store.info)
        if not records_of(store, rows):
            raise StoreError(f"{store.path} has no finished row: run `kdpipe teach` first")
        opened.append(store)
    return opened


def disagree(depth: Depth, row: int, others: Sequence[Store]) -> dict[str, Disagreement]:
    """Compares one image's depth with what other teachers said of it.

    Args:
        depth: (H, W) [m] in the frame; 0 unknown.
        row: its number.
        others: stores of the same rows.

    Returns:
        By the other teacher's name; without those that gave none, or have not come to it yet.
    """
    found: dict[str, Disagreement] = {}
    for store in others:
        if row >= len(store) or not store.finished[row] or not store.known(row):
            continue
        other = store.depth(row)
        both = (depth > 0) & (other > 0)
        if both.any():
            found[store.info.teacher] = _compare(depth[both], other[both])
    return found


def summarise(
    seen: Sequence[Mapping[str, Disagreement]], names: Iterable[str]
) -> dict[str, object]:
    """Mean over images, for each other teacher."""
    found: dict[str, object] = {}
    for name in names:
        images = [one[name] for one in seen if name in one]
        found[name] = {
            "images": len(images),
            **{
                field: float(np.mean([getattr(one, field) for one in images])) if images else None
                for field in Disagreement.__slots__
            },
        }
    return found


def _compare(depth: Depth, other: Depth) -> Disagreement:
    own, reference = depth.astype(np.float64), other.astype(np.float64)
    return Disagreement(
        abs_rel=float(np.mean(np.abs(own - reference) / reference)),
        log=float(np.mean(np.abs(np.log(own / reference)))),
        ratio=float(np.median(own / reference)),
    )
