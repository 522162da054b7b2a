"""What every student's card must keep, found by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from kdpipe.cards import card_names, load_student_card
from kdpipe.export.graph import check, open_session, to_onnx
from kdpipe.students import BINS, Student, build_network, load_student, save_student

if TYPE_CHECKING:
    from kdpipe.students import StudentOutput

CARDS = [
    pytest.param(name, marks=pytest.mark.slow if name == "resnet50" else ())  # 78 M parameters
    for name in card_names("students")
]


@pytest.mark.parametrize("name", CARDS)
def test_a_network_maps_rgb_to_metres_of_its_size(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(load_student_card(name), bins_domain="rooms").eval()

    with torch.no_grad():
        output: StudentOutput = network(torch.rand(1, 3, 64, 96))

    assert output.depth.shape == (1, 64, 96)
    assert output.depth.dtype == torch.float32
    assert output.depth.isfinite().all()
    kept = Student(load_student_card(name), network, BINS["nyu"]).predict(torch.rand(1, 3, 64, 96))
    assert 0 < kept.min() <= kept.max() <= 10
    if output.probabilities is not None:
        assert output.probabilities.shape[:2] == (1, *output.centers.shape)
        total = output.probabilities.sum(1)
        torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("name", CARDS)
def test_the_same_seed_gives_the_same_network_and_another_seed_another(name: str) -> None:
    card = load_student_card(name)

    def first_weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return next(build_network(card).parameters())

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(1), first_weights(2))


@pytest.mark.parametrize("name", CARDS)
def test_a_student_survives_being_saved(name: str, tmp_path: Path) -> None:
    card = load_student_card(name)
    network = build_network(card, bins_domain="kitti")

    save_student(tmp_path, network, card, "kitti", (64, 96))
    student = load_student(tmp_path)

    assert student.card == card
    assert student.bins.name == "kitti"
    for key, values in student.network.state_dict().items():
        assert torch.equal(values, network.state_dict()[key]), key


@pytest.mark.parametrize("name", CARDS)
def test_a_student_becomes_onnx_of_any_size(name: str) -> None:
    torch.manual_seed(0)
    card = replace(load_student_card(name), width=0.125)
    network = build_network(card)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the forward pass below keeps maps from fading
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 96))
    student = Student(card, network.eval(), BINS["nyu"], (48, 64))

    found = check(student, open_session(to_onnx(student, {}), threads=1))

    assert len(found) >= 3
