"""Depthformer beyond the contract of all teachers: sizes, clipping, its start, its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdpipe.cards import load_teacher_card
from kdpipe.errors import CardError, CheckpointError
from kdpipe.teachers import build_network, load_teacher, make_teacher
from kdpipe.teachers.depthformer import Depthformer, DepthformerOutput

CARD = load_teacher_card("depthformer-small")


def small() -> Depthformer:
    torch.manual_seed(0)
    network = build_network(CARD)
    assert isinstance(network, Depthformer)
    return network


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"bins": 3}, r"teachers/depthformer-small: network: unknown key 'bins'\. Known: depths, "),
        ({"width": "many"}, "found 'many', expected a whole number"),
        ({"depths": [2, 2, 2]}, "depths: found .2, 2, 2., expected a list of"),
        ({"depths": [2, 2, 0, 2]}, "depths must be at least 1"),
        ({"window": 0}, "window must be at least 1"),
        ({"heads": [1, 2, 5, 8]}, "heads must divide the stages' widths, got 5 for 96"),
        ({"neck": 30}, "neck must be a multiple of 4"),
        ({"neck_heads": 5}, "neck must be a multiple of neck_heads"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\)"),
    ],
)
def test_a_wrong_network_section_is_one_line(change: dict[str, object], expected: str) -> None:
    with pytest.raises(CardError, match=expected):
        build_network(replace(CARD, network={**CARD.network, **change}))


def test_the_published_cards_have_the_published_sizes() -> None:
    counts = {}
    for name in ("nyu", "kitti", "swint-nyu", "small"):
        with torch.device("meta"):
            network = build_network(load_teacher_card(f"depthformer-{name}"))
        counts[name] = round(sum(p.numel() for p in network.parameters()) / 1e6, 1)

    assert counts["nyu"] == counts["kitti"] == 273.7
    assert counts["swint-nyu"] == pytest.approx(48.0, abs=1.0)
    assert counts["small"] < 3


@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 83), (5, 7)])
def test_depth_has_half_the_inputs_size_rounded_up(height: int, width: int) -> None:
    network = small().eval()

    with torch.no_grad():
        depth = network(torch.rand(2, 3, height, width)).depth

    assert depth.shape == (2, (height + 1) // 2, (width + 1) // 2)
    assert depth.isfinite().all()


def test_every_parameter_gets_a_gradient() -> None:
    network = small().train()
    network.start_at(torch.tensor([2.0]))
    out: DepthformerOutput = network(torch.rand(2, 3, 72, 96))

    out.depth.square().mean().backward()  # type: ignore[no-untyped-call]

    assert {name for name, p in network.named_parameters() if p.grad is None} == set()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert out.probabilities is None
    assert out.centers.numel() == 0


def test_the_network_is_not_bounded_where_the_teacher_is() -> None:
    network = small().eval()
    network.start_at(torch.tensor([30.0]))
    rgb = torch.rand(1, 3, 64, 96)

    with torch.no_grad():
        free = network(rgb).depth
    depth = make_teacher(CARD, network).predict(rgb).depth

    assert free.min() > CARD.max_depth
    assert depth.eq(CARD.max_depth).all()


def test_a_start_is_at_the_median_of_the_data() -> None:
    network = small().eval()
    torch.nn.init.zeros_(network.decode_head.conv_depth.weight)

    network.start_at(torch.tensor([0.5, 3.0, 90.0]))

    with torch.no_grad():
        depth = network(torch.rand(1, 3, 64, 96)).depth
    torch.testing.assert_close(depth, torch.full_like(depth, 3.0))


def test_depth_is_clipped_before_it_is_averaged_with_the_mirrored_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = iter([torch.tensor([[[1e-3, 4.0]]]), torch.tensor([[[99.0, 6.0]]])])

    def forward(self: Depthformer, rgb: torch.Tensor) -> DepthformerOutput:
        return DepthformerOutput(next(far))

    network = small()
    monkeypatch.setattr(Depthformer, "forward", forward)
    depth = make_teacher(CARD, network, mirror=True).predict(torch.zeros(1, 3, 2, 4)).depth

    # (clip(1e-3) + mirrored 6) / 2 and (4 + clip(99)) / 2
    assert depth.flatten().tolist() == pytest.approx([(CARD.min_depth + 6) / 2, (4 + 10) / 2])


def test_files_may_hold_unused_bins_and_lack_the_constants(tmp_path: Path) -> None:
    network = small()
    state = {k: v for k, v in network.state_dict().items() if "position_index" not in k}
    state["decode_head.conv_out.0.weight"] = torch.zeros(256, 128, 1, 1)
    state["decode_head.conv_out.0.bias"] = torch.zeros(256)
    path = tmp_path / "depthformer.pth"
    torch.save({"meta": {}, "state_dict": state}, path)
    rgb = torch.rand(1, 3, 64, 96)

    loaded = load_teacher(CARD, checkpoint=path)

    assert torch.equal(loaded.predict(rgb).depth, make_teacher(CARD, network).predict(rgb).depth)


def test_a_file_of_another_window_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "depthformer.pth"
    torch.save({"state_dict": small().state_dict()}, path)

    with pytest.raises(CheckpointError, match="relative_position_bias_table"):
        load_teacher(replace(CARD, network={**CARD.network, "window": 7}), checkpoint=path)


def test_a_seed_decides_the_random_weights() -> None:
    first, second = small().state_dict(), small().state_dict()

    assert all(torch.equal(value, second[key]) for key, value in first.items())
