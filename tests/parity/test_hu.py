"""Hu et al.'s teacher against its official code: the checkpoint's layout, and what it computes.

`hu/layout.json.gz` lists the official entries, `hu/resnet34_nyu.npz` holds every 17th pixel of the
depth that the official network gave when it was filled by the recipe.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tests.parity import recipe

from kdpipe.cards import load_teacher_card
from kdpipe.teachers import build_network, load_teacher

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.teachers.hu import HuOutput

HERE = Path(__file__).parent / "hu"
LAYOUT: dict[str, Any] = json.loads(gzip.decompress((HERE / "layout.json.gz").read_bytes()))
TOLERANCE = 1e-4  # of the fixtures' description; float32 against float64 is 4e-6 at most


def relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference over the largest expected value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", ["hu-resnet34", "hu-resnet34-scannet"])
def test_the_state_dict_is_the_official_one_entry_for_entry(name: str) -> None:
    with torch.device("meta"):
        network = build_network(load_teacher_card(name))

    found = [[k, list(v.shape), str(v.dtype)[6:]] for k, v in network.state_dict().items()]

    assert found == LAYOUT["entries"]
    assert sum(p.numel() for p in network.parameters()) == 21_918_977


def test_an_official_checkpoint_gives_the_official_depth(tmp_path: Path) -> None:
    arrays = recipe.state_arrays(LAYOUT["entries"], LAYOUT["recipe_overrides"])
    state = {f"module.{k}": torch.from_numpy(np.asarray(v)) for k, v in arrays.items()}
    path = tmp_path / "N_t_X.pt"
    torch.save(state, path)  # the bare state dict, as published
    golden = np.load(HERE / "resnet34_nyu.npz")
    image = recipe.image(str(golden["image_name"]), *golden["size"].tolist())
    assert hashlib.sha256(image.tobytes()).hexdigest() == str(golden["image_sha256"])
    teacher = load_teacher("hu-resnet34", checkpoint=path)
    rgb = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255

    with torch.inference_mode():
        out: HuOutput = teacher.network(rgb)
    predicted = teacher.predict(image[None]).depth

    assert out.depth.shape == predicted.shape == (1, 228, 304)
    for depth in (out.depth, predicted):
        assert relative(depth.numpy().ravel()[golden["index"]], golden["depth"]) <= TOLERANCE
