"""Depth models of transformers, tiny and random: one of each kind that the hub has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdpipe.cards import TeacherCard
from kdpipe.nets.hub_network import HubNetwork
from kdpipe.teachers import build_network

BACKBONE = {
    "model_type": "dinov2",
    "image_size": 56,
    "patch_size": 14,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "out_indices": [1, 2, 3, 4],
    "reshape_hidden_states": False,
}
ANYTHING = {
    "model_type": "depth_anything",
    "backbone_config": BACKBONE,
    "reassemble_hidden_size": 16,
    "neck_hidden_sizes": [4, 8, 12, 16],
    "fusion_hidden_size": 8,
    "head_hidden_size": 4,
}
PROCESSOR = {
    "image_processor_type": "DPTImageProcessor",
    "size": {"height": 56, "width": 56},
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
VIT = {
    "model_type": "dinov2",
    "image_size": 32,
    "patch_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "use_mask_token": False,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "metric": {
        "config": {**ANYTHING, "depth_estimation_type": "metric", "max_depth": 20},
        "processor": PROCESSOR,
    },
    "relative": {"config": ANYTHING, "processor": PROCESSOR},
    "dpt": {
        "config": {
            "model_type": "dpt",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 64,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [4, 8, 12, 16],
            "fusion_hidden_size": 8,
        },
        "processor": {
            "image_processor_type": "DPTImageProcessor",
            "size": {"height": 64, "width": 64},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    },
    "glpn": {
        "config": {
            "model_type": "glpn",
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 8,
        },
        "processor": {"image_processor_type": "GLPNImageProcessor"},
    },
    "pro": {
        "config": {
            "model_type": "depth_pro",
            "use_fov_model": True,
            "patch_size": 32,
            "fusion_hidden_size": 16,
            "intermediate_hook_ids": [1, 0],
            "intermediate_feature_dims": [8, 8],
            "scaled_images_feature_dims": [16, 16, 8],
            "image_model_config": VIT,
            "patch_model_config": VIT,
            "fov_model_config": VIT,
        },
        "processor": {
            "image_processor_type": "DepthProImageProcessor",
            "size": {"height": 128, "width": 128},
        },
    },
}
RELATIVE = ("relative", "dpt")
Save = Callable[[str], Path]


def card_of(name: str, **network: object) -> TeacherCard:
    kind = "affine-invariant" if name in RELATIVE else "metric"
    return TeacherCard(
        name=name,
        family="huggingface",
        network=network or NETWORKS[name],
        min_depth=1e-4,
        max_depth=1e4,
        about={"kind": kind, "weights": "at the hub"},
    )


def made(name: str) -> HubNetwork:
    """A network with uneven weights: fresh ones give nearly the same depth everywhere."""
    torch.manual_seed(0)
    network = build_network(card_of(name))
    assert isinstance(network, HubNetwork)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.2 * torch.randn_like(value))
        if name == "pro":  # whose heads end in a ReLU and in degrees
            for part, bias in (("head.layers.4", 3.0), ("fov_model.head.layers.4", 60.0)):
                network.get_parameter(f"{part}.bias").fill_(bias)
    return network.eval()


def image(height: int = 75, width: int = 101) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
