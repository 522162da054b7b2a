"""A depth model of transformers with its own image processor in front: RGB in, depth out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdpipe.errors import CardError, DataError

_UNUSED = ("neck.fusion_stage.layers.0.residual_layer1.",)
"""The first fusion of DPT and Depth Anything has nothing to add: DPT's files do not hold it."""

_INVERSE_RANGE = (1e-8, 1e8)
"""Of Depth Pro's inverse depth [1/m]. Its own processor ends at 1e-4 and 1e4, but in the frame:
until then the sky stays farther, so that its border mixes as published."""


@dataclass(frozen=True, slots=True)
class HubOutput:
    """What the network gives, with gradients while it trains."""

    depth: Tensor
    """(B, h, w) [m] of a metric model, of the network's own size; else as the model says it."""

    probabilities: Tensor | None = None
    centers: Tensor | None = None


class HubNetwork(nn.Module):
    """A model with its image processor in front: RGB in, depth out.

    Its state dict has the model's own names, as this release of transformers calls them.
    """

    def __init__(self, model: nn.Module, processor: Any) -> None:
        super().__init__()
        # A list hides the model itself: its parts are ours, so that their names have no prefix.
        self._held = [model]
        self.processor = processor
        for name, child in model.named_children():
            self.add_module(name, child)

    @property
    def model(self) -> Any:
        """That of transformers."""
        return self._held[0]

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    def train(self, mode: bool = True) -> HubNetwork:
        """See torch; the hidden model follows."""
        self.model.training = mode
        super().train(mode)
        return self

    def forward(self, rgb: Tensor) -> HubOutput:
        """RGB (B, 3, H, W) in [0, 1] -> depth; an image is seen in its 256 levels, as published.

        Raises:
            DataError: a size that the model's processor cannot bring to the network.
        """
        out = self.model(pixel_values=self._prepare(rgb))
        depth: Tensor = out.predicted_depth
        angle: Tensor | None = getattr(out, "field_of_view", None)
        if self.config.model_type == "depth_pro":
            depth = _depth_pro(depth, angle)
        return HubOutput(depth)

    def start_at(self, depths: Tensor) -> None:
        """Sets the last bias so that any image gives about the geometric mean of depths (n,) [m].

        Raises:
            CardError: this model's head is no sigmoid times the largest depth.
        """
        last, largest = self._sigmoid_head()
        typical = depths.float().clamp_min(1e-3).log().mean().exp()
        share = (typical / largest).clamp(1e-3, 1 - 1e-3)
        with torch.no_grad():
            cast("Tensor", last.bias).fill_(torch.logit(share).item())

    def is_unused(self, key: str) -> bool:
        """Whether the forward pass never reads this entry."""
        return key.startswith(_UNUSED)

    def _prepare(self, rgb: Tensor) -> Tensor:
        levels = (rgb.detach().clamp(0, 1) * 255).round().to(torch.uint8)
        try:
            prepared = self.processor(
                images=list(levels), input_data_format="channels_first", return_tensors="pt"
            )
            pixels: Tensor = prepared["pixel_values"]
            if not pixels.numel():
                raise ValueError("nothing is left of the image")
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"images of {rgb.shape[-2]}x{rgb.shape[-1]} pixels cannot be prepared for "
                f"{self.config.model_type} ({reason}): use larger images"
            ) from error
        return pixels.to(rgb.device)

    def _sigmoid_head(self) -> tuple[nn.Conv2d, float]:
        config, kind = self.config, self.config.model_type
        if kind == "glpn":
            return cast("nn.Conv2d", self.get_submodule("head.head.2")), float(config.max_depth)
        if kind == "depth_anything" and config.depth_estimation_type == "metric":
            return cast("nn.Conv2d", self.get_submodule("head.conv3")), float(config.max_depth)
        raise CardError(f"fit.start_at_data is true, but the head of {kind} has no such start")


def _depth_pro(canonical: Tensor, angle: Tensor | None) -> Tensor:
    """Depth [m] of Depth Pro's canonical inverse depth and its horizontal field of view [degrees].

    Reference:
        Bochkovskii et al., "Depth Pro: Sharp Monocular Metric Depth in Less Than a Second",
        https://arxiv.org/abs/2410.02073, section 3.3: inverse depth times width over focal length,
        which is 2 tan(angle / 2).
    """
    if angle is None:
        return 1 / canonical.clamp(*_INVERSE_RANGE)
    scale = 2 * torch.tan(torch.deg2rad(angle.reshape(-1)) / 2)
    return 1 / (canonical * scale[:, None, None]).clamp(*_INVERSE_RANGE)
