from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from kdpipe.cards import load_method
from kdpipe.params import TrainParams
from kdpipe.training.augment import Augment, augment_of

FRAME = (48, 64)


def test_only_a_size_shows_the_whole_frame() -> None:
    draw = Augment(size=(24, 32))(*FRAME, np.random.default_rng(0))

    np.testing.assert_allclose(draw.transform.matrix, [[2, 0, 0], [0, 2, 0]], atol=1e-12)
    assert draw.transform.depth_divisor == 1
    image = torch.rand(3, 24, 32)
    torch.testing.assert_close(draw.colour(image), image)


def test_a_zoom_never_leaves_the_frame_and_divides_depth() -> None:
    augment = Augment(size=(24, 32), scale=(1.0, 2.0), flip=0.5)
    divisors = []
    for seed in range(50):
        transform = augment(*FRAME, np.random.default_rng(seed)).transform
        assert transform.inside().all()
        zoom = 2 / abs(transform.matrix[0, 0])
        assert transform.depth_divisor == pytest.approx(zoom)
        divisors.append(zoom)
    assert min(divisors) < 1.2
    assert max(divisors) > 1.8


def test_arms_that_differ_in_one_setting_see_the_same_crops() -> None:
    one = Augment(size=(24, 32), scale=(1.0, 1.5), flip=0.5, rotation=3, colour=0.2)
    other = replace(one, colour=0.0, rotate_teacher=False)

    for seed in range(5):
        a, b = (x(*FRAME, np.random.default_rng(seed)) for x in (one, other))
        np.testing.assert_array_equal(a.transform.matrix, b.transform.matrix)
        assert not b.teacher.is_rotated
        assert a.teacher.is_rotated


@pytest.mark.parametrize("white", [1, 255])
def test_gamma_works_on_either_scale(white: Literal[1, 255]) -> None:
    augment = augment_of(TrainParams(height=32, width=32, colour=0.1, gamma_range=white))
    draw = augment(32, 32, np.random.default_rng(1))
    image = torch.tensor([0.0, 0.1, 0.5, 1.0]).expand(3, 1, 4)

    moved = draw.colour(image)

    # TIE-KD's order: gamma of the values, times the gains, clipped.
    published = (white * image.numpy()) ** draw.gamma * np.array(draw.gain)[:, None, None]
    np.testing.assert_allclose(moved, (published / white).clip(0, 1), rtol=1e-5)
    assert 0.01 < abs(draw.gamma - 1) < 0.1


@pytest.mark.parametrize(("name", "turned"), [("tie-kd", False), ("tie-kd-corrected", True)])
def test_the_method_s_card_says_whether_the_teacher_turns(name: str, turned: bool) -> None:
    assert augment_of(TrainParams(), method=load_method(name)).rotate_teacher is turned
