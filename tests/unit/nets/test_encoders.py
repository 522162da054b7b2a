"""Pyramids: which maps they give, and ImageNet weights by name or by position."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kdpipe.errors import CardError, CheckpointError
from kdpipe.nets.encoders import EfficientNetPyramid, Normalise, load_encoder_weights
from kdpipe.nets.pyramids import DenseNetPyramid
from kdpipe.nets.torchvision_shim import make_torchvision_importable

LITE0 = (16, 24, 40, 112, 1280)


@pytest.fixture(scope="module")
def pyramid() -> EfficientNetPyramid:
    return EfficientNetPyramid("tf_efficientnet_lite0").eval()


def test_maps_halve_five_times_and_round_up(pyramid: EfficientNetPyramid) -> None:
    with torch.no_grad():
        maps = pyramid(torch.zeros(1, 3, 70, 97))

    assert pyramid.channels == LITE0
    assert [tuple(m.shape[1:]) for m in maps] == [
        (16, 35, 49),
        (24, 18, 25),
        (40, 9, 13),
        (112, 5, 7),
        (1280, 3, 4),
    ]


def test_the_deepest_map_is_raw(pyramid: EfficientNetPyramid) -> None:
    with torch.no_grad():
        deepest = pyramid(torch.rand(1, 3, 64, 64))[4]

    assert deepest.min() < 0  # an activation would have cut it


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("efficientnet_b99", "no network that timm"),
        ("hf-hub:someone/something", "no network that timm"),
        ("resnet18", "not EfficientNet-like"),
    ],
)
def test_another_encoder_is_refused(name: str, expected: str) -> None:
    with pytest.raises(CardError, match=expected):
        EfficientNetPyramid(name)


def test_normalisation_is_that_of_its_name_and_leaves_no_entry() -> None:
    white = torch.ones(1, 3, 1, 1)

    half, imagenet = Normalise("half"), Normalise("imagenet")

    assert half(white).flatten().tolist() == [1, 1, 1]
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert imagenet(white).flatten().tolist() == pytest.approx(expected, rel=1e-6)
    assert not imagenet.state_dict()


def lite_names(pyramid: EfficientNetPyramid) -> dict[str, torch.Tensor]:
    """A state dict in the order of timm's, under names of another package, with a classifier."""
    own = pyramid.original_model.state_dict()
    noise = {k: torch.rand(v.shape).to(v.dtype) for k, v in own.items()}
    state = {f"_part{n}.{k.rsplit('.', 1)[-1]}": noise[k] for n, k in enumerate(own)}
    return {**state, "_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_other_names_are_matched_by_position(tmp_path: Path, legacy: bool) -> None:
    pyramid = EfficientNetPyramid("tf_efficientnet_lite0")
    state, path = lite_names(pyramid), tmp_path / "lite0.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)

    load_encoder_weights(pyramid, path)

    loaded = list(pyramid.original_model.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(loaded, state.values(), strict=False))


def test_timm_names_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    source, target = (EfficientNetPyramid("mobilenetv2_050") for _ in range(2))
    state = source.original_model.state_dict()
    path = tmp_path / "mobilenet.pth"
    torch.save(dict(reversed({**state, "classifier.bias": torch.zeros(1000)}.items())), path)

    load_encoder_weights(torch.nn.ModuleDict({"encoder": target}), path)

    assert all(torch.equal(v, state[k]) for k, v in target.original_model.state_dict().items())


def test_a_swapped_order_or_another_encoder_is_refused(tmp_path: Path) -> None:
    pyramid = EfficientNetPyramid("tf_efficientnet_lite0")
    state, path = lite_names(pyramid), tmp_path / "lite0.pth"
    first, second, *others = state.items()
    torch.save(dict([second, first, *others]), path)

    with pytest.raises(CheckpointError, match="294 missing: conv_stem"):
        load_encoder_weights(pyramid, path)
    with pytest.raises(CheckpointError, match="holds another network"):
        load_encoder_weights(EfficientNetPyramid("mobilenetv2_050"), path)


def test_the_published_lite0_file_is_read() -> None:
    folder = os.environ.get("KDPIPE_REAL_DATA")
    if folder is None:
        pytest.skip("the published ImageNet weights: KDPIPE_REAL_DATA is not set")
    path = Path(folder).parent / "weights" / "efficientnet-lite0-57934424.pth"
    pyramid = EfficientNetPyramid("tf_efficientnet_lite0")

    load_encoder_weights(pyramid, path)

    published = torch.load(path, weights_only=True)
    own = pyramid.original_model.state_dict()
    assert torch.equal(own["conv_stem.weight"], published["_conv_stem.weight"])
    assert torch.equal(own["blocks.6.0.bn3.weight"], published["_blocks.15._bn2.weight"])
    assert torch.equal(own["bn2.running_var"], published["_bn1.running_var"])


def test_timms_densenet_fills_ours_whatever_order_its_file_has(tmp_path: Path) -> None:
    make_torchvision_importable()
    timm = importlib.import_module("timm")
    torch.manual_seed(1)
    theirs = timm.create_model("densenet121", num_classes=1000)
    path = tmp_path / "model.safetensors"
    save_file(theirs.state_dict(), path)  # sorts by name
    pyramid = DenseNetPyramid("densenet121")

    load_encoder_weights(pyramid, path)

    weight = pyramid.get_submodule("denseblock3").state_dict()["denselayer2.conv1.weight"]
    assert torch.equal(weight, theirs.features.denseblock3.denselayer2.conv1.weight)
