"""TIE-KD's sum: what the published form does, what the corrected one does instead."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdpipe.cards import load_method
from kdpipe.errors import CardError
from kdpipe.losses.tie_kd import PUBLISHED, TieKd, form_of, tie_kd
from kdpipe.students.base import BINS

CENTERS = BINS["nyu"].centers()
GENERATOR = torch.Generator().manual_seed(0)
TEACHER = torch.rand(2, 16, 20, generator=GENERATOR) * 8 + 1
LOGITS = torch.randn(2, 49, 16, 20, generator=GENERATOR)
EVERYWHERE = torch.ones_like(TEACHER, dtype=torch.bool)
CORRECTED = form_of(load_method("tie-kd-corrected").options, 49)
FORMS = pytest.mark.parametrize("form", [PUBLISHED, CORRECTED], ids=["published", "corrected"])


def loss_of(
    logits: Tensor, teacher: Tensor, known: Tensor | None, form: TieKd
) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient with respect to the logits."""
    leaf = logits.clone().requires_grad_()
    probabilities = torch.softmax(leaf, 1)
    depth = (probabilities * CENTERS.view(1, -1, 1, 1)).sum(1)
    loss = tie_kd(depth, probabilities, CENTERS, teacher, known, form=form)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


def test_the_cards_say_what_the_page_says() -> None:
    assert form_of(load_method("tie-kd").options, 49) == PUBLISHED == TieKd()
    assert form_of(load_method("tie-kd").options, 257) == PUBLISHED
    corrected = TieKd(
        sigma=0.15, dpm_mode="normalized", ssim="known", top_rows="masked", known_only=True
    )
    assert form_of(load_method("tie-kd-corrected").options, 49) == corrected
    assert form_of(load_method("tie-kd-corrected").options, 257) == replace(CORRECTED, sigma=0.8)
    assert not load_method("tie-kd").rotate_teacher
    assert load_method("tie-kd-corrected").rotate_teacher


@FORMS
def test_a_step_down_the_gradient_lowers_the_loss(form: TieKd) -> None:
    before, gradient = loss_of(LOGITS, TEACHER, None, form)

    after, _ = loss_of(LOGITS - 10 * gradient, TEACHER, None, form)

    assert after < before


@FORMS
def test_nothing_known_costs_nothing(form: TieKd) -> None:
    loss, gradient = loss_of(LOGITS, TEACHER, ~EVERYWHERE, form)

    assert loss == 0
    assert (gradient == 0).all()


@FORMS
def test_an_image_that_the_teacher_does_not_know_is_left_out(form: TieKd) -> None:
    known = EVERYWHERE.clone()
    known[1] = False
    teacher = TEACHER.clone()
    teacher[1] = 0

    loss, gradient = loss_of(LOGITS, teacher, known, form)

    torch.testing.assert_close(loss, loss_of(LOGITS[:1], TEACHER[:1], None, form)[0])
    assert (gradient[1] == 0).all()


def test_unknown_pixels_count_only_as_published() -> None:
    known = EVERYWHERE.clone()
    known[:, :5] = False
    black = torch.where(known, TEACHER, 0.0)

    def change(form: TieKd) -> float:
        """What the loss changes by when unknown pixels hold something else."""
        first, second = (loss_of(LOGITS, t, known, form)[0] for t in (TEACHER, black))
        return abs(float(first - second))

    assert change(CORRECTED) < 1e-5
    assert change(PUBLISHED) > 0.01


def test_bins_that_learned_the_target_have_the_teachers_depth_only_when_corrected() -> None:
    near = 0.6 + 0.02 * torch.arange(12.0).view(1, 12, 1).expand(1, 12, 12)

    def error(form: TieKd) -> float:
        """Mean |depth - teacher| [m] of free logits after some steps of Adam."""
        logits = torch.zeros(1, 49, 12, 12, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.1)
        for _ in range(600):
            _, logits.grad = loss_of(logits.detach(), near, None, replace(form, weight=1))
            optimizer.step()
        depth = (torch.softmax(logits.detach(), 1) * CENTERS.view(1, -1, 1, 1)).sum(1)
        return float((depth - near).abs().mean())

    assert error(CORRECTED) < 0.015
    assert error(PUBLISHED) > 0.25


@pytest.mark.parametrize("top_rows", ["padded", "masked"])
def test_the_top_rows_of_a_kitti_crop_get_no_gradient(top_rows: str) -> None:
    form = replace(CORRECTED if top_rows == "masked" else PUBLISHED)
    logits = torch.randn(1, 49, 118, 704, generator=GENERATOR)
    teacher = torch.rand(1, 118, 704, generator=GENERATOR) * 8 + 1

    _, gradient = loss_of(logits, teacher, None, form)
    _, kept = loss_of(logits, teacher, None, replace(form, top_rows="kept"))

    assert gradient[:, :, 110:].abs().sum() > 0
    if top_rows == "padded":
        assert (gradient[:, :, :110] == 0).all()
    else:  # windows of the first counted rows reach five rows up
        assert (gradient[:, :, :105].abs().max()) < 1e-9
    assert kept[:, :, :100].abs().sum() > 0


def test_bins_at_half_size_learn_from_the_nearest_teacher_pixels() -> None:
    coarse = torch.randn(2, 49, 8, 10, generator=GENERATOR)
    depth = torch.full((2, 16, 20), 3.0)
    form = replace(CORRECTED, weight=1.0)
    rows, columns = (
        [round(i * (n - 1) / (m - 1)) for i in range(m)] for n, m in ((16, 8), (20, 10))
    )

    found = tie_kd(depth, torch.softmax(coarse, 1), CENTERS, TEACHER, EVERYWHERE, form=form)

    picked = TEACHER[:, rows][:, :, columns]
    expected = tie_kd(depth[:, :8, :10], torch.softmax(coarse, 1), CENTERS, picked, form=form)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"sigmas": 0.5}, "unknown key 'sigmas'", id="unknown"),
        pytest.param({"sigma": "wide"}, "a number", id="type"),
        pytest.param({"sigma": 0}, "sigma > 0", id="zero"),
        pytest.param({"sigma": {"257": 0.8}}, "the student has 49", id="no-such-bins"),
        pytest.param({"dpm_mode": "flat"}, "published, normalized", id="choice"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(CardError, match=message):
        form_of(options, 49)
