"""What a teacher's output looks like over all frame sizes of a data set, from a few looks.

A folder of photographs has thousands of sizes, and a look at one takes as long as a look at an
image. What decides is the size that the network itself is shown: frames that are shown alike have
maps alike, and of two sizes the one that is as high and as wide has no smaller a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np
import torch

from kdpipe.errors import DataError, DeviceError
from kdpipe.nets.hub_network import HubNetwork
from kdpipe.teachers import Bins

if TYPE_CHECKING:
    from kdpipe.teachers import Teacher, TeacherOutput

Size: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What a teacher's output looks like; decides a store's shapes."""

    native: Size
    """Largest native height and width over the frame sizes asked for [pixels]."""

    bins: int | None
    """Of a free distribution."""

    rule: str


def measure(teacher: Teacher, frames: Sequence[Size], *, has_focal: bool) -> Measure:
    """Tries a teacher on black images, largest first, until smaller ones can tell nothing new.

    Args:
        teacher: to be tried.
        frames: sizes (H, W) [pixels].
        has_focal: the images have focal lengths.

    Raises:
        DataError: it can take none of them.
        DeviceError: an image does not fit into the device's memory.
    """
    refused: DataError | None = None
    shown: dict[Size, Size] = {}
    for frame in sorted(frames):
        try:
            shown[_shown(teacher, frame)] = frame
        except DataError as error:
            refused = error  # its rows will be bad, with this reason
    natives: dict[Size, Size] = {}
    for size in sorted(shown, key=lambda one: one[0] * one[1], reverse=True):
        if any(size[0] <= height and size[1] <= width for height, width in natives):
            continue
        try:
            out = _look(teacher, shown[size], has_focal=has_focal)
        except DataError as error:
            refused = error
            continue
        natives[size] = int(out.depth.shape[1]), int(out.depth.shape[2])
    if not natives:
        raise refused or DataError("no image to teach: index a data set that has some")
    return Measure(
        native=(max(h for h, _ in natives.values()), max(w for _, w in natives.values())),
        # The codec of a two-parameter distribution knows how many bins it has.
        bins=int(out.bins.edges.shape[1]) - 1 if isinstance(out.bins, Bins) else None,
        rule=out.rule,
    )


def too_large(teacher: Teacher, height: int, width: int) -> DeviceError:
    """What to raise where a single image does not fit into the device's memory."""
    return DeviceError(
        f"an image of {height}x{width} pixels does not fit into the memory of "
        f"{teacher.device}: free some, take a larger GPU, or a card with input_size"
    )


def _look(teacher: Teacher, frame: Size, *, has_focal: bool) -> TeacherOutput:
    focal = np.ones(1, np.float32) if has_focal else None  # any will do for a shape
    try:
        return teacher.predict(np.zeros((1, *frame, 3), np.uint8), focal=focal)
    except torch.OutOfMemoryError as error:
        raise too_large(teacher, *frame) from error


class _ShownError(Exception):
    """How a look ends whose input only is of interest."""


def _shown(teacher: Teacher, frame: Size) -> Size:
    """The size that the network is shown; a model of transformers has its own image processor."""
    if not isinstance(teacher.network, HubNetwork):
        return teacher.size_seen(*frame)
    sizes: list[Size] = []

    def stop(_model: object, _given: object, named: dict[str, Any]) -> NoReturn:
        height, width = named["pixel_values"].shape[-2:]
        sizes.append((int(height), int(width)))
        raise _ShownError

    hook = teacher.network.model.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        teacher.predict(np.zeros((1, *frame, 3), np.uint8))
    except _ShownError:
        pass
    finally:
        hook.remove()
    return sizes[0]
