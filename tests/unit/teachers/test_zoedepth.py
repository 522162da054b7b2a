"""ZoeDepth beyond the contract of all teachers: its card's sizes and its frames."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from tests.tiny_zoedepth import SMALL, card_of, images, run, stirred

from kdpipe.errors import CardError, DataError
from kdpipe.nets.zoedepth import ZoeDepth
from kdpipe.teachers import build_network, make_teacher
from kdpipe.teachers.base import BICUBIC_PADDED, resize
from kdpipe.teachers.zoedepth import network_size

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard


# Sizes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"layer": 3}, r"teachers/zoedepth-small: network: unknown key 'layer'\. Known: attract"),
        ({"centers": "wild"}, "expected one of softplus, normed"),
        ({"preprocess": "train"}, "expected one of eval, infer"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"heads": 5}, "hidden must be a multiple of heads"),
        ({"image": 100}, "image must be a multiple of 16"),
        ({"taps": [1, 2, 3, 5]}, r"taps must rise within 1\.\.4, got \[1, 2, 3, 5\]"),
        ({"taps": [1, 3, 2, 4]}, "taps must rise"),
        ({"taps": [1, 2, 4]}, "a list of a whole number, a whole number"),
        ({"fusion": 15}, "fusion even"),
        ({"bins": 1}, "bins and embedding must be at least 2"),
        ({"domains": ["nyu"]}, r"domains must be two or none, got \['nyu'\]"),
        ({"domains": ["a", "a"]}, "domains must be two or none"),
        ({"domains": ["a.b", "c"]}, "domains must be plain names"),
        ({"domains": ["a", "b"], "centers": "normed"}, "domains have centres of `softplus` only"),
        ({"target": [100, 128]}, "target must be positive multiples of 32"),
        ({"preprocess": "infer"}, "`infer` needs a target"),
    ],
)
def test_a_wrong_network_section_is_one_line(change: dict[str, object], expected: str) -> None:
    with pytest.raises(CardError, match=expected) as error:
        build_network(replace(SMALL, network={**SMALL.network, **change}))
    assert "\n" not in str(error.value)


def test_two_input_sizes_are_refused() -> None:
    with pytest.raises(CardError, match=r"input_size and network\.target both say"):
        build_network(replace(card_of(target=[64, 96]), input_size=(64, 96)))


@pytest.mark.parametrize(
    ("frame", "target", "expected"),
    [
        ((572, 746), (384, 512), (384, 512)),
        ((430, 1362), (384, 768), (384, 1216)),
        ((457, 1390), (384, 768), (384, 1152)),
        ((192, 640), (384, 768), (224, 768)),
        ((10, 1000), (384, 512), (32, 512)),
    ],
)
def test_infer_keeps_the_aspect_and_scales_as_little_as_it_can(
    frame: tuple[int, int], target: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert network_size(frame, target, keep_aspect=True) == expected
    assert network_size(frame, target) == target


# Frames


def test_eval_looks_at_exactly_the_target() -> None:
    card = card_of(target=[64, 128])
    network = stirred()
    rgb = images(1, 75, 101)

    out = make_teacher(card, _with(network, card), mirror=False).predict(rgb)

    expected = run(network, resize(rgb, (64, 128))).depth
    assert torch.equal(out.depth, expected.clamp(card.min_depth, card.max_depth))
    assert out.rule == "bilinear-align-corners"


def test_infer_pads_by_reflection_and_comes_back_bicubically() -> None:
    card = card_of(target=[64, 96], preprocess="infer")
    network = stirred()
    rgb = images(1, 72, 100)
    teacher = make_teacher(card, _with(network, card), mirror=False)

    out = teacher.predict(rgb)
    frame = out.depth_in_frame(72, 100)

    padded = F.pad(rgb, (21, 21, 18, 18), mode="reflect")  # 3 * sqrt(50), 3 * sqrt(36)
    depth = run(network, resize(padded, (64, 96))).depth
    whole = F.interpolate(depth[:, None], (108, 142), mode="bicubic", align_corners=False)
    assert out.rule == BICUBIC_PADDED
    assert teacher.size_seen(72, 100) == (64, 96)
    torch.testing.assert_close(frame, whole[:, 0, 18:90, 21:121])


def test_infer_averages_with_the_mirrored_image_as_in_the_frame() -> None:
    card = card_of(target=[64, 96], preprocess="infer")
    network = _with(stirred(), card)
    rgb = images(1, 72, 100)
    plain = make_teacher(card, network, mirror=False)

    both = make_teacher(card, network, mirror=True).predict(rgb).depth_in_frame(72, 100)

    seen = plain.predict(rgb).depth_in_frame(72, 100)
    mirrored = plain.predict(rgb.flip(-1)).depth_in_frame(72, 100).flip(-1)
    torch.testing.assert_close(both, (seen + mirrored) / 2, rtol=1e-5, atol=1e-5)


def test_a_frame_too_small_to_reflect_is_refused() -> None:
    card = card_of(target=[64, 96], preprocess="infer")

    with pytest.raises(DataError, match="4x9 pixels cannot be padded by 4 rows and 6 columns"):
        make_teacher(card, build_network(card)).predict(images(1, 4, 9))


def _with(network: ZoeDepth, card: TeacherCard) -> ZoeDepth:
    """Those weights in another card's network."""
    other = build_network(card).eval()
    other.load_state_dict(network.state_dict())
    assert isinstance(other, ZoeDepth)
    return other
