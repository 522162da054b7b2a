"""ImageNet weights that timm publishes at the Hugging Face hub, as a file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kdpipe.errors import CheckpointError
from kdpipe.nets.checkpoint import sha256_of_file
from kdpipe.nets.torchvision_shim import make_torchvision_importable

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

IMAGENET = "imagenet"
"""What `encoder_weights` says for them; anything else there is a file."""

_OWN: Mapping[str, str] = {
    "mobilenetv2": "mobilenetv2_100.ra_in1k",
    "resnet18": "resnet18.tv_in1k",
    "resnet34": "resnet34.tv_in1k",
    "resnet50": "resnet50.tv_in1k",
    "resnet101": "resnet101.tv_in1k",
    "resnet152": "resnet152.tv_in1k",
    "resnext50_32x4d": "resnext50_32x4d.tv_in1k",
    "resnext101_32x8d": "resnext101_32x8d.tv_in1k",
    "densenet121": "densenet121.tv_in1k",
    "densenet161": "densenet161.tv_in1k",
    "densenet169": "densenet169.tv_in1k",
    "densenet201": "densenet201.tv_in1k",
}
"""Encoder that kdpipe names by itself -> timm's name; `tv`: the weights torchvision trained."""


def weights_file(weights: str | Path, encoder: str) -> Path:
    """The file that `encoder_weights` means.

    Args:
        weights: `imagenet`, or a path, which is given back.
        encoder: whose weights: kdpipe's name of it, or timm's.

    Returns:
        A file in the hub's own cache, fetched if it is not there.

    Raises:
        CheckpointError: timm publishes none, or they are not here and cannot be fetched.
    """
    if str(weights) != IMAGENET:
        return Path(weights)
    make_torchvision_importable()
    import timm
    from huggingface_hub import hf_hub_download

    config = timm.get_pretrained_cfg(_OWN.get(encoder, encoder), allow_unregistered=True)
    repository = getattr(config, "hf_hub_id", None)
    otherwise = "give a checkpoint of it as encoder_weights, or leave that out to start at random"
    if not repository:
        raise CheckpointError(f"timm publishes no ImageNet weights of {encoder}: {otherwise}")
    try:
        path = Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # whatever the hub, its cache and the network raise
        reason = type(error).__name__
        raise CheckpointError(
            f"ImageNet weights of {encoder} are neither in the hub's cache nor to be fetched from "
            f"https://huggingface.co/{repository} ({reason}): {otherwise}"
        ) from error
    logger.info("%s starts from ImageNet weights, %s", encoder, repository)
    return path


def encoder_identity(weights: str | None) -> dict[str, str]:
    """What `encoder_weights` adds to a training's identity beside its text: a file's digest."""
    if weights is None or not Path(weights).is_file():
        return {}
    return {"encoder_sha256": sha256_of_file(Path(weights))}


def entries_of(encoder: str) -> list[str]:
    """Names of the state dict of timm's network, in its own order; empty: timm has none."""
    make_torchvision_importable()
    import timm

    name = _OWN.get(encoder, encoder)
    if not timm.is_model(name):
        return []
    with torch.device("meta"):
        return list(timm.create_model(name, pretrained=False).state_dict())
