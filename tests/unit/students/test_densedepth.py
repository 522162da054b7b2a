"""TIE-KD's network: its size, its shapes, and ImageNet weights for its encoder."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch

from kdpipe.cards import StudentCard, load_student_card
from kdpipe.errors import CardError, CheckpointError
from kdpipe.losses import fused
from kdpipe.nets.mobilenet_v2 import MobileNetV2
from kdpipe.nets.torchvision_shim import make_torchvision_importable
from kdpipe.students import build_network
from kdpipe.students.base import BINS
from kdpipe.students.densedepth import DenseDepth, build, load_encoder
from kdpipe.students.distribution import distribution

if TYPE_CHECKING:
    from kdpipe.students import StudentOutput

PUBLISHED = load_student_card("mobilenetv2")
TINY = replace(PUBLISHED, width=0.03, encoder_width=0.25)


def forward(card: StudentCard, height: int, width: int, bins: str = "nyu") -> StudentOutput:
    """Of random weights on a random image."""
    torch.manual_seed(0)
    network = build(card, BINS[bins]).eval()
    with torch.no_grad():
        output: StudentOutput = network(torch.rand(2, 3, height, width))
    return output


@pytest.mark.parametrize(("head", "used"), [("dpm", 17_646_465), ("regression", 17_614_465)])
def test_the_published_network_has_the_published_number_of_parameters(
    head: Literal["dpm", "regression"], used: int
) -> None:
    with torch.device("meta"):
        network = build(replace(PUBLISHED, head=head), BINS["kitti"])

    sizes = {name: values.numel() for name, values in network.named_parameters()}

    assert sum(sizes.values()) == 17_647_618
    assert sum(size for name, size in sizes.items() if not network.is_unused(name)) == used
    assert sum(p.numel() for p in network.backbone.parameters()) == 1_811_712


def test_the_encoder_gives_the_published_maps_at_stride_8() -> None:
    maps = MobileNetV2().eval()(torch.zeros(1, 3, 64, 96))

    assert [tuple(m.shape[1:]) for m in maps] == [
        (24, 16, 24),
        (32, 8, 12),
        (96, 8, 12),
        (320, 8, 12),
    ]


def test_width_scales_the_decoder_and_encoder_width_the_encoder() -> None:
    half = build(replace(PUBLISHED, width=0.5), BINS["nyu"]).decode_head
    thin = build(replace(PUBLISHED, encoder_width=0.5, width=0.125), BINS["nyu"])

    assert half.state_dict()["conv_list.0.conv.weight"].shape == (1024, 320, 1, 1)
    assert half.state_dict()["conv_out.0.weight"].shape == (49, 64, 1, 1)
    assert thin.backbone.channels == (16, 16, 48, 160)
    assert thin.decode_head.conv_depth.weight.shape == (1, 16, 3, 3)


def test_a_normalised_decoder_has_mmcvs_names_and_keeps_its_units_alive() -> None:
    plain = build(replace(TINY, output_stride=2), BINS["nyu"]).decode_head.state_dict()
    torch.manual_seed(0)
    network = build(replace(TINY, output_stride=2, decoder_norm=True), BINS["nyu"])
    names = network.decode_head.state_dict()

    assert {key for key in plain if key not in names} == {
        key for key in plain if key.startswith(("conv_list.", "upsample")) and key.endswith(".bias")
    } - {"conv_list.0.conv.bias"}
    assert "conv_list.1.convA.bn.running_var" in names

    block = network.decode_head.get_submodule("upsample_custom.convB")
    with torch.no_grad():  # what kills every unit of a decoder without normalisation
        block.conv.weight.copy_(-block.conv.weight.abs())  # type: ignore[union-attr,operator]
    alive = []
    block.register_forward_hook(lambda _m, _i, y: alive.append((y > 0).float().mean((0, 2, 3))))
    network(torch.rand(2, 3, 64, 96))

    assert alive[0].min() > 0.1


@pytest.mark.parametrize("encoder_stride", [8, 16])
@pytest.mark.parametrize(("output_stride", "bins_size"), [(1, (45, 70)), (2, (23, 35))])
def test_depth_has_the_inputs_size_whatever_it_is(
    output_stride: Literal[1, 2], bins_size: tuple[int, int], encoder_stride: Literal[8, 16]
) -> None:
    card = replace(TINY, output_stride=output_stride, encoder_stride=encoder_stride)

    output = forward(card, 45, 70)

    assert output.depth.shape == (2, 45, 70)
    assert output.probabilities is not None
    assert output.probabilities.shape == (2, 49, *bins_size)


def test_bins_are_probabilities_and_depth_is_their_mean() -> None:
    output = forward(TINY, 32, 48, "kitti")

    assert output.probabilities is not None
    torch.testing.assert_close(output.probabilities.sum(1), torch.ones(2, 32, 48))
    mean = (output.probabilities.double() * output.centers.double().view(1, -1, 1, 1)).sum(1)
    torch.testing.assert_close(output.depth, mean.float())
    assert output.centers[0].item() == pytest.approx(0.1566, abs=1e-4)
    assert output.centers[-1].item() == pytest.approx(79.8444, abs=1e-4)


@pytest.mark.parametrize("weights", [(1, 0), (0, 1), (1, 1)], ids=["depth", "bins", "both"])
def test_gradients_reach_the_logits_as_through_plain_arithmetic(
    weights: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_CHUNK", 2 * 7 * 49)  # two of five rows, and one at the end
    torch.manual_seed(0)
    logits = (3 * torch.randn(2, 5, 7, 49)).requires_grad_()
    directions = torch.rand(2, 5, 7), torch.rand(2, 49, 5, 7)
    centers = BINS["nyu"].centers()
    plain = torch.softmax(logits, dim=-1)

    bins, depth = distribution(logits, centers)
    expected = ((plain * centers).sum(dim=-1), plain.permute(0, 3, 1, 2))
    asked = [place for place, weight in enumerate(weights) if weight]
    found, wanted = (
        torch.autograd.grad(
            torch.stack([(each[place] * directions[place]).sum() for place in asked]).sum(), logits
        )[0]
        for each in ((depth, bins), expected)
    )

    torch.testing.assert_close(depth, expected[0])
    torch.testing.assert_close(found, wanted)


def test_a_regression_head_gives_depth_below_its_limit_and_no_bins() -> None:
    output = forward(replace(TINY, head="regression"), 32, 48)

    assert output.probabilities is None
    assert output.centers.shape == (0,)
    assert 0 < output.depth.min() <= output.depth.max() < 10


def test_every_used_parameter_gets_a_gradient_and_no_unused_one() -> None:
    network = build(replace(TINY, output_stride=2), BINS["nyu"])

    network(torch.rand(2, 3, 32, 32)).depth.sum().backward()

    without = {name for name, values in network.named_parameters() if values.grad is None}
    assert without == {name for name, _ in network.named_parameters() if network.is_unused(name)}
    assert {name.split(".")[1] for name in without} == {"conv_depth", "upsample_custom2"}


@pytest.fixture(scope="module")
def torchvision_network() -> Any:
    """Theirs, with random weights and running statistics."""
    make_torchvision_importable()
    models = importlib.import_module("torchvision.models")
    torch.manual_seed(1)
    network = models.mobilenet_v2()
    network(torch.rand(4, 3, 64, 64))  # running statistics that are not the default
    return network.eval()


@pytest.fixture(scope="module")
def torchvision_file(torchvision_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights as published: a bare state dict."""
    path = tmp_path_factory.mktemp("torchvision") / "mobilenet_v2.pth"
    torch.save(torchvision_network.state_dict(), path)
    return path


