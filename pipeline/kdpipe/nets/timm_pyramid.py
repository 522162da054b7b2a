"""Any timm network that gives feature maps, as an encoder."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdpipe.errors import CardError, CheckpointError
from kdpipe.nets.checkpoint import read_state
from kdpipe.nets.torchvision_shim import make_torchvision_importable

_ANY_SIZE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},  # plain vision transformers
    {"strict_img_size": False},  # those with windows
    {},
)
"""What lets a network take images of any size; most take no such option."""

_PROBE = (95, 163)
"""(H, W) [pixels] of an image that no network was made for."""


class TimmPyramid(nn.Module):
    """A timm network without its classifier, at the maps that timm itself names.

    Args:
        name: a network that timm knows, with or without the name of its weights.
        stride: of the deepest map, for networks that can be dilated; None: their own.

    Raises:
        CardError: timm does not know it, it gives no maps, cannot have this stride, or takes
            images of one size only.
    """

    def __init__(self, name: str, stride: int | None = None) -> None:
        super().__init__()
        timm = _timm()
        if not timm.is_model(name):  # keeps out `hf-hub:...` too, which would ask the network
            raise CardError(
                f"encoder {name!r} is neither kdpipe's own nor one that timm {timm.__version__} "
                "knows: `python -c 'import timm; print(timm.list_models())'` lists those"
            )
        self._name, self._stride = name, stride
        self.network = _create(name, stride)
        info = cast("Any", self.network.feature_info)
        self.channels: tuple[int, ...] = tuple(int(count) for count in info.channels())
        """Of its maps, finest first."""

        self.reductions: tuple[int, ...] = tuple(int(times) for times in info.reduction())
        """How many times smaller than the image each map is."""

        finest = self.reductions[0]
        self.extra_blocks = max(1, (finest - 1).bit_length())
        """Doublings that remain from the finest map to the image's size."""

        config = cast("Any", self.network).pretrained_cfg
        self.mean = tuple(config["mean"])
        self.std = tuple(config["std"])
        # Of patches, or of the coarsest map: what they cannot divide is filled up.
        for multiple in (1, finest, self.reductions[-1]):
            self._multiple = multiple
            if (reason := self._refusal()) is None:
                break
        else:
            raise CardError(
                f"encoder {name!r} takes images of one size only ({reason}): choose one that takes "
                "any, as convolutional networks do"
            )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> maps (B, C, h, w), finest first; sizes round up."""
        height, width = image.shape[-2:]
        if self._multiple > 1:
            high, wide = (_parts(side, self._multiple) * self._multiple for side in (height, width))
            image = F.pad(image, (0, wide - width, 0, high - height))
        maps: list[Tensor] = self.network(image)
        # Networks with windows keep their channels last.
        maps = [
            one if one.shape[1] == count else one.permute(0, 3, 1, 2)
            for one, count in zip(maps, self.channels, strict=True)
        ]
        if self._multiple == 1:
            return maps
        return [
            one[..., : _parts(height, times), : _parts(width, times)]
            for one, times in zip(maps, self.reductions, strict=True)
        ]

    def _refusal(self) -> str | None:
        """Why it cannot take an image of any size; None: it can."""
        device = next(self.parameters()).device
        self.eval()
        try:
            with torch.no_grad():
                self(torch.zeros(1, 3, *_PROBE, device=device))
        except (RuntimeError, AssertionError) as error:
            return str(error).partition("\n")[0]
        finally:
            self.train()
        return None

    def load(self, path: Path) -> None:
        """Fills it from a checkpoint of the whole network with timm's names; the rest is left.

        Raises:
            CheckpointError: unreadable, or another network's.
        """
        state = read_state(path)  # timm's own reader may run code, and raises what it likes
        try:
            made = _create(self._name, self._stride, pretrained_cfg_overlay={"state_dict": state})
        except (CardError, KeyError) as error:
            raise CheckpointError(
                f"{path} holds no weights that timm could read into {self._name}: {error}"
            ) from error
        self.network.load_state_dict(made.state_dict())


def _parts(side: int, times: int) -> int:
    """side / times, rounded up; `-(-side // times)` is another number in ONNX."""
    return (side + times - 1) // times


def _create(name: str, stride: int | None, **overlay: object) -> nn.Module:
    timm = _timm()
    options: dict[str, Any] = (
        {**overlay} if stride is None else {**overlay, "output_stride": stride}
    )
    for sizes in _ANY_SIZE:
        try:
            made = timm.create_model(
                name, pretrained=bool(overlay), features_only=True, **options, **sizes
            )
            return cast("nn.Module", made)
        except TypeError as error:  # it takes no such option
            last = error
        except (RuntimeError, NotImplementedError, AssertionError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            raise CardError(
                f"encoder {name!r} gives no feature maps ({reason}): choose another"
            ) from error
    raise CardError(f"encoder {name!r} cannot be built ({last}): leave encoder_stride out")


def _timm() -> ModuleType:
    make_torchvision_importable()
    import timm

    return timm
