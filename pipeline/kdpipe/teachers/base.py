"""What every teacher gives: depth at its own size, its bins if any, and the way to the frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from kdpipe.errors import DataError, DeviceError

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard

RULE = "bilinear-align-corners"
"""Native map to frame: bilinear, the corners' centres on the frame's corners' centres."""

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

    bins: Bins | None = None
    """Of the unmirrored pass, also where `depth` is averaged with the mirrored image's."""

    rule: str = RULE
    """How `depth` comes to the frame; a store keeps the name and its reader repeats it."""

    def depth_in_frame(self, height: int, width: int) -> Tensor:
        """Depth (B, height, width) [m] by `rule`."""
        return resize(self.depth[:, None], (height, width))[:, 0]


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

    def __init__(
        self, card: TeacherCard, network: nn.Module, device: str, mirror: bool | None = None
    ) -> None:
        self.card = card
        self.device = find_device(device)
        self.network = network.to(self.device).eval()
        self.mirror = card.mirror if mirror is None else mirror

    @abstractmethod
    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        """One pass over RGB (B, 3, H, W) in [0, 1], at the network's input size."""

    @torch.inference_mode()
    def predict(self, images: Images, focal: Images | None = None) -> TeacherOutput:
        """Looks at a batch of frames of one size.

        Args:
            images: uint8 (B, H, W, 3) in 0..255 or float32 (B, 3, H, W) in [0, 1], RGB.
            focal: focal lengths (B,) [px] of the frames; only families that need it read it.

        Returns:
            Float32 on the teacher's device, without gradients.

        Raises:
            DataError: another type or shape, or a size this network cannot take.
        """
        rgb = to_rgb(images).to(self.device)
        focal = None if focal is None else torch.as_tensor(focal, device=self.device)
        if self.card.input_size is not None and rgb.shape[-2:] != self.card.input_size:
            # As training shrinks its images; without antialiasing a network sees what it never saw.
            rgb = F.interpolate(rgb, self.card.input_size, mode="bilinear", antialias=True)
        out = self.look(rgb, focal)
        if not self.mirror:
            return out
        mirrored = self.look(rgb.flip(-1), focal).depth.flip(-1)
        return TeacherOutput((out.depth + mirrored) / 2, out.bins, out.rule)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w) -> (B, C, *size), bilinear with aligned corners."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def to_rgb(images: Images) -> Tensor:
    """Images as float32 (B, 3, H, W) in [0, 1].

    Raises:
        DataError: another type or shape.
    """
    array = images if isinstance(images, Tensor) else np.ascontiguousarray(images)
    tensor = torch.as_tensor(array)
    shape = tuple(tensor.shape)
    if tensor.ndim == 4 and tensor.dtype == torch.uint8 and shape[3] == 3 and min(shape) > 0:
        return tensor.permute(0, 3, 1, 2).to(torch.float32) / 255
    if tensor.ndim == 4 and tensor.dtype == torch.float32 and shape[1] == 3 and min(shape) > 0:
        return tensor
    raise DataError(
        f"images are {str(tensor.dtype).removeprefix('torch.')} {shape}, expected RGB as "
        "uint8 (B, H, W, 3) in 0..255 or float32 (B, 3, H, W) in [0, 1]"
    )


def find_device(name: str) -> torch.device:
    """A torch device that is there.

    Raises:
        DeviceError: torch does not know it, or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceError(
            f"device {name!r} is not there (torch {torch.__version__} finds "
            f"{torch.cuda.device_count()} CUDA devices): use cpu, or install torch for your GPU"
        ) from error
    return device
