"""Whether a teacher says of a moved image what it said of the image, moved.

What students are given is taught first and moved then: the store's depth goes through the same
transform as the image. Here the teacher sees the moved image itself, and both are compared:

    flip    mirrored left to right
    crop    a window of about PART of each side, somewhere; the camera is the same, so is the depth
    scale   enlarged FACTOR times about the centre and cut to the frame. At a fixed focal length,
            what looks FACTOR times larger is FACTOR times nearer: depth is divided by it.
            `undivided` is the other reading, a longer lens: depth stays.

A `ratio` is median(teacher on the moved image / store moved): 1 means no change of scale. Of scale,
1 says that the teacher reads size as distance, FACTOR that it does not see the enlargement at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.datasets import read_image
from kdpipe.errors import DataError
from kdpipe.training.geometry import Transform

if TYPE_CHECKING:
    from kdpipe.audit.again import Witness
    from kdpipe.store import Store
    from kdpipe.types import Depth

FACTOR = 1.25
"""Of `scale`."""

PART = 0.75
"""Of each side, in `crop`."""

STEP = 32
"""A crop's sides are multiples of it [pixels]: networks halve an image five times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One image under one transform."""

    abs_rel: float
    """mean(|teacher on the moved image - store moved| / store moved)."""

    ratio: float
    undivided: float | None = None
    """abs_rel at the other reading of `scale`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """One image under all of them."""

    id: str
    moves: Mapping[str, Moved]
    refused: Mapping[str, str]
    """Transform -> why the teacher, or the store, has no depth to compare."""

    def columns(self) -> dict[str, float]:
        """For the table of images."""
        values = {f"geometry_{name}": one.abs_rel for name, one in self.moves.items()}
        undivided = {
            f"geometry_{name}_undivided": one.undivided
            for name, one in self.moves.items()
            if one.undivided is not None
        }
        return values | undivided


def transforms_of(frame: tuple[int, int], rng: np.random.Generator) -> dict[str, Transform]:
    """What an image is moved by.

    Args:
        frame: its size (H, W).
        rng: says where the crop is.
    """
    whole = Transform.identity(*frame)
    height, width = (_part_of(side) for side in frame)
    top, left = (
        int(rng.integers(0, side - part + 1))
        for side, part in zip(frame, (height, width), strict=True)
    )
    return {
        "flip": whole.flip(),
        "crop": whole.crop(top, left, height, width),
        "scale": whole.zoom(FACTOR, at_fixed_focal=True),
    }


def turn(store: Store, number: int, witness: Witness, seed: int) -> Turned:
    """Shows the teacher one image moved in each way.

    Args:
        store: that the witness wrote.
        number: of a row with depth.
        witness: its teacher.
        seed: with the row's number, says where the crop is.

    Raises:
        DataError: the image cannot be read any more.
        StoreError: bytes of the store changed.
    """
    image, depth = read_image(witness.rows, number), store.depth(number)
    moves: dict[str, Moved] = {}
    refused: dict[str, str] = {}
    rng = np.random.default_rng([seed, number])
    for name, transform in transforms_of(store.frame(number), rng).items():
        try:
            out = witness.look(number, transform.image(image)[None])
        except DataError as error:
            refused[name] = str(error)
            continue
        seen = out.depth_in_frame(*transform.size)[0].cpu().numpy()
        expected = transform.stored_depth(depth)
        both = np.isfinite(seen) & (seen > 0) & (expected > 0)
        if both.any():
            moves[name] = _compare(seen[both], expected[both], transform.depth_divisor)
        else:
            refused[name] = "no pixel has depth on both sides"
    return Turned(id=witness.rows[number].id, moves=moves, refused=refused)


def summarise(images: Sequence[Turned]) -> dict[str, object]:
    """What the JSON says of them all."""
    found: dict[str, object] = {"images": len(images), "ids": [one.id for one in images]}
    for name, how in (("flip", {}), ("crop", {"part": PART}), ("scale", {"factor": FACTOR})):
        moved = [one.moves[name] for one in images if name in one.moves]
        readings = [one.undivided for one in moved if one.undivided is not None]
        found[name] = {
            **how,
            "images": len(moved),
            "refused": sorted({one.refused[name] for one in images if name in one.refused}),
            "abs_rel": _mean([one.abs_rel for one in moved]),
            "ratio": _mean([one.ratio for one in moved]),
            **({"abs_rel_undivided": _mean(readings)} if name == "scale" else {}),
        }
    return found


def _compare(seen: Depth, expected: Depth, divisor: float) -> Moved:
    own, reference = seen.astype(np.float64), expected.astype(np.float64)
    far = reference * divisor
    return Moved(
        abs_rel=float(np.mean(np.abs(own - reference) / reference)),
        ratio=float(np.median(own / reference)),
        undivided=float(np.mean(np.abs(own - far) / far)) if divisor != 1 else None,
    )


def _part_of(side: int) -> int:
    part = int(PART * side)
    return part // STEP * STEP or part


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
