"""AdaBins of the Monocular-Depth-Estimation-Toolbox and TIE-KD: mmcv's names, another decoder.

Names and structure as in depth/models/decode_heads/adabins_head.py of the Toolbox, whose decoder is
written out here a second time.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdpipe.cards import load_teacher_card
from kdpipe.errors import CheckpointError
from kdpipe.teachers import build_network, load_teacher

if TYPE_CHECKING:
    from kdpipe.teachers.adabins import AdaBins

PUBLISHED = load_teacher_card("adabins-small")
CARD = replace(PUBLISHED, network={**PUBLISHED.network, "decoder": "toolbox"})
PARTS = {0: "convA.conv", 1: "convA.bn", 3: "convB.conv", 4: "convB.bn"}


def mmcv_state(seed: int = 0) -> dict[str, Tensor]:
    """A small network's entries by mmcv's names, with the regression that nothing reads."""
    torch.manual_seed(seed)
    state = {}
    for key, value in build_network(CARD).state_dict().items():
        value = value + 0.1 * torch.rand_like(value) if value.is_floating_point() else value
        key = re.sub(r"^encoder\.", "backbone.", key)
        key = re.sub(r"^decoder\.conv2\.", "decode_head.conv_list.0.conv.", key)
        if found := re.match(r"^decoder\.up(\d)\._net\.(\d)\.(.*)", key):
            key = f"decode_head.conv_list.{found[1]}.{PARTS[int(found[2])]}.{found[3]}"
        key = re.sub(r"^decoder\.conv3\.", "decode_head.decode_final_conv.", key)
        key = re.sub(r"^(adaptive_bins_layer|conv_out)\.", r"decode_head.\1.", key)
        state[key] = value
    state["decode_head.conv_depth.weight"] = torch.zeros(1, 128, 3, 3)
    state["decode_head.conv_depth.bias"] = torch.zeros(1)
    return state


def decode(state: dict[str, Tensor], maps: list[Tensor]) -> Tensor:
    """The Toolbox's decoder: 1x1 convolution, four steps up, 3x3 convolution."""

    def block(x: Tensor, name: str) -> Tensor:
        x = F.conv2d(x, state[f"{name}.conv.weight"], padding=1)
        mean, var = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
        return F.batch_norm(
            x, mean, var, state[f"{name}.bn.weight"], state[f"{name}.bn.bias"]
        ).relu()

    first = "decode_head.conv_list.0.conv"
    x = F.conv2d(maps[4], state[f"{first}.weight"], state[f"{first}.bias"])
    for step in range(1, 5):
        skip, name = maps[4 - step], f"decode_head.conv_list.{step}"
        x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=True)
        x = block(block(torch.cat([x, skip], dim=1), f"{name}.convA"), f"{name}.convB")
    last = "decode_head.decode_final_conv"
    return F.conv2d(x, state[f"{last}.weight"], state[f"{last}.bias"], padding=1)


def test_a_checkpoint_of_mmcv_loads_and_decodes_as_the_toolbox_does(tmp_path: Path) -> None:
    state, path = mmcv_state(), tmp_path / "adabins.pth"
    torch.save({"meta": {"epoch": 24}, "state_dict": state}, path)

    network = cast("AdaBins", load_teacher(CARD, checkpoint=path).network)

    with torch.no_grad():
        maps = network.encoder(network.normalise(torch.rand(1, 3, 144, 192)))
        torch.testing.assert_close(network.decoder(maps), decode(state, maps))


def test_the_published_network_refuses_it_and_the_other_way_round(tmp_path: Path) -> None:
    path = tmp_path / "adabins.pth"
    torch.save({"state_dict": mmcv_state()}, path)
    with pytest.raises(CheckpointError, match=r"missing: decoder\.up1\._net\.0\.bias"):
        load_teacher(PUBLISHED, checkpoint=path)
    torch.save({"model": build_network(PUBLISHED).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"left over: decoder\.up1\._net\.0\.bias"):
        load_teacher(CARD, checkpoint=path)


@pytest.mark.parametrize(
    "name", ["adabins-nyu-toolbox", "adabins-kitti-toolbox", "adabins-kitti-tiekd"]
)
def test_the_cards_are_of_the_toolboxs_size(name: str) -> None:
    with torch.device("meta"):
        network = build_network(load_teacher_card(name))

    biases = 2 * (1024 + 512 + 256 + 128)  # fewer than the published network's 78.26 M
    count = sum(one.numel() for one in network.parameters())
    with torch.device("meta"):
        published = build_network(load_teacher_card("adabins-nyu"))
    assert sum(one.numel() for one in published.parameters()) - count == biases
