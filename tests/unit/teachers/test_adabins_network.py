"""AdaBins beyond the contract of all teachers: sizes, patches, and what it is trained by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdpipe.cards import load_teacher_card
from kdpipe.errors import CardError, DataError
from kdpipe.teachers import build_network, make_teacher
from kdpipe.teachers.adabins import AdaBins, AdaBinsOutput

CARD = load_teacher_card("adabins-small")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"bin": 3}, r"teachers/adabins-small: network: unknown key 'bin'\. Known: bins, "),
        ({"bins": "many"}, "found 'many', expected a whole number"),
        ({"normalisation": "none"}, "expected one of imagenet, half"),
        ({"queries": 0}, "queries must be at least 1"),
        ({"features": 100}, "features must be a multiple of 16"),
        ({"heads": 5}, "embedding must be a multiple of heads"),
        ({"queries": 500}, "queries must be fewer than positions"),
        ({"encoder": "vgg"}, "encoder 'vgg'"),
    ],
)
def test_a_wrong_network_section_is_one_line(change: dict[str, object], expected: str) -> None:
    with pytest.raises(CardError, match=expected):
        build_network(replace(CARD, network={**CARD.network, **change}))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        pytest.param(64, 96, "4x6 = 24 patches of 16x16, expected 33 to 500", id="too-few"),
        pytest.param(480, 640, "30x40 = 1200 patches of 16x16, expected 33", id="too-many"),
    ],
)
def test_an_image_with_the_wrong_number_of_patches_is_refused(
    height: int, width: int, expected: str
) -> None:
    teacher = make_teacher(CARD, build_network(CARD))

    with pytest.raises(DataError, match=f"about {height}x{width} pixels gives {expected}"):
        teacher.predict(torch.zeros(1, 3, height, width))


def test_every_parameter_that_the_forward_reads_gets_a_gradient() -> None:
    torch.manual_seed(0)
    network = build_network(CARD).train()
    out: AdaBinsOutput = network(torch.rand(2, 3, 144, 192))

    (out.depth.square().mean() + out.centers.square().mean()).backward()  # type: ignore[no-untyped-call]

    idle = {name for name, p in network.named_parameters() if p.grad is None}
    assert idle == {"encoder.original_model.bn2.weight", "encoder.original_model.bn2.bias"}
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_bins_cover_the_cards_range() -> None:
    card = replace(CARD, min_depth=0.5, max_depth=80.0)
    with torch.no_grad():
        out: AdaBinsOutput = build_network(card).eval()(torch.rand(2, 3, 144, 192))

    assert out.edges[:, 0].tolist() == [0.5, 0.5]
    assert out.edges[:, -1].tolist() == pytest.approx([80.0, 80.0], rel=1e-5)
    assert (out.edges.diff(dim=1) > 0).all()


def test_depth_is_clipped_before_it_is_averaged_with_the_mirrored_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build_network(CARD)
    far = iter([torch.tensor([[[-1.0, 4.0]]]), torch.tensor([[[99.0, 6.0]]])])

    def forward(self: AdaBins, rgb: torch.Tensor) -> AdaBinsOutput:
        return AdaBinsOutput(torch.zeros(1, 3), next(far), torch.zeros(1, 2, 1, 2))

    monkeypatch.setattr(AdaBins, "forward", forward)
    depth = make_teacher(CARD, network, mirror=True).predict(torch.zeros(1, 3, 2, 4)).depth

    # (clip(-1) + mirrored 6) / 2 and (4 + clip(99)) / 2
    assert depth.flatten().tolist() == pytest.approx([(CARD.min_depth + 6) / 2, (4 + 10) / 2])


def test_a_seed_decides_the_random_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_network(CARD).state_dict())

    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
