"""What every teacher gives: depth at its own size, its bins if any, and the way to the frame."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from kdpipe.errors import DataError
from kdpipe.nets.device import find_device

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard
    from kdpipe.nets.log_binomial import LogBinomialBins

RULE = "bilinear-align-corners"
"""Native map to frame: bilinear, the corners' centres on the frame's corners' centres."""

BICUBIC_PADDED = "bicubic-padded"
"""Native map to frame: the map is of the frame with `padding_of` it around; bicubic, the corners'
outer edges on that padded frame's, then cropped. The result may overshoot the map's own range."""

BICUBIC = "bicubic"
"""Native map to frame: bicubic, the corners' outer edges on the frame's. It may overshoot."""

BILINEAR_EDGES = "bilinear"
"""Native map to frame: bilinear, the corners' outer edges on the frame's."""

BILINEAR_INVERSE = "bilinear-inverse"
"""Native map to frame: as `bilinear`, of 1 / depth, which then ends at INVERSE_RANGE."""

INVERSE_RANGE = (1e-4, 1e4)
"""[1/m], as Depth Pro's own inference clips."""

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name -> what convolutions and products are rounded to; losses of accuracy stay in float32."""

Images: TypeAlias = Tensor | NDArray[Any]
"""RGB: uint8 (B, H, W, 3) in 0..255, or float32 (B, 3, H, W) in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Bins:
    """A free distribution over bins a pixel, with edges an image (AdaBins)."""

    edges: Tensor
    """(B, K + 1) [m], rising."""

    softmax: Tensor
    """(B, K, h, w) float32, sum 1 over K."""

    def probabilities(self) -> Tensor:
        """(B, K, h, w) float32, sum 1 over K."""
        return self.softmax

    def centers(self) -> Tensor:
        """Mid-points of the edges (B, K) [m]."""
        return (self.edges[:, 1:] + self.edges[:, :-1]) / 2


@dataclass(frozen=True, slots=True)
class TeacherOutput:
    """What a teacher said of a batch."""

    depth: Tensor
    """(B, h, w) [m], float32, the teacher's native size."""

    bins: Bins | LogBinomialBins | None = None
    """Of the unmirrored pass, also where `depth` is averaged with the mirrored image's."""

    rule: str = RULE
    """How `depth` comes to the frame; a store keeps the name and its reader repeats it."""

    near: float | None = None
    """Depth [m] that the frame's does not fall below where a cubic overshoots; None: as it falls,
    as a map without unit may."""

    def depth_in_frame(self, height: int, width: int) -> Tensor:
        """Depth (B, height, width) [m] by `rule`."""
        native, size = self.depth[:, None], (height, width)
        if self.rule == RULE:
            return resize(native, size)[:, 0]
        if self.rule == BILINEAR_EDGES:
            return F.interpolate(native, size, mode="bilinear")[:, 0]
        if self.rule == BILINEAR_INVERSE:
            inverse = F.interpolate(1 / native, size, mode="bilinear")[:, 0]
            return 1 / inverse.clamp(*INVERSE_RANGE)
        top, left = padding_of(height, width) if self.rule == BICUBIC_PADDED else (0, 0)
        padded = F.interpolate(native, (height + 2 * top, width + 2 * left), mode="bicubic")
        depth = padded[:, 0, top : top + height, left : left + width]
        return depth if self.near is None else depth.clamp(min=self.near)


