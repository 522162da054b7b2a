"""BTS beyond the contract of all teachers: planes, focal lengths, sizes, and how it starts."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from kdpipe.cards import TeacherCard, load_teacher_card
from kdpipe.errors import CardError, DataError
from kdpipe.nets.checkpoint import read_state
from kdpipe.nets.encoders import load_encoder_weights
from kdpipe.nets.torchvision_shim import make_torchvision_importable
from kdpipe.teachers import Teacher, build_network, load_teacher, make_teacher
from kdpipe.teachers.bts import Bts, BtsOutput, depth_of_planes

CARD = load_teacher_card("bts-small")
FOCAL = {**CARD.network, "reference_focal": 715.0873}
SIZE = (64, 96)


def network_of(card: TeacherCard = CARD, seed: int = 0) -> Bts:
    torch.manual_seed(seed)
    return cast("Bts", build_network(card))


def images_of(batch: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def kitti() -> Teacher:
    card = replace(CARD, name="bts-k", network=FOCAL, max_depth=80.0)
    return make_teacher(card, network_of(card))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size": 3}, r"teachers/bts-small: network: unknown key 'size'\. Known: bts_size, "),
        ({"bts_size": "many"}, "found 'many', expected a whole number"),
        ({"bts_size": 16}, "bts_size must be a multiple of 4, >= 32, got 16"),
        ({"bts_size": 130}, "bts_size must be a multiple of 4, >= 32, got 130"),
        ({"norm_momentum": 0.0}, "norm_momentum must be in"),
        ({"reference_focal": -1.0}, "reference_focal must be pixels > 0, got -1"),
        ({"encoder": "vgg"}, "encoder 'vgg'"),
    ],
)
def test_a_wrong_network_section_is_one_line(change: dict[str, object], expected: str) -> None:
    with pytest.raises(CardError, match=expected):
        build_network(replace(CARD, network={**CARD.network, **change}))


@pytest.mark.parametrize("size", [32, 64, 100, 128, 200, 256, 384, 512, 640])
def test_any_bts_size_gives_depth_of_the_inputs_size(size: int) -> None:
    with torch.device("meta"):
        network = build_network(replace(CARD, network={**CARD.network, "bts_size": size}))
        out: BtsOutput = network(torch.empty(2, 3, *SIZE))

    assert out.depth.shape == out.lpg8x8.shape == out.reduc1x1.shape == (2, *SIZE)


@pytest.mark.parametrize("encoder", ["resnet18", "resnext50_32x4d", "densenet121"])
def test_any_encoder_gives_depth_of_the_inputs_size(encoder: str) -> None:
    with torch.device("meta"):
        network = build_network(replace(CARD, network={"encoder": encoder, "bts_size": 128}))
        out: BtsOutput = network(torch.empty(1, 3, 96, 70))

    assert out.depth.shape == (1, 96, 70)


def test_the_reductions_halve_to_eight_channels() -> None:
    with torch.device("meta"):
        network = build_network(replace(CARD, network={**CARD.network, "bts_size": 256}))

    keys = [k for k in network.state_dict() if "reduc" in k]

    assert [k.removeprefix("decoder.").replace(".0.weight", "") for k in keys] == [
        *(f"reduc8x8.reduc.inter_{a}_{b}" for a, b in [(64, 64), (64, 32), (32, 16), (16, 8)]),
        "reduc8x8.reduc.plane_params.weight",
        *(f"reduc4x4.reduc.inter_{a}_{b}" for a, b in [(64, 32), (32, 16), (16, 8)]),
        "reduc4x4.reduc.plane_params.weight",
        *(f"reduc2x2.reduc.inter_{a}_{b}" for a, b in [(32, 16), (16, 8)]),
        "reduc2x2.reduc.plane_params.weight",
        "reduc1x1.reduc.inter_16_8",
        "reduc1x1.reduc.final",
    ]


def test_a_frontal_plane_has_one_depth() -> None:
    raw = torch.tensor([-40.0, 0.3, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 3)

    depth = depth_of_planes(raw, 4)

    assert depth.shape == (1, 1, 8, 12)
    torch.testing.assert_close(depth, torch.full_like(depth, 0.5))


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_a_slanted_planes_inverse_depth_is_linear_in_each_cell(ratio: int) -> None:
    raw = torch.randn(2, 3, 3, 2, generator=torch.Generator().manual_seed(0))

    depth = depth_of_planes(raw, ratio)[:, 0]

    polar, azimuth, distance = raw.sigmoid().double().unbind(1)
    polar, azimuth = polar * np.pi / 3, azimuth * 2 * np.pi
    place = (torch.arange(ratio).double() - (ratio - 1) / 2) / ratio
    for row in range(3 * ratio):
        for column in range(2 * ratio):
            cell = (slice(None), row // ratio, column // ratio)
            tilt = (
                azimuth[cell].cos() * place[column % ratio]
                + azimuth[cell].sin() * place[row % ratio]
            )
            expected = distance[cell] / (polar[cell].sin() * tilt + polar[cell].cos())
            torch.testing.assert_close(depth[:, row, column].double(), expected, rtol=1e-4, atol=0)


def test_depth_is_proportional_to_the_focal_length(kitti: Teacher) -> None:
    images = images_of(2)

    at_reference = kitti.predict(images, focal=torch.full((2,), 715.0873)).depth
    others = kitti.predict(images, focal=np.array([707.0912, 721.5377])).depth

    scale = torch.tensor([707.0912, 721.5377])[:, None, None] / 715.0873
    torch.testing.assert_close(others, at_reference * scale)


def test_the_network_gives_the_reference_cameras_depth_where_none_is_named(kitti: Teacher) -> None:
    images = images_of(1)

    with torch.inference_mode():
        depth = kitti.network(images).depth

    torch.testing.assert_close(depth, kitti.predict(images, focal=[715.0873]).depth)  # type: ignore[arg-type]


def test_a_card_without_a_reference_reads_no_focal_length() -> None:
    teacher, images = make_teacher(CARD, network_of()), images_of(1)

    plain = teacher.predict(images).depth

    assert torch.equal(teacher.predict(images, focal=np.array([99.0])).depth, plain)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_missing_focal_length_is_one_line_that_says_what_to_do(
    kitti: Teacher, mirror: bool
) -> None:
    teacher = make_teacher(kitti.card, kitti.network, mirror=mirror)

    with pytest.raises(DataError, match=r"bts-k gives depth for .* 715\.087 px.*found none") as e:
        teacher.predict(images_of(1))

    assert "Give focal=" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "focal",
    [[700.0], [700.0, 0.0], [700.0, -700.0], [700.0, float("nan")], [[700.0], [700.0]], 700.0],
)
def test_a_wrong_focal_length_is_refused(kitti: Teacher, focal: object) -> None:
    with pytest.raises(DataError, match=r"expected 2 finite numbers > 0 \[px\]"):
        kitti.predict(images_of(2), focal=np.array(focal))


def test_other_sizes_are_padded_by_their_last_row_and_column() -> None:
    network = network_of().eval()
    images = images_of(1, (50, 70))
    padded = nn.functional.pad(images, (0, 26, 0, 14), mode="replicate")

    with torch.inference_mode():
        small, large = network(images), network(padded)

    assert small.depth.shape == (1, 50, 70)
    torch.testing.assert_close(small.depth, large.depth[:, :50, :70])
    torch.testing.assert_close(small.lpg8x8, large.lpg8x8[:, :50, :70])


def test_every_parameter_that_the_forward_reads_gets_a_gradient() -> None:
    network = network_of().train()

    network(images_of(2)).depth.log().square().mean().backward()

    idle = {name for name, p in network.named_parameters() if p.grad is None}
    unread = "encoder.base_model.original_model.bn2"
    assert idle == {f"{unread}.weight", f"{unread}.bias"}
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_a_start_gives_about_the_datas_median() -> None:
    network = network_of().eval()

    network.start_at(torch.tensor([1.0, 2.0, 9.0]))
    depth = network(images_of(1)).depth

    assert depth.median().item() == pytest.approx(2.0, rel=0.3)


def test_a_start_without_a_last_bias_says_so() -> None:
    network = network_of(replace(CARD, network={**CARD.network, "last_bias": False}))

    with pytest.raises(CardError, match=r"set network\.last_bias to true"):
        network.start_at(torch.ones(3))


def test_the_published_resnets_classifier_may_be_there_and_may_be_absent(tmp_path: Path) -> None:
    card = replace(CARD, network={"encoder": "resnet18", "bts_size": 32})
    state = {f"module.{k}": v for k, v in network_of(card).state_dict().items()}
    paths = [tmp_path / "without", tmp_path / "with"]
    torch.save({"model": state}, paths[0])
    classifier = {"weight": torch.zeros(1000, 512), "bias": torch.zeros(1000)}
    torch.save(
        {"model": state | {f"module.encoder.base_model.fc.{k}": v for k, v in classifier.items()}},
        paths[1],
    )

    first, second = (load_teacher(card, checkpoint=path) for path in paths)

    assert torch.equal(first.predict(images_of(1)).depth, second.predict(images_of(1)).depth)


@pytest.mark.parametrize("encoder", ["resnet18", "densenet121"])
def test_torchvisions_imagenet_weights_fill_the_encoder(encoder: str, tmp_path: Path) -> None:
    make_torchvision_importable()
    torch.manual_seed(1)
    theirs: nn.Module = getattr(importlib.import_module("torchvision.models"), encoder)()
    path = tmp_path / f"{encoder}.pth"
    torch.save(theirs.state_dict(), path)
    network = network_of(replace(CARD, network={"encoder": encoder, "bts_size": 32}))

    load_encoder_weights(network.get_submodule("encoder"), path)

    last = {"resnet18": "layer4", "densenet121": "features.norm5"}[encoder]
    found = network.encoder.base_model.get_submodule(last.removeprefix("features.")).state_dict()
    for key, value in theirs.get_submodule(last).state_dict().items():
        assert torch.equal(found[key], value), key


def test_a_published_file_is_read_although_it_holds_an_array_of_numpy(tmp_path: Path) -> None:
    path = tmp_path / "model"
    state = {"module.decoder.bn5.weight": torch.ones(3)}
    torch.save({"model": state, "best_eval_steps": np.zeros(9, dtype=np.int32)}, path)

    assert list(read_state(path)) == ["decoder.bn5.weight"]


def test_the_decoders_norms_have_the_published_constants() -> None:
    with torch.device("meta"):
        network = build_network(load_teacher_card("bts-resnet50-kitti"))

    norms = {
        name: part
        for name, part in network.get_submodule("decoder").named_modules()
        if isinstance(part, nn.BatchNorm2d)
    }

    wide = {name for name, norm in norms.items() if norm.eps == 1.1e-5}
    firsts = {f"daspp_{d}.atrous_conv.first_bn" for d in (6, 12, 18, 24)}
    assert wide == {"bn5", "bn4", "bn4_2", "bn3", "bn2"} | firsts
    assert {norm.momentum for norm in norms.values()} == {0.01}
