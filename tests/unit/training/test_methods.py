from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from kdpipe.cards import MethodCard, load_method
from kdpipe.errors import CardError, TrainingError, UnknownNameError
from kdpipe.losses import hu
from kdpipe.students import StudentOutput
from kdpipe.training.methods import check_inputs, loss_of

if TYPE_CHECKING:
    from kdpipe.training.samples import Sample

SHAPE = (2, 16, 16)


def batch() -> Sample:
    """The first sample has truth only, the second a teacher only."""
    truth, teacher = torch.full(SHAPE, 2.0), torch.full(SHAPE, 4.0)
    truth[1] = 0
    teacher[0] = 0
    return {"truth": truth, "valid": truth > 0, "teacher": teacher, "known": teacher > 0}


def output(depth: torch.Tensor) -> StudentOutput:
    return StudentOutput(depth, None, torch.empty(0))


def test_each_loss_sees_only_the_samples_that_have_its_target() -> None:
    method = MethodCard(name="both", teacher=True, truth={"silog": 2.0}, distillation={"mse": 3.0})
    depth = torch.stack([torch.full(SHAPE[1:], 2.0), torch.full(SHAPE[1:], 5.0)])

    loss = loss_of(method)(output(depth), batch())

    assert float(loss) == pytest.approx(3 * (5 - 4) ** 2, abs=1e-5)


@pytest.mark.parametrize(
    ("labelled", "truth", "taught", "alone"),
    [([True, False], 0.05, 0.45, 0.5), ([True, True], 0.1, 0.9, 0.0), ([False] * 2, 0.0, 0.0, 1.0)],
)
def test_hu_s_method_takes_a_tenth_of_labelled_rows_from_truth(
    labelled: list[bool], truth: float, taught: float, alone: float
) -> None:
    depth, has_truth = torch.full(SHAPE, 2.0), torch.tensor(labelled)
    here = has_truth[:, None, None].expand(SHAPE)
    seen = {
        "truth": torch.full(SHAPE, 3.0) * here,
        "valid": here,
        "teacher": torch.stack([torch.full(SHAPE[1:], 5.0), torch.full(SHAPE[1:], 9.0)]),
        "known": torch.ones(SHAPE, dtype=torch.bool),
        "has_truth": has_truth,
    }

    found = float(loss_of(load_method("hu"))(output(depth), seen))

    parts = [
        truth * hu(depth, seen["truth"], here),
        taught * hu(depth, seen["teacher"], here),
        alone * hu(depth, seen["teacher"], ~here),
    ]
    assert found == pytest.approx(float(sum(parts)), rel=1e-5)


@pytest.mark.parametrize("name", ["mse", "si", "hu"])
def test_a_confidence_of_0_or_1_is_a_mask_and_one_between_counts_in_part(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    depth, teacher = (1 + torch.rand(SHAPE, generator=rng) for _ in range(2))
    teacher[:, 8:] += 1
    sure = torch.ones(SHAPE)
    sure[:, 8:] = 0
    seen = {**batch(), "teacher": teacher, "known": teacher > 0}
    plain = MethodCard(name="m", teacher=True, distillation={name: 1.0})
    unsure = replace(plain, confidence="entropy")

    def loss(card: MethodCard, confidence: torch.Tensor) -> float:
        return float(loss_of(card)(output(depth), {**seen, "confidence": confidence}))

    masked = loss(replace(unsure, confidence_threshold=0.5), 0.9 * sure)
    assert loss(unsure, sure) == pytest.approx(masked, rel=1e-4)
    assert loss(unsure, 0.3 * sure) == pytest.approx(masked, rel=1e-4)
    assert loss(unsure, torch.ones(SHAPE)) == pytest.approx(loss(plain, sure), rel=1e-4)
    some = loss(unsure, sure.clamp(min=0.1))
    assert masked < some < loss(plain, sure)


def test_no_pixel_at_all_gives_a_loss_that_can_be_stepped_on() -> None:
    depth = torch.full(SHAPE, 2.0, requires_grad=True)
    empty = {**batch(), "valid": torch.zeros(SHAPE, dtype=torch.bool)}

    loss = loss_of(load_method("none"))(output(depth), empty)
    loss.backward()  # type: ignore[no-untyped-call]

    assert float(loss.detach()) == 0
    assert depth.grad is not None
    assert float(depth.grad.abs().max()) == 0


@pytest.mark.parametrize(
    ("card", "error", "says"),
    [
        pytest.param(
            MethodCard(name="m", teacher=False, truth={"slog": 1.0}),
            UnknownNameError,
            "slog.*Known: .*silog",
            id="unknown-truth-loss",
        ),
        pytest.param(
            MethodCard(name="m", teacher=True, distillation={"silog": 1.0}),
            UnknownNameError,
            "tie-kd",
            id="unknown-teacher-loss",
        ),
        pytest.param(MethodCard(name="m", teacher=False), CardError, "no loss", id="nothing"),
        pytest.param(
            MethodCard(name="m", teacher=False, distillation={"mse": 1.0}),
            CardError,
            "make the two agree",
            id="teacher-denied",
        ),
        pytest.param(
            replace(load_method("tie-kd-corrected"), confidence="entropy"),
            CardError,
            "found tie-kd, which counts a pixel or not: add a confidence_threshold",
            id="no-weights",
        ),
        pytest.param(
            replace(load_method("tie-kd"), confidence="entropy", confidence_threshold=0.5),
            CardError,
            "counts every pixel",
            id="no-mask",
        ),
    ],
)
def test_a_card_that_cannot_be_followed_is_refused(
    card: MethodCard, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        loss_of(card)


@pytest.mark.parametrize("weight", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_loss_weighs_something(weight: float) -> None:
    for losses in (
        {"truth": {"hu": weight}, "distillation": {"hu": 1.0}},
        {"truth": {"hu": weight}},
    ):
        with pytest.raises(
            CardError, match=f"methods/m: loss hu weighs {weight:g}, a number above 0"
        ):
            MethodCard(name="m", teacher="distillation" in losses, **losses)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("share", "truth"), [(1.5, {"silog": 1.0}), (-0.1, {"silog": 1.0}), (0.5, {})]
)
def test_a_share_of_nothing_or_of_more_than_all_is_refused(
    share: float, truth: dict[str, float]
) -> None:
    with pytest.raises(CardError, match=r"methods/m: truth_share in \[0, 1\] expected"):
        MethodCard(
            name="m", teacher=True, truth=truth, distillation={"mse": 1.0}, truth_share=share
        )


@pytest.mark.parametrize(
    ("method", "teachers", "says"),
    [("tie-kd", (), "add --teacher"), ("none", ("a", "b"), "--teacher a,b is given: leave it")],
)
def test_what_a_method_cannot_use_is_refused(
    method: str, teachers: tuple[str, ...], says: str
) -> None:
    with pytest.raises(TrainingError, match=says):
        check_inputs(load_method(method), teachers)