class Teacher(ABC):
    """A network with its weights, ready to look at images. A family implements `look`.

    Args:
        card: what decides its output.
        network: with weights, of the card's family.
        device: a torch device's name.
        mirror: overrides the card's: average the depth with that of the mirrored image.

    Raises:
        DeviceError: the device is not there.
    """

    precision: str = "fp32"
    """One of PRECISIONS."""

    def __init__(
        self, card: TeacherCard, network: nn.Module, device: str, mirror: bool | None = None
    ) -> None:
        self.card = card
        self.device = find_device(device)
        self.network = network.to(self.device).eval()
        if self.device.type == "cuda":  # how its tensor cores read images; a CPU gains nothing
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mirror = card.mirror if mirror is None else mirror

    @abstractmethod
    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        """One pass over RGB (B, 3, H, W) in [0, 1], at the network's input size."""

    def size_seen(self, height: int, width: int) -> tuple[int, int]:
        """Size (H, W) that the network is shown of a frame of `height` x `width` [pixels].

        What a network then makes of it itself, such as whole multiples of 32, is not counted.
        """
        return self.card.input_size or (height, width)

    @torch.inference_mode()
    def predict(self, images: Images, focal: Images | None = None) -> TeacherOutput:
        """Looks at a batch of frames of one size.

        Args:
            images: uint8 (B, H, W, 3) in 0..255 or float32 (B, 3, H, W) in [0, 1], RGB; a pinned
                tensor travels to a GPU while it still computes.
            focal: focal lengths (B,) [px] of the frames; only families that need it read it.

        Returns:
            Float32 on the teacher's device, without gradients.

        Raises:
            DataError: another type or shape, or a size this network cannot take.
        """
        rgb = to_rgb(images, self.device)
        focal = None if focal is None else torch.as_tensor(focal, device=self.device)
        if self.card.input_size is not None and rgb.shape[-2:] != self.card.input_size:
            # As training shrinks its images; without antialiasing a network sees what it never saw.
            rgb = F.interpolate(rgb, self.card.input_size, mode="bilinear", antialias=True)
        with _rounding(self.precision, self.device):
            out = self.look(rgb, focal)
            depth = out.depth.float()
            if self.mirror:
                mirrored = self.look(rgb.flip(-1), focal).depth.flip(-1)
                depth = (depth + mirrored.float()) / 2
        near = self.card.min_depth if self.card.is_metric else None
        return replace(out, depth=depth, near=near)


@contextlib.contextmanager
def _rounding(precision: str, device: torch.device) -> Iterator[None]:
    """fp32 means float32: cuDNN would round convolutions to TF32's ten bits if nobody minded."""
    kind = PRECISIONS[precision]
    if kind is not None:
        with torch.autocast(device.type, kind):
            yield
    elif device.type == "cuda":
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before
    else:
        yield


def padding_of(height: int, width: int) -> tuple[int, int]:
    """Rows at top and bottom, columns at left and right, that a frame is padded by [pixels].

    Reference:
        Bhat et al., "ZoeDepth", https://arxiv.org/abs/2302.12288; the published inference.
    """
    return int(3 * math.sqrt(height / 2)), int(3 * math.sqrt(width / 2))


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w) -> (B, C, *size), bilinear with aligned corners."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def to_rgb(images: Images, device: torch.device | None = None) -> Tensor:
    """Images as float32 (B, 3, H, W) in [0, 1].

    Args:
        images: see above.
        device: where to; bytes travel, not floats. None: where they are.

    Raises:
        DataError: another type or shape.
    """
    array = images if isinstance(images, Tensor) else np.ascontiguousarray(images)
    tensor = torch.as_tensor(array)
    shape = tuple(tensor.shape)
    if tensor.ndim == 4 and tensor.dtype == torch.uint8 and shape[3] == 3 and min(shape) > 0:
        tensor = tensor.to(device, non_blocking=True)
        return tensor.permute(0, 3, 1, 2).to(torch.float32) / 255
    if tensor.ndim == 4 and tensor.dtype == torch.float32 and shape[1] == 3 and min(shape) > 0:
        return tensor.to(device, non_blocking=True)
    raise DataError(
        f"images are {str(tensor.dtype).removeprefix('torch.')} {shape}, expected RGB as "
        "uint8 (B, H, W, 3) in 0..255 or float32 (B, 3, H, W) in [0, 1]"
    )
