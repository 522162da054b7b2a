"""Any network of timm's under TIE-KD's decoder, and timm's ImageNet weights."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import torch
from safetensors.torch import save_file

from kdpipe.cards import load_student_card
from kdpipe.errors import CardError, CheckpointError
from kdpipe.nets.torchvision_shim import make_torchvision_importable
from kdpipe.students import build_network, load_student, save_student

if TYPE_CHECKING:
    from kdpipe.students import StudentOutput

make_torchvision_importable()
timm = importlib.import_module("timm")

CARD = replace(load_student_card("mobilenetv3-small"), width=0.0625)
HU = load_student_card("hu-mobilenetv2")
TIE_KD = replace(load_student_card("mobilenetv2"), width=0.0625)


@pytest.mark.parametrize(
    ("encoder", "finest"),
    [
        ("ghostnet_050", 2),
        ("convnext_atto", 4),
        ("vit_tiny_patch16_224", 16),
        ("swin_tiny_patch4_window7_224", 4),
        ("hrnet_w18_small", 2),  # of multiples of 32 only
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_timm_network_gives_depth_at_any_size(
    encoder: str, finest: int, stride: Literal[1, 2]
) -> None:
    network = build_network(replace(CARD, encoder=encoder, output_stride=stride)).eval()

    with torch.no_grad():
        output: StudentOutput = network(torch.rand(2, 3, 71, 101))

    assert network.get_submodule("backbone").reductions[0] == finest  # type: ignore[index]
    assert output.depth.shape == (2, 71, 101)
    assert output.probabilities is not None
    assert output.probabilities.shape[-2:] == tuple(-(-side // stride) for side in (71, 101))


def test_every_parameter_that_counts_gets_a_gradient() -> None:
    network = build_network(CARD)

    network(torch.rand(2, 3, 64, 96)).depth.square().mean().backward()

    silent = {name for name, p in network.named_parameters() if p.grad is None}
    assert silent == {n for n, _ in network.named_parameters() if network.is_unused(n)}  # type: ignore[operator]


def test_an_encoder_can_be_dilated() -> None:
    network = build_network(replace(CARD, encoder="mobilenetv3_small_050", encoder_stride=16))

    assert network.get_submodule("backbone").reductions[-1] == 16  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "levit_128s"}, "one size only"),
        ({"encoder": "ghostnet_050", "encoder_stride": 8}, "cannot|gives no feature maps"),
        ({"encoder": "hf-hub:timm/resnet18"}, "timm"),
        ({"encoder": "mobilenetv3_small_100", "encoder_width": 0.5}, "encoder_width"),
        ({"encoder": "resnet18", "encoder_stride": 8}, "encoder_stride of resnet18 is 32"),
        ({"encoder": "mobilenetv2", "encoder_stride": 32}, "8 or 16"),
    ],
)
def test_what_an_encoder_cannot_do_is_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(CardError, match=message) as raised:
        build_network(replace(CARD, **options))  # type: ignore[arg-type]

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["encoder", "output_stride", "decoder_norm"])
def test_a_card_of_hus_family_says_nothing_that_its_network_ignores(key: str) -> None:
    other = replace(HU, **{key: {"encoder": "resnet18", "decoder_norm": True}.get(key, 2)})  # type: ignore[arg-type]

    with pytest.raises(CardError, match=f"hu-mobilenetv2: {key}: found"):
        build_network(other)


def test_width_scales_hus_decoder_too() -> None:
    half = build_network(replace(HU, width=0.5)).state_dict()

    assert half["R.conv2.weight"].shape == (1, 32, 5, 5)  # published: 64


def test_a_student_on_timms_encoder_survives_being_saved(tmp_path: Path) -> None:
    network = build_network(CARD)

    save_student(tmp_path, network, CARD, "nyu", (64, 96))
    loaded = load_student(tmp_path)

    assert loaded.card == CARD
    for key, values in loaded.network.state_dict().items():
        assert torch.equal(values, network.state_dict()[key]), key


def hub_cache(home: Path, repository: str, model: torch.nn.Module) -> None:
    """Puts a model where the hub's own client looks before it asks the network."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("0" * 40)
    save_file(model.state_dict(), snapshot / "model.safetensors")


def test_a_timm_checkpoint_fills_the_encoder_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = timm.create_model("mobilenetv3_small_100")
    torch.save(theirs.state_dict(), tmp_path / "v3.pth")

    network = build_network(CARD, encoder_weights=str(tmp_path / "v3.pth"))

    ours = network.get_submodule("backbone.network").state_dict()
    assert torch.equal(ours["blocks.2.0.conv_pw.weight"], theirs.blocks[2][0].conv_pw.weight)


@pytest.mark.parametrize(
    ("card", "first"),
    [
        (replace(TIE_KD, encoder_weights="imagenet"), "backbone.conv1.conv.weight"),
        (replace(HU, encoder_weights="imagenet"), "E.mv2.0.0.weight"),
    ],
    ids=["tie-kd", "hu"],
)
def test_timms_mobilenet_from_the_hubs_cache_fills_both_published_students(
    card: object, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    theirs = timm.create_model("mobilenetv2_100")
    hub_cache(tmp_path, "timm/mobilenetv2_100.ra_in1k", theirs)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    network = build_network(card)  # type: ignore[arg-type]

    assert torch.equal(network.state_dict()[first], theirs.conv_stem.weight)


def test_imagenet_without_a_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(CheckpointError, match=r"huggingface.co/timm/mobilenetv3.*encoder_weights"):
        build_network(replace(CARD, encoder_weights="imagenet"))


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("ghostnet_050").state_dict(), tmp_path / "ghost.pth")

    for card in (CARD, TIE_KD, HU):
        with pytest.raises(CheckpointError) as raised:
            build_network(card, encoder_weights=str(tmp_path / "ghost.pth"))
        assert "\n" not in str(raised.value)
