"""ZoeDepth against its official code: the checkpoint's layout, and what the network then computes.

`zoedepth/layout.json.gz` lists the official entries of the three models and what transformers
calls each, `zoedepth/<fixture>.npz` holds what the official network gave when it was filled by the
recipe: depth at 4000 pixels, probabilities and centres of 64, the router's logits.
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
from kdpipe.nets import checkpoint
from kdpipe.nets.zoedepth import ZoeDepth, ZoeDepthOutput
from kdpipe.teachers import build_network, load_teacher
from kdpipe.teachers.base import resize
from kdpipe.teachers.zoedepth import network_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent / "zoedepth"
LAYOUT: dict[str, Any] = json.loads(gzip.decompress((HERE / "layout.json.gz").read_bytes()))
TOLERANCE = 5e-4  # of the fixtures' description; float32 against float64 is 2e-4 at most
MODELS = ("n", "k", "nk")


def relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference over the largest expected value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def state_of(fixture: str) -> dict[str, torch.Tensor]:
    """What the recipe fills of the official file: not the constants."""
    about = LAYOUT["fixtures"][fixture]
    return {
        name: torch.from_numpy(recipe.weight(name, shape, about["recipe_overrides"]))
        for name, shape, dtype in LAYOUT["entries"][fixture.split("-")[0]]
        if dtype.startswith("float") and name not in about["keep"]
    }


def image_of(golden: Any) -> torch.Tensor:
    """The fixture's image as the network sees it (1, 3, h, w) in [0, 1]."""
    image = recipe.image(str(golden["image_name"]), *golden["size"].tolist())
    assert hashlib.sha256(image.tobytes()).hexdigest() == str(golden["image_sha256"])
    rgb = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    return resize(rgb, (int(golden["network"][0]), int(golden["network"][1])))


def check(network: ZoeDepth, fixture: str) -> ZoeDepthOutput:
    """Holds a network to a fixture."""
    golden = np.load(HERE / f"{fixture}.npz")
    rgb = image_of(golden)
    seen = ((rgb - 0.5) / 0.5).numpy().ravel()[golden["input_index"]]
    np.testing.assert_allclose(seen, golden["input"], atol=1e-6)

    with torch.inference_mode():
        out: ZoeDepthOutput = network.eval()(rgb)

    pixels = golden["pixels"].tolist()
    bins = out.probabilities.shape[1]
    assert relative(out.depth.numpy().ravel()[golden["depth_index"]], golden["depth"]) <= TOLERANCE
    probabilities = out.probabilities[0].reshape(bins, -1).T[pixels].numpy()
    assert np.abs(probabilities - golden["probabilities"]).max() <= TOLERANCE
    centers = out.centers[0].reshape(bins, -1).T[pixels].numpy()
    assert relative(centers, golden["centers"]) <= TOLERANCE
    if "domain_logits" in golden:
        assert out.bins.domain_logits is not None
        assert relative(out.bins.domain_logits.numpy(), golden["domain_logits"]) <= TOLERANCE
    return out


@pytest.mark.parametrize("model", MODELS)
def test_the_state_dict_is_the_official_one_entry_for_entry(model: str) -> None:
    with torch.device("meta"):
        network = build_network(load_teacher_card(f"zoedepth-{model}"))

    found = [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in network.state_dict().items()
    ]

    assert found == LAYOUT["entries"][model]


@pytest.mark.parametrize("model", MODELS)
def test_transformers_names_are_those_that_were_seen_to_agree(model: str) -> None:
    with torch.device("meta"):
        network = build_network(load_teacher_card(f"zoedepth-{model}"))
    assert isinstance(network, ZoeDepth)

    theirs = {
        name: [part.removeprefix("model.") for part in parts if part.startswith("model.")]
        for name, parts in network.layout.items()
    }

    assert theirs == LAYOUT["fixtures"][model]["transformers"]


@pytest.mark.parametrize(("model", "target"), [("n", (384, 512)), ("k", (384, 768))])
def test_the_fixtures_sizes_are_those_of_infer(model: str, target: tuple[int, int]) -> None:
    golden = np.load(HERE / f"{model}.npz")

    size = network_size(tuple(golden["size"].tolist()), target, keep_aspect=True)

    assert size == tuple(golden["network"].tolist())


@pytest.mark.slow
def test_n_computes_what_the_official_network_does_from_its_own_file(tmp_path: Path) -> None:
    constants = {
        f"module.{name}": torch.zeros(shape, dtype=torch.int64)
        for name, shape, dtype in LAYOUT["entries"]["n"]
        if dtype == "int64"
    }
    state = {f"module.{name}": value for name, value in state_of("n").items()} | constants
    state["module.conditional_log_binomial.log_binomial_transform.K_minus_1"] = torch.full(
        (1, 1, 1, 1), 63.0
    )
    assert len(state) == len(LAYOUT["entries"]["n"])
    path = tmp_path / "ZoeD_M12_N.pt"
    torch.save({"model": state}, path)
    del state

    teacher = load_teacher("zoedepth-n", checkpoint=path)

    assert isinstance(teacher.network, ZoeDepth)
    check(teacher.network, "n")


@pytest.mark.slow
def test_k_computes_what_the_official_network_does() -> None:
    network = build_network(load_teacher_card("zoedepth-k"))
    assert isinstance(network, ZoeDepth)
    checkpoint.load_state(network, state_of("k"), "k", unused=network.is_unused)

    out = check(network, "k")

    golden = np.load(HERE / "k.npz")  # with max_depth 10, as the official hub entry builds it
    shallow = (out.depth.numpy().ravel()[golden["depth_max10_index"]] - 1e-3) * (9.999 / 79.999)
    assert relative(shallow + 1e-3, golden["depth_max10"]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["nk", "nk-kitti"])
def test_nk_computes_what_the_official_network_does(fixture: str) -> None:
    network = build_network(load_teacher_card("zoedepth-nk"))
    assert isinstance(network, ZoeDepth)
    checkpoint.load_state(network, state_of(fixture), fixture, unused=network.is_unused)

    check(network, fixture)


def test_the_published_size_is_the_published_number_of_parameters() -> None:
    card = load_teacher_card("zoedepth-n")
    with torch.device("meta"):
        network = build_network(replace(card, network={}))

    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)

    assert round(trained / 1e6, 2) == 343.79
