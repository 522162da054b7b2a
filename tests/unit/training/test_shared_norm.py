from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from kdpipe.cards import load_student_card
from kdpipe.nets.torchvision_shim import make_torchvision_importable
from kdpipe.students import build_network
from kdpipe.training.shared_norm import share_statistics


@pytest.fixture
def team_of_one(tmp_path: Path) -> Iterator[None]:
    where = f"file://{tmp_path}/store"
    distributed.init_process_group("gloo", init_method=where, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_statistics_are_shared_without_losing_activations() -> None:
    torch.manual_seed(0)
    card = load_student_card("mobilenetv3-small")  # timm's layers hold both in one
    network = build_network(card).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(image).depth
        share_statistics(network, torch.device("cpu"))
        after = network(image).depth

    assert any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
    torch.testing.assert_close(after, before)


@pytest.mark.usefixtures("team_of_one")
@pytest.mark.parametrize("momentum", [0.1, None])
def test_what_is_computed_here_is_torch_s_batch_normalisation(momentum: float | None) -> None:
    make_torchvision_importable()
    from timm.layers.norm_act import BatchNormAct2d

    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5, momentum=momentum),
        nn.Conv2d(5, 4, 1),
        BatchNormAct2d(4, act_layer=nn.Hardswish),
    )
    shared = deepcopy(plain)
    share_statistics(shared, torch.device("cpu"))
    images = torch.randn(3, 3, 9, 7)

    for network in (plain, shared, plain, shared):
        (network(images) * torch.linspace(0, 1, 5)).square().mean().backward()

    torch.testing.assert_close(shared(images), plain(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)
    for one, other in zip(shared.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
