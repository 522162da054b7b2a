"""Hu et al.'s network beyond the contract of all teachers: sizes, signs, and how it starts."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch

from kdpipe.cards import TeacherCard, load_teacher_card
from kdpipe.errors import CardError
from kdpipe.teachers import build_network, make_teacher
from kdpipe.teachers.hu import Hu, HuOutput

CARD = load_teacher_card("hu-small")
PUBLISHED = {**CARD.network, "output_size": [228, 304]}


def network_of(network: object = None) -> Hu:
    torch.manual_seed(0)
    card = CARD if network is None else replace(CARD, network=network)  # type: ignore[arg-type]
    return cast("Hu", build_network(card)).eval()


def images_of(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"widht": 3}, r"teachers/hu-small: network: unknown key 'widht'\. Known: encoder, "),
        ({"width": 0}, "must be at least 1, got 0"),
        ({"output_size": [228]}, r"found \[228\], expected"),
        ({"output_size": [0, 304]}, "must be at least 1"),
        ({"shorter_side": -1}, "must be at least 1"),
        ({"encoder": "vgg"}, "encoder 'vgg'"),
    ],
)
def test_a_wrong_network_section_is_one_line(change: dict[str, object], expected: str) -> None:
    with pytest.raises(CardError, match=expected):
        build_network(replace(CARD, network={**CARD.network, **change}))


@pytest.mark.parametrize("size", [(228, 304), (96, 128), (101, 83), (240, 320)])
def test_the_published_output_has_one_size_whatever_the_input(size: tuple[int, int]) -> None:
    network = network_of(PUBLISHED)

    with torch.inference_mode():
        depth = network(images_of(2, *size)).depth

    assert depth.shape == (2, 228, 304)


@pytest.mark.parametrize("size", [(96, 128), (101, 83)])
def test_an_open_output_has_the_inputs_size(size: tuple[int, int]) -> None:
    with torch.inference_mode():
        depth = network_of()(images_of(1, *size)).depth

    assert depth.shape == (1, *size)


@pytest.mark.parametrize(
    ("frame", "seen"),
    [
        pytest.param((480, 640), (240, 320), id="nyu"),
        pytest.param((640, 480), (320, 240), id="upright"),
        pytest.param((241, 321), (240, 320), id="odd"),
        pytest.param((228, 304), (228, 304), id="already-cut"),
    ],
)
def test_larger_frames_are_shrunk_to_the_published_side(
    frame: tuple[int, int], seen: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = replace(CARD, network={**PUBLISHED, "shorter_side": 240})
    sizes = []

    def forward(self: Hu, rgb: torch.Tensor) -> HuOutput:
        sizes.append(tuple(rgb.shape[-2:]))
        return HuOutput(torch.ones(len(rgb), 228, 304))

    teacher = make_teacher(card, build_network(card))
    monkeypatch.setattr(Hu, "forward", forward)
    depth = teacher.predict(images_of(1, *frame)).depth

    assert sizes == [seen] == [teacher.size_seen(*frame)]
    assert depth.shape == (1, 228, 304)


def test_published_depth_may_be_negative_and_is_clipped_by_the_teacher() -> None:
    card = replace(CARD, network=PUBLISHED)
    network = network_of(PUBLISHED)
    network.start_at(torch.tensor([-1.0]))
    images = images_of(1, 96, 128)

    with torch.inference_mode():
        raw = network(images).depth
    clipped = make_teacher(card, network).predict(images).depth

    assert raw.median() < 0
    torch.testing.assert_close(clipped, raw.clamp(CARD.min_depth, CARD.max_depth))


def test_a_start_gives_about_the_datas_median() -> None:
    network = network_of()

    network.start_at(torch.tensor([1.0, 3.0, 9.0]))
    depth = network(images_of(1, 96, 128)).depth

    assert depth.median().item() == pytest.approx(3.0, rel=0.3)


def test_every_parameter_that_the_forward_reads_gets_a_gradient() -> None:
    network = network_of().train()

    network(images_of(2, 96, 128)).depth.square().mean().backward()

    idle = {name for name, p in network.named_parameters() if p.grad is None}
    assert idle == {"E.original_model.bn2.weight", "E.original_model.bn2.bias"}


def test_the_encoder_is_found_by_its_common_name() -> None:
    network = network_of()

    assert network.get_submodule("encoder") is network.E
    assert not any(key.startswith("encoder") for key in network.state_dict())


def test_the_published_cards_are_the_published_network() -> None:
    cards: list[TeacherCard] = [
        load_teacher_card(name) for name in ("hu-resnet34", "hu-resnet34-scannet")
    ]

    assert {(c.network["encoder"], c.mirror, c.max_depth) for c in cards} == {
        ("resnet34", False, 10.0)
    }
