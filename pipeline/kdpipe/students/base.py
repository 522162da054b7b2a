"""What every student gives, the bins it may have, and how one predicts the depth of any image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from kdpipe.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    from kdpipe.cards import StudentCard

BinsName: TypeAlias = Literal["nyu", "kitti"]
Images: TypeAlias = Tensor | NDArray[Any]


class StudentOutput(NamedTuple):
    """What a student's network gives in training and out of it."""

    depth: Tensor
    """(B, H, W) [m], at the size of the input."""

    probabilities: Tensor | None
    """(B, N, H, W), sum 1 over N; None from a regression head."""

    centers: Tensor
    """(N,) [m], the bins' mid-points; N is 0 with a regression head."""

    logits: Tensor | None = None
    """(B, N, H, W), before the softmax."""


@dataclass(frozen=True, slots=True)
class UniformBins:
    """Equally wide bins between two depths, as TIE-KD has them.

    Reference:
        Choi et al., "TIE-KD: Teacher-Independent and Explainable Knowledge Distillation for
        Monocular Depth Estimation", 2024, https://arxiv.org/abs/2402.14340
    """

    name: BinsName
    count: int
    near: float
    """[m]"""

    far: float
    """[m]"""

    def edges(self) -> Tensor:
        """(N + 1,) [m]"""
        return torch.linspace(self.near, self.far, self.count + 1)

    def centers(self) -> Tensor:
        """(N,) [m], mid-points of the edges."""
        edges = self.edges()
        return 0.5 * (edges[:-1] + edges[1:])


BINS: Mapping[str, UniformBins] = {
    "nyu": UniformBins("nyu", 49, 1e-3, 10.0),
    "kitti": UniformBins("kitti", 257, 1e-3, 80.0),
}
_DOMAINS = {"nyu": "nyu", "rooms": "nyu", "any": "nyu", "kitti": "kitti"}


def bins_of(domain: str) -> UniformBins:
    """The bins of a data set's domain: `kitti` has its own, all other scenes those of `nyu`.

    Raises:
        UnknownNameError: there is no such domain.
    """
    if domain not in _DOMAINS:
        raise UnknownNameError("the list of domains", domain, _DOMAINS)
    return BINS[_DOMAINS[domain]]


@dataclass(frozen=True, slots=True)
class Student:
    """A trained student: images in, metres out."""

    card: StudentCard
    network: nn.Module
    bins: UniformBins
    size: tuple[int, int] | None = None
    """(H, W) in pixels that the network sees; None: the image as it is."""

    device: str = "cpu"

    @torch.no_grad()
    def predict(self, images: Images, *, mirror: bool = False) -> Tensor:
        """Predicts depth at the images' own size.

        The images are resized to `size` (bilinear, antialiased); the depth is clamped to
        [1e-3, farthest bin edge] and brought back (bilinear, corners aligned).

        Args:
            images: RGB, uint8 (B, H, W, 3), or float (B, 3, H, W) in [0, 1]; array or tensor.
            mirror: average with the prediction for the mirrored images.

        Returns:
            Depth (B, H, W) [m], float32, on the CPU, so that `np.asarray` takes it as it is.

        Raises:
            DataError: the images have another shape or type.
        """
        whole = as_rgb(images).to(self.device)
        height, width = whole.shape[-2:]
        rgb = self.resize(whole)
        was_training = self.network.training
        self.network.eval()
        depth = self._depth(rgb)
        if mirror:
            depth = 0.5 * (depth + self._depth(rgb.flip(-1)).flip(-1))
        self.network.train(was_training)
        if depth.shape[-2:] != (height, width):
            depth = F.interpolate(
                depth[:, None], (height, width), mode="bilinear", align_corners=True
            )[:, 0]
        return depth.float().cpu()

    def resize(self, rgb: Tensor) -> Tensor:
        """Brings RGB (B, 3, H, W) in [0, 1] to the size that the network sees."""
        if self.size is None or self.size == tuple(rgb.shape[-2:]):
            return rgb
        return F.interpolate(
            rgb, self.size, mode="bilinear", align_corners=False, antialias=True
        ).clamp(0, 1)

    def _depth(self, rgb: Tensor) -> Tensor:
        output: StudentOutput = self.network(rgb)
        return output.depth.clamp(self.bins.near, self.bins.far)


def as_rgb(images: Images) -> Tensor:
    """Brings images to float32 (B, 3, H, W) in [0, 1].

    Raises:
        DataError: neither uint8 (B, H, W, 3) nor float (B, 3, H, W).
    """
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.ascontiguousarray(images))
    if images.ndim == 4 and images.dtype == torch.uint8 and images.shape[-1] == 3:
        return images.permute(0, 3, 1, 2).float() / 255
    if images.ndim == 4 and images.is_floating_point() and images.shape[1] == 3:
        return images.float()
    raise DataError(
        f"found images of shape {tuple(images.shape)} and type {images.dtype}, expected uint8 "
        "(B, H, W, 3), or float (B, 3, H, W) in [0, 1]"
    )