def test_torchvisions_encoder_computes_the_same_here(
    torchvision_network: Any, torchvision_file: Path
) -> None:
    network = build(replace(TINY, encoder_width=1.0), BINS["nyu"]).eval()
    rgb = torch.rand(1, 3, 64, 64)

    load_encoder(network, torchvision_file)

    with torch.no_grad():  # up to 1/8 both have the same strides
        torch.testing.assert_close(network.backbone(rgb)[1], torchvision_network.features[:7](rgb))
    own = network.backbone.state_dict()
    last = torchvision_network.features[17].state_dict()
    torch.testing.assert_close(own["layer7.0.conv.2.conv.weight"], last["conv.2.weight"])
    torch.testing.assert_close(own["layer7.0.conv.2.bn.running_var"], last["conv.3.running_var"])


def test_a_file_that_the_card_names_is_loaded(
    torchvision_network: Any, torchvision_file: Path
) -> None:
    card = replace(TINY, encoder_width=1.0, encoder_weights=str(torchvision_file))

    network = build_network(card)

    assert isinstance(network, DenseDepth)
    torch.testing.assert_close(
        network.get_parameter("backbone.conv1.conv.weight"),
        torchvision_network.features[0][0].weight,
    )


def test_encoder_weights_of_another_width_are_refused(torchvision_file: Path) -> None:
    with pytest.raises(CheckpointError, match="another network than MobileNetV2"):
        build_network(TINY, encoder_weights=str(torchvision_file))


def test_an_unknown_encoder_says_who_could_know_it() -> None:
    with pytest.raises(CardError, match=r"'vgg'.*timm"):
        build(replace(PUBLISHED, encoder="vgg"), BINS["nyu"])
