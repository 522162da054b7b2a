"""Depthformer against its official code: the checkpoint's layout, and what the network computes.

`depthformer/layout.json.gz` lists the official entries, `depthformer/<set>.npz` holds what the
official network gave when it was filled by the recipe: the head's map at half size, depth at 4096
pixels of the frame, and 16 values behind the stem, the patches' embedding and the first stage.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tests.parity import recipe

from kdpipe.cards import load_teacher_card
from kdpipe.nets.encoders import Normalise
from kdpipe.nets.swin import PatchEmbedding, SwinStage
from kdpipe.teachers import build_network, load_teacher
from kdpipe.teachers.depthformer import Depthformer

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent / "depthformer"
LAYOUT: dict[str, Any] = json.loads(gzip.decompress((HERE / "layout.json.gz").read_bytes()))
OPTIONAL = set(LAYOUT["optional"])  # `conv_out`, only in the files of TIE-KD, and never read
TOLERANCE = 1e-4  # of the fixtures' description; found: 4e-6


def relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference over the largest expected value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def write_checkpoint(path: Path, name: str, *, optional: bool) -> None:
    """Laid out as mmcv's files: wrapped, with `meta` and the optimiser's state.

    The window positions are all 0: constants, which a network has to build itself.
    """
    entries = [entry for entry in LAYOUT["entries"] if optional or entry[0] not in OPTIONAL]
    arrays = recipe.state_arrays(entries, LAYOUT["recipe_overrides"][name])
    state = {key: torch.from_numpy(value) for key, value in arrays.items()}
    optimizer: dict[str, object] = {"state": {}, "param_groups": []}
    torch.save({"meta": {"iter": 38400}, "state_dict": state, "optimizer": optimizer}, path)


def read_image(golden: Any) -> torch.Tensor:
    """The case's image as RGB (1, 3, H, W) in [0, 1]."""
    image = recipe.image(str(golden["image_name"]), *golden["size"].tolist())
    assert hashlib.sha256(image.tobytes()).hexdigest() == str(golden["image_sha256"])
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("name", ["depthformer-nyu", "depthformer-kitti"])
def test_the_state_dict_is_the_official_one_entry_for_entry(name: str) -> None:
    with torch.device("meta"):
        network = build_network(load_teacher_card(name))

    found = [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in network.state_dict().items()
    ]

    assert found == [entry for entry in LAYOUT["entries"] if entry[0] not in OPTIONAL]


def test_what_official_files_may_lack_or_add_is_known_as_unused() -> None:
    with torch.device("meta"):
        network = build_network(load_teacher_card("depthformer-nyu"))
    assert isinstance(network, Depthformer)

    unused = {entry[0] for entry in LAYOUT["entries"] if network.is_unused(entry[0])}

    positions = {key for key, _, dtype in LAYOUT["entries"] if key.endswith("position_index")}
    assert len(positions) == 2 + 2 + 18 + 2
    assert unused == OPTIONAL | positions


@pytest.mark.parametrize("name", ["nyu", "kitti"])
def test_the_stem_and_the_first_stage_compute_what_the_official_ones_do(name: str) -> None:
    golden = np.load(HERE / f"{name}.npz")
    stem = torch.nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
    embedding = PatchEmbedding(192)
    stage = SwinStage(192, heads=6, window=7, hidden=768, drop_paths=[0, 0], is_last=False).eval()
    parts = {"backbone.conv1.": stem, "backbone.patch_embed.": embedding}
    for prefix, part in {**parts, "backbone.stages.0.": stage}.items():
        for key, value in part.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(recipe.weight(prefix + key, value.shape)))
    rgb = Normalise("imagenet")(read_image(golden))

    with torch.inference_mode():
        tokens = embedding(rgb)
        found = {"stem": stem(rgb), "embedding": tokens, "stage": stage(tokens)[1]}

    for part_name, values in found.items():
        values = values if part_name == "stem" else values.flatten(1, 2)
        flat = values.flatten().double().numpy()
        index = np.linspace(0, flat.size - 1, 16).astype(int)
        mean, deviation = golden[f"{part_name}_mean_std"]
        assert values.shape == tuple(golden[f"{part_name}_shape"])
        assert relative(flat[index], golden[f"{part_name}_samples"]) <= TOLERANCE
        assert flat.mean() == pytest.approx(mean, abs=TOLERANCE)
        assert flat.std() == pytest.approx(deviation, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optional"), [("nyu", True), ("kitti", False)])
def test_an_official_checkpoint_gives_the_official_depth(name: str, optional: bool) -> None:
    golden = np.load(HERE / f"{name}.npz")
    rgb = read_image(golden)
    with tempfile.TemporaryDirectory() as folder:  # a gigabyte: not kept as pytest's own are
        path = Path(folder) / "depthformer.pth"
        write_checkpoint(path, name, optional=optional)
        teacher = load_teacher(f"depthformer-{name}", checkpoint=path, mirror=False)

    out = teacher.predict(rgb)

    frame = out.depth_in_frame(*golden["size"].tolist())
    assert out.depth[0].shape == golden["head_depth"].shape
    assert relative(out.depth[0].numpy(), golden["head_depth"]) <= TOLERANCE
    assert relative(frame.numpy().ravel()[golden["depth_index"]], golden["depth"]) <= TOLERANCE


def test_a_card_without_network_is_the_published_size() -> None:
    card = replace(load_teacher_card("depthformer-nyu"), network={})
    with torch.device("meta"):
        network = build_network(card)
    assert isinstance(network, Depthformer)

    parts = {"backbone": network.backbone, "neck": network.neck, "head": network.decode_head}
    millions = {
        name: round(sum(p.numel() for p in part.parameters()) / 1e6, 1)
        for name, part in parts.items()
    }

    assert millions == {"backbone": 195.0, "neck": 48.3, "head": 30.4}
