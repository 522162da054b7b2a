"""What every teacher keeps to. A card in manifests/teachers is found by itself.

A published network of hundreds of megabytes is held to its layout here (and to its numbers in
tests/parity); the behaviour of its family is shown on the family's smallest card.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kdpipe.cards import TeacherCard, card_names, load_data, load_teacher_card
from kdpipe.teachers import Teacher, build_network, family_names, load_teacher, make_teacher
from kdpipe.teachers.base import RULE
from kdpipe.teachers.weights import is_published
from kdpipe.teaching.measuring import measure

CARDS = [load_teacher_card(name) for name in card_names("teachers")]
MILLION = 1_000_000
LARGE = 20 * MILLION
SIZE = (144, 192)
ODD = (161, 211)


def count_of(card: TeacherCard) -> int:
    """Parameters of a card's network, without making it."""
    with torch.device("meta"):
        return sum(p.numel() for p in build_network(card).parameters())


COUNTS = {card.name: count_of(card) for card in CARDS}
SMALL = [card for card in CARDS if COUNTS[card.name] < LARGE]


def stir(network: nn.Module) -> nn.Module:
    """Uneven running statistics and biases: a fresh network hides mistakes behind zeros."""
    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network


def images_of(batch: int, size: tuple[int, int]) -> torch.Tensor:
    """Seeded RGB with large shapes and noise (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(batch, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=True)
    return (0.8 * smooth + 0.2 * torch.rand(smooth.shape, generator=generator)).contiguous()


@pytest.fixture(params=SMALL, ids=lambda card: card.name, scope="module")
def teacher(request: pytest.FixtureRequest) -> Teacher:
    torch.manual_seed(0)
    card: TeacherCard = request.param
    return make_teacher(card, stir(build_network(card)), mirror=False)


def test_every_family_has_a_card_small_enough_to_be_tested_and_trained() -> None:
    families = {card.family for card in SMALL if card.fit is not None}

    assert families == set(family_names())


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_says_what_a_reader_must_know(card: TeacherCard) -> None:
    assert {"paper", "licence", "weights", "kind"} <= card.about.keys()
    assert all(isinstance(card.about[key], str) for key in ("paper", "licence", "weights"))
    if is_published(card):  # on what it was trained flatters it
        trained = card.about["trained_on"]
        assert isinstance(trained, list)
        assert all(load_data(name).name == name for name in trained)
        assert trained or card.about["training_data"]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_mistyped_network_key_is_refused(card: TeacherCard) -> None:
    with pytest.raises(Exception, match="unknown key 'widht'"):
        build_network(replace(card, network={**card.network, "widht": 1}))


def test_a_state_dict_comes_back(teacher: Teacher, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model": teacher.network.state_dict()}, path)

    again = load_teacher(teacher.card, checkpoint=path, mirror=False)

    images = images_of(1, SIZE)
    assert torch.equal(again.predict(images).depth, teacher.predict(images).depth)


def test_depth_is_float32_metres_of_the_cards_range(teacher: Teacher) -> None:
    depth = teacher.predict(images_of(2, SIZE)).depth

    assert depth.dtype == torch.float32
    assert depth.ndim == 3
    assert len(depth) == 2
    assert depth.min() > 0
    assert depth.isfinite().all()
    assert depth.std() > 1e-5, "the same everywhere: the network does not see its input"


def test_another_image_gives_another_depth(teacher: Teacher) -> None:
    images = images_of(2, SIZE)

    depth = teacher.predict(images).depth

    assert (depth[0] - depth[1]).abs().max() > 1e-4


def test_a_batch_gives_what_its_images_give_alone(teacher: Teacher) -> None:
    images = images_of(3, SIZE)

    together = teacher.predict(images).depth
    alone = torch.cat([teacher.predict(image[None]).depth for image in images])

    assert ((together - alone).abs() / alone).max() <= 1e-5


def test_twice_is_the_same_to_the_bit(teacher: Teacher) -> None:
    images = images_of(2, SIZE)

    first, second = teacher.predict(images), teacher.predict(images)

    assert torch.equal(first.depth, second.depth)
    if first.bins is not None and second.bins is not None:
        assert torch.equal(first.bins.probabilities(), second.bins.probabilities())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_the_precision_is_near_and_still_float32(teacher: Teacher, precision: str) -> None:
    images = images_of(1, SIZE)
    rounded = make_teacher(teacher.card, teacher.network, mirror=False, precision=precision)

    exact, out = teacher.predict(images), rounded.predict(images)

    assert out.depth.dtype == torch.float32
    deviation = ((out.depth - exact.depth).abs() / exact.depth).median()
    assert 0 < deviation < 0.05, "of a network in use, and not of another one"
    if out.bins is not None:
        assert out.bins.probabilities().dtype == torch.float32
        assert (out.bins.probabilities().sum(dim=1) - 1).abs().max() <= 1e-5
        assert out.bins.centers().dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_says_the_same(teacher: Teacher) -> None:
    images = images_of(2, SIZE)
    network = copy.deepcopy(teacher.network)
    gpu = make_teacher(teacher.card, network, mirror=False, device="cuda")

    here, there = teacher.predict(images), gpu.predict(images)

    assert ((there.depth.cpu() - here.depth).abs() / here.depth).max() <= 1e-4
    if here.bins is not None and there.bins is not None:
        gap = there.bins.probabilities().cpu() - here.bins.probabilities()
        assert gap.abs().max() <= 1e-4


def test_the_network_is_shown_the_size_that_is_said(teacher: Teacher) -> None:
    shown: list[tuple[int, ...]] = []
    hook = teacher.network.register_forward_pre_hook(
        lambda _network, given: shown.append(tuple(given[0].shape[-2:]))
    )

    teacher.predict(images_of(1, ODD))
    hook.remove()

    assert shown == [teacher.size_seen(*ODD)]


def test_a_few_looks_tell_the_largest_map_of_all_frames(teacher: Teacher) -> None:
    frames = [(96, 200), (110, 110), (120, 100), (150, 90), (140, 85)]

    seen = measure(teacher, frames, has_focal=True)

    blacks = [np.zeros((1, *frame, 3), np.uint8) for frame in frames]
    outs = [teacher.predict(black, focal=np.ones(1, np.float32)) for black in blacks]
    sizes = [tuple(out.depth.shape[1:]) for out in outs]
    assert seen.native == (max(h for h, _ in sizes), max(w for _, w in sizes))
    assert seen.rule == outs[0].rule


def test_odd_sizes_reach_the_frame(teacher: Teacher) -> None:
    out = teacher.predict(images_of(1, ODD))

    frame = out.depth_in_frame(*ODD)

    assert frame.shape == (1, *ODD)
    assert frame.isfinite().all()
    corners = out.depth[0, [0, 0, -1, -1], [0, -1, 0, -1]]
    within = 1e-5 if out.rule == RULE else 0.05  # others meet at the outer edges
    found = frame[0, [0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(found, corners, rtol=within, atol=1e-5)


def test_black_white_and_noise_stay_finite(teacher: Teacher) -> None:
    noise = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    images = torch.cat([torch.zeros(1, 3, *SIZE), torch.ones(1, 3, *SIZE), noise])

    assert teacher.predict(images).depth.isfinite().all()


def test_bins_are_there_where_the_card_says_so(teacher: Teacher) -> None:
    assert (teacher.predict(images_of(1, SIZE)).bins is None) == (teacher.card.bins == "none")


def test_probabilities_sum_to_one_and_give_the_depth_of_the_same_pass(teacher: Teacher) -> None:
    out = teacher.predict(images_of(2, SIZE))
    if out.bins is None:
        pytest.skip("a family without bins")
    probabilities, centers = out.bins.probabilities(), out.bins.centers()
    assert probabilities.dtype == torch.float32
    assert probabilities.min() >= 0
    assert (probabilities.sum(dim=1) - 1).abs().max() <= 1e-5

    if centers.ndim == 2:
        centers = centers[:, :, None, None]
    expected = (probabilities * centers).sum(dim=1)

    torch.testing.assert_close(out.depth, expected, rtol=1e-5, atol=1e-5)


def test_a_mirror_averages_depth_and_leaves_the_bins(teacher: Teacher) -> None:
    images = images_of(1, SIZE)
    mirror = make_teacher(teacher.card, teacher.network, mirror=True)

    plain, flipped = teacher.predict(images), teacher.predict(images.flip(-1))
    both = mirror.predict(images)

    torch.testing.assert_close(both.depth, (plain.depth + flipped.depth.flip(-1)) / 2)
    assert not torch.equal(both.depth, plain.depth)
    if plain.bins is not None and both.bins is not None:
        assert torch.equal(both.bins.probabilities(), plain.bins.probabilities())
        assert torch.equal(both.bins.centers(), plain.bins.centers())
