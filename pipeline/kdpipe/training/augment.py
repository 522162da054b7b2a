"""Random geometry and colour of a training sample, drawn once and applied to all that belongs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kdpipe.training.geometry import Transform

if TYPE_CHECKING:
    import numpy as np

    from kdpipe.cards import MethodCard
    from kdpipe.params import TrainParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What was drawn for one sample."""

    transform: Transform
    teacher: Transform
    """Of the teacher's maps; the same, unless a published misalignment is repeated."""

    gamma: float = 1.0
    gamma_range: float = 1.0
    """The value of white that gamma is applied to."""

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Brightness times colour, for R, G and B."""

    def colour(self, image: torch.Tensor) -> torch.Tensor:
        """Changes gamma and gain of an image (3, h, w) in [0, 1].

            clip(gain * (white * image)**gamma / white),   white = gamma_range

        With 1, as BTS and AdaBins, gamma leaves black and white alone; with 255, as TIE-KD, it is
        a strong change of brightness too.
        """
        gain = torch.tensor(self.gain, dtype=image.dtype)[:, None, None]
        gain = gain * self.gamma_range ** (self.gamma - 1)
        return (image**self.gamma).mul_(gain).clamp_(0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """How far samples are varied. Only `size` given: the whole frame, resized."""

    size: tuple[int, int]
    """(h, w) of a sample [pixels]."""

    flip: float = 0.0
    """Probability of mirroring."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Zoom before the crop, at fixed focal length: one camera took all images of a data set, so
    what is enlarged is nearer."""

    rotation: float = 0.0
    """Largest turn, either way [degrees]."""

    colour: float = 0.0
    """Largest relative change of gamma, of brightness and of each channel."""

    gamma_range: float = 1.0
    """The value of white that gamma is applied to, 1 or 255."""

    rotate_teacher: bool = True

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> Draw:
        """Draws for one frame of height x width pixels.

        The same numbers are drawn whatever is switched off, so that two arms which differ in one
        setting see the same crops.
        """
        scale, y, x, flip, angle, gamma, brightness, *channels = rng.random(10)
        zoom = self.scale[0] * (self.scale[1] / self.scale[0]) ** scale
        # The zoomed frame may lie anywhere that leaves no border uncovered.
        reach_y, reach_x = (side * (1 - 1 / zoom) for side in (height, width))
        upright = (
            Transform.identity(height, width)
            .zoom(zoom, at_fixed_focal=True)
            .crop((y - 0.5) * reach_y * zoom, (x - 0.5) * reach_x * zoom, height, width)
            .resize(*self.size)
        )
        if flip < self.flip:
            upright = upright.flip()
        turned = upright.rotate(self.rotation * (2 * angle - 1)) if self.rotation else upright
        brightest = _factor(self.colour, brightness)
        red, green, blue = (brightest * _factor(self.colour, c) for c in channels)
        return Draw(
            transform=turned,
            teacher=turned if self.rotate_teacher else upright,
            gamma=_factor(self.colour, gamma),
            gamma_range=self.gamma_range,
            gain=(red, green, blue),
        )


def _factor(largest: float, drawn: float) -> float:
    """1 - largest .. 1 + largest, evenly."""
    return float(1 + largest * (2 * drawn - 1))


def augment_of(
    params: TrainParams, *, rotation: float = 0.0, method: MethodCard | None = None
) -> Augment:
    """The augmentation of a training."""
    return Augment(
        size=(params.height, params.width),
        flip=params.flip,
        scale=params.scale,
        rotation=rotation,
        colour=params.colour,
        gamma_range=params.gamma_range,
        rotate_teacher=method is None or method.rotate_teacher,
    )
