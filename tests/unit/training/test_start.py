"""A head that starts at what is typical for the data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from kdpipe.cards import load_student_card, load_teacher_card
from kdpipe.errors import CardError
from kdpipe.students import build_network as build_student
from kdpipe.teachers import build_network as build_teacher
from kdpipe.training.augment import Augment
from kdpipe.training.samples import DistillDataset
from kdpipe.training.start import start_at_data

if TYPE_CHECKING:
    from typing import Literal

    from tests.conftest import MakeRows, MakeStore

SIZE = (144, 192)
IMAGES = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def check(network: nn.Module, dataset: DistillDataset) -> None:
    """The network's mean depth comes near the data's, whatever it sees."""
    truths = [dataset.sample(i, np.random.default_rng(0)) for i in range(len(dataset))]
    typical = torch.cat([one["truth"][one["valid"]] for one in truths]).median()
    network.eval()
    start_at_data(network, dataset, "card")
    with torch.no_grad():
        depth = network(IMAGES).depth
    assert abs(float(depth.median()) / float(typical) - 1) < 0.35


@pytest.mark.parametrize("head", ["dpm", "regression"])
def test_a_student_starts_at_the_truth(
    make_tiny: MakeRows, head: Literal["dpm", "regression"]
) -> None:
    torch.manual_seed(0)
    dataset = DistillDataset(make_tiny(), transform=Augment(size=SIZE))
    network = build_student(replace(load_student_card("mobilenetv2-small"), head=head))

    check(network, dataset)


def test_adabins_starts_at_the_truth(make_tiny: MakeRows) -> None:
    torch.manual_seed(0)
    dataset = DistillDataset(make_tiny(), transform=Augment(size=SIZE))

    check(build_teacher(load_teacher_card("adabins-small")), dataset)


def test_without_truth_the_teacher_s_depth_is_the_start(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    torch.manual_seed(0)
    rows = make_tiny()
    dataset = DistillDataset(
        rows, stores=[make_tiny_store(rows)], transform=Augment(size=SIZE), with_truth=False
    )
    network = build_student(load_student_card("mobilenetv2-small"))
    before = network.state_dict()["decode_head.conv_out.0.bias"].clone()

    start_at_data(network, dataset, "card")

    assert not torch.equal(network.state_dict()["decode_head.conv_out.0.bias"], before)


def test_a_network_without_a_start_is_named(make_tiny: MakeRows) -> None:
    dataset = DistillDataset(make_tiny(), transform=Augment(size=SIZE))

    with pytest.raises(CardError, match=r"odd-card: fit\.start_at_data"):
        start_at_data(nn.Linear(1, 1), dataset, "odd-card")
