"""ZoeDepth: what is done to a frame before its network, and to its depth after."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.errors import CardError, DataError
from kdpipe.nets.zoedepth import ZoeDepth, ZoeDepthOutput, nearest_multiple
from kdpipe.nets.zoedepth_sizes import Sizes
from kdpipe.strict import build as build_checked
from kdpipe.teachers.base import (
    BICUBIC_PADDED,
    RULE,
    Teacher,
    TeacherOutput,
    padding_of,
    resize,
)

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard

RENAMES: tuple[tuple[str, str], ...] = ()


class ZoeDepthTeacher(Teacher):
    """Clips nothing: nothing bounds the centres of the indoor network, nor did its authors."""

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        """One pass over RGB of the frame's size; `focal` is not read.

        Raises:
            DataError: the frame is too small to be padded by reflection.
        """
        sizes = cast("ZoeDepth", self.network).sizes
        infer = sizes.preprocess == "infer"
        size = self._size_of(rgb.shape[-2], rgb.shape[-1])
        if infer:
            rgb = _reflected(rgb)
        if sizes.target is not None:
            rgb = resize(rgb, size)
        out: ZoeDepthOutput = self.network(rgb)
        return TeacherOutput(out.depth, out.bins, BICUBIC_PADDED if infer else RULE)

    def size_seen(self, height: int, width: int) -> tuple[int, int]:
        """See `Teacher`: the card's target, or near it."""
        return self._size_of(*super().size_seen(height, width))

    def _size_of(self, height: int, width: int) -> tuple[int, int]:
        sizes = cast("ZoeDepth", self.network).sizes
        if sizes.target is None:
            return height, width
        infer = sizes.preprocess == "infer"
        rows, columns = padding_of(height, width) if infer else (0, 0)
        padded = (height + 2 * rows, width + 2 * columns)
        return network_size(padded, sizes.target, keep_aspect=infer)


def _reflected(rgb: Tensor) -> Tensor:
    height, width = rgb.shape[-2:]
    rows, columns = padding_of(height, width)
    if rows >= height or columns >= width:
        raise DataError(
            f"an image of {height}x{width} pixels cannot be padded by {rows} rows and {columns} "
            "columns of itself: expected at least 5x5"
        )
    return F.pad(rgb, (columns, columns, rows, rows), mode="reflect")


def network_size(
    frame: tuple[int, int], target: tuple[int, int], *, keep_aspect: bool = False
) -> tuple[int, int]:
    """Size (H, W) at which the network sees an image [pixels].

    Args:
        frame: size of the image.
        target: size to come near to.
        keep_aspect: scale both sides by what `target` asks of one, whichever is nearer to 1, then
            round to multiples of 32; else the result is `target`.
    """
    if not keep_aspect:
        return target
    scales = (target[0] / frame[0], target[1] / frame[1])
    scale = min(reversed(scales), key=lambda one: abs(1 - one))
    return nearest_multiple(scale * frame[0]), nearest_multiple(scale * frame[1])


def build(card: TeacherCard) -> nn.Module:
    """The card's network with random weights.

    Raises:
        CardError: its `network:` has an unknown key, a wrong type or a value out of range.
    """
    sizes = build_checked(Sizes, card.network, f"teachers/{card.name}: network")
    if card.input_size is not None and sizes.target is not None:
        raise CardError(
            f"teachers/{card.name}: input_size and network.target both say what the network sees: "
            "give one, the other as null"
        )
    return ZoeDepth(sizes, card.min_depth, card.max_depth)


def make_teacher(
    card: TeacherCard, network: nn.Module, device: str, mirror: bool | None
) -> Teacher:
    """The card's network, with weights, as a teacher."""
    return ZoeDepthTeacher(card, network, device, mirror)
