"""AdaBins against its official code: the checkpoint's layout, and what the network then computes.

`adabins/layout.json.gz` lists the official entries, `adabins/<set>.npz` holds what the official
network gave when it was filled by the recipe: depth at 4096 pixels, edges, centres, and the
probabilities of 64 pixels.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tests.parity import recipe

from kdpipe.cards import load_teacher_card
from kdpipe.teachers import build_network, load_teacher
from kdpipe.teachers.adabins import AdaBins, AdaBinsOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent / "adabins"
LAYOUT: dict[str, Any] = json.loads(gzip.decompress((HERE / "layout.json.gz").read_bytes()))
TOLERANCE = 1e-4  # of the fixtures' description; float32 against float64 is 4e-6 at most


def relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference over the largest expected value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def older_name(name: str) -> str:
    """What checkpoints of the first release call an entry."""
    for old, new in LAYOUT["legacy_names"]:
        if name.startswith(new):
            return str(old + name.removeprefix(new))
    return name


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laid out as the oldest published files: wrapped, `module.`, former names, optimiser state."""
    arrays = recipe.state_arrays(LAYOUT["entries"], LAYOUT["recipe_overrides"])
    state = {f"module.{older_name(k)}": torch.from_numpy(v) for k, v in arrays.items()}
    path = tmp_path_factory.mktemp("adabins") / "AdaBins.pt"
    torch.save({"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 24}, path)
    return path


@pytest.mark.parametrize("name", ["adabins-nyu", "adabins-kitti"])
def test_the_state_dict_is_the_official_one_entry_for_entry(name: str) -> None:
    with torch.device("meta"):
        network = build_network(load_teacher_card(name))

    found = [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in network.state_dict().items()
    ]

    assert found == LAYOUT["entries"]


@pytest.mark.parametrize("name", ["nyu", pytest.param("kitti", marks=pytest.mark.slow)])
def test_the_network_computes_what_the_official_one_does(name: str, checkpoint: Path) -> None:
    golden = np.load(HERE / f"{name}.npz")
    image = recipe.image(str(golden["image_name"]), *golden["size"].tolist())
    assert hashlib.sha256(image.tobytes()).hexdigest() == str(golden["image_sha256"])
    teacher = load_teacher(f"adabins-{name}", checkpoint=checkpoint)
    rgb = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255

    with torch.inference_mode():
        out: AdaBinsOutput = teacher.network(rgb)

    depth = out.depth[0].numpy()
    bins = out.probabilities.shape[1]
    pixels = out.probabilities[0].reshape(bins, -1).T[golden["probabilities_index"].tolist()]
    assert depth.shape == tuple(golden["depth_shape"])
    assert relative(depth.ravel()[golden["depth_index"]], golden["depth"]) <= TOLERANCE
    assert relative(out.edges.numpy(), golden["edges"]) <= TOLERANCE
    assert relative(out.centers.numpy(), golden["centers"]) <= TOLERANCE
    assert np.abs(pixels.numpy() - golden["probabilities"]).max() <= TOLERANCE


def test_a_card_without_network_is_the_published_size() -> None:
    card = replace(load_teacher_card("adabins-nyu"), network={})
    with torch.device("meta"):
        network = build_network(card)
    assert isinstance(network, AdaBins)

    parts = {
        "encoder": network.encoder,
        "decoder": network.decoder,
        "mini-ViT": network.adaptive_bins_layer,
        "conv_out": network.conv_out,
    }
    millions = {
        name: round(sum(p.numel() for p in part.parameters()) / 1e6, 2)
        for name, part in parts.items()
    }

    assert millions == {"encoder": 28.34, "decoder": 43.99, "mini-ViT": 5.89, "conv_out": 0.03}
