"""BTS against its official code: the checkpoint's layout, and what the network then computes.

`bts/layouts.json.gz` lists the official entries of two encoders, `bts/<encoder>_<set>.npz` holds
what the official network gave when it was filled by the recipe: of each of its five maps every 31st
pixel. The Toolbox's and TIE-KD's names are those in the Toolbox's published training log.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from tests.parity import recipe

from kdpipe.cards import load_teacher_card
from kdpipe.teachers import build_network, load_teacher

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.teachers.bts import BtsOutput

HERE = Path(__file__).parent / "bts"
LAYOUTS: dict[str, Any] = json.loads(gzip.decompress((HERE / "layouts.json.gz").read_bytes()))
TOLERANCE = 1e-4  # of the fixtures' description; float32 against float64 is 4e-6 at most
MAPS = ("depth", "lpg8x8", "lpg4x4", "lpg2x2", "reduc1x1")
CASES = [
    ("bts-nyu", "densenet161", "nyu"),
    ("bts-kitti", "densenet161", "kitti"),
    ("bts-resnet50-nyu", "resnet50", "nyu"),
    ("bts-resnet50-kitti", "resnet50", "kitti"),
]
CLASSIFIER = 2048 * 1000 + 1000  # in the published ResNets' files and counts; nothing reads it


def relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference over the largest expected value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def official_state(encoder: str) -> dict[str, torch.Tensor]:
    """An official state dict, with the entries that are never read."""
    layout = LAYOUTS[encoder]
    arrays = recipe.state_arrays(layout["entries"], layout["recipe_overrides"])
    return {name: torch.from_numpy(np.asarray(values)) for name, values in arrays.items()}


def toolbox_name(name: str) -> str:
    """What mmcv's checkpoints of the Toolbox and of TIE-KD call an entry."""
    name = name.replace("encoder.base_model.", "backbone.").replace("decoder.", "decode_head.")
    return name.replace("decode_head.get_depth.0.", "decode_head.conv_depth.")


@pytest.fixture(scope="module", params=["densenet161", "resnet50"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laid out as the file `model` of a published archive."""
    encoder: str = request.param
    path = tmp_path_factory.mktemp("bts") / encoder
    torch.save(
        {
            "global_step": 300_000,
            "model": {f"module.{k}": value for k, value in official_state(encoder).items()},
            "optimizer": {"state": {}, "param_groups": []},
            "best_eval_measures_higher_better": torch.zeros(3),
            "best_eval_measures_lower_better": torch.zeros(6) + 1e3,
        },
        path,
    )
    return path


@pytest.mark.parametrize(("card", "encoder", "data"), CASES)
def test_the_state_dict_is_the_official_one_entry_for_entry(
    card: str, encoder: str, data: str
) -> None:
    with torch.device("meta"):
        network = build_network(load_teacher_card(card))

    found = [[k, list(v.shape), str(v.dtype)[6:]] for k, v in network.state_dict().items()]

    layout = LAYOUTS[encoder]
    assert found == [entry for entry in layout["entries"] if entry[0] not in layout["unused"]]


@pytest.mark.parametrize("data", ["nyu", pytest.param("kitti", marks=pytest.mark.slow)])
def test_an_official_checkpoint_gives_the_five_official_maps(checkpoint: Path, data: str) -> None:
    card, encoder, _ = next(c for c in CASES if c[1:] == (checkpoint.name, data))
    golden = np.load(HERE / f"{encoder}_{data}.npz")
    image = recipe.image(str(golden["image_name"]), *golden["size"].tolist())
    assert hashlib.sha256(image.tobytes()).hexdigest() == str(golden["image_sha256"])
    teacher = load_teacher(card, checkpoint=checkpoint)
    rgb = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    focal = torch.from_numpy(golden["focal"])[None]

    with torch.inference_mode():
        out: BtsOutput = teacher.network(rgb, focal)
    predicted = teacher.predict(image[None], focal=focal).depth

    index = golden["index"]
    for name in MAPS:
        found = getattr(out, name)[0].numpy()
        assert found.shape == tuple(golden["size"])
        assert relative(found.ravel()[index], golden[name]) <= TOLERANCE, name
    assert relative(predicted[0].numpy().ravel()[index], golden["depth"]) <= TOLERANCE


def test_a_checkpoint_of_the_toolbox_is_the_same_network_with_a_last_bias(tmp_path: Path) -> None:
    golden = np.load(HERE / "resnet50_nyu.npz")
    image = recipe.image(str(golden["image_name"]), *golden["size"].tolist())
    state = {
        toolbox_name(k): value
        for k, value in official_state("resnet50").items()
        if k not in LAYOUTS["resnet50"]["unused"]
    }
    bias = 0.25
    state["decode_head.conv_depth.bias"] = torch.tensor([bias])
    path = tmp_path / "bts_r50_nyu_24e.pth"
    torch.save({"meta": {"epoch": 24}, "state_dict": state}, path)

    teacher = load_teacher("bts-resnet50-nyu-tiekd", checkpoint=path, mirror=False)
    depth = teacher.predict(image[None]).depth[0].numpy().ravel()[golden["index"]]

    part = golden["depth"] / 10.0
    expected = 10.0 / (1 + (1 - part) / part * np.exp(-bias))  # sigmoid(logit(part) + bias)
    assert relative(depth, expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("card", "millions"),
    [
        ("bts-densenet121-nyu", 21.2),
        ("bts-nyu", 47.0),
        ("bts-resnet50-nyu", 49.5),
        ("bts-resnet101-nyu", 68.5),
        ("bts-resnext50-nyu", 49.0),
        ("bts-resnext101-nyu", 112.8),
    ],
)
def test_each_encoder_gives_the_published_number_of_parameters(card: str, millions: float) -> None:
    with torch.device("meta"):
        network = build_network(replace(load_teacher_card(card), max_depth=1.0))

    count = sum(p.numel() for p in network.parameters())
    encoder = cast("str", load_teacher_card(card).network["encoder"])
    count += CLASSIFIER if encoder.startswith("res") else 0

    assert round(count / 1e6, 1) == millions
