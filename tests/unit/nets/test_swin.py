"""Swin Transformer: windows, shifts, sizes that fit no window, constants."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.errors import CheckpointError
from kdpipe.nets.encoders import load_encoder_weights
from kdpipe.nets.swin import (
    DropPath,
    PatchEmbedding,
    PatchMerging,
    ShiftedWindows,
    SwinPyramid,
    WindowAttention,
    cut_windows,
    pad_to_multiple,
)
from kdpipe.nets.swin_names import from_published
from kdpipe.nets.torchvision_shim import make_torchvision_importable


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def pyramid(**changes: int) -> SwinPyramid:
    torch.manual_seed(0)
    sizes = {"width": 8, "window": 4, **changes}
    return SwinPyramid(**sizes, depths=(2, 1, 2, 1), heads=(1, 2, 2, 4)).eval()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (128, 256, [(32, 64), (16, 32), (8, 16), (4, 8)]),
        (45, 83, [(12, 21), (6, 11), (3, 6), (2, 3)]),
        (1, 5, [(1, 2), (1, 1), (1, 1), (1, 1)]),
    ],
)
def test_maps_halve_and_round_up(height: int, width: int, expected: list[tuple[int, int]]) -> None:
    network = pyramid()

    maps = network(randn(2, 3, height, width))

    assert [tuple(x.shape[2:]) for x in maps] == expected
    assert [x.shape[1] for x in maps] == list(network.channels) == [8, 16, 32, 64]


def test_an_image_is_filled_up_with_zeros_at_the_right_and_below() -> None:
    embedding, image = PatchEmbedding(8), randn(1, 3, 9, 14)

    found = embedding(image)

    torch.testing.assert_close(found, embedding(F.pad(image, (0, 2, 0, 3))))


def test_a_multiple_is_not_filled_up() -> None:
    x = randn(1, 4, 8, 3)

    assert pad_to_multiple(x, 4) is x


def test_windows_are_cut_row_by_row() -> None:
    x = torch.arange(2 * 4 * 4).view(2, 4, 4, 1)

    windows = cut_windows(x, 2)

    assert windows.shape == (2, 4, 4, 1)
    assert windows[0, :, :, 0].tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


def test_a_bias_belongs_to_a_relative_position() -> None:
    index = WindowAttention(4, heads=2, window=2).relative_position_index

    # Tokens lie at (0, 0), (0, 1), (1, 0), (1, 1); a row of the table is 3 * (1 + dy) + 1 + dx.
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_the_positions_of_a_checkpoint_are_not_read() -> None:
    attention = WindowAttention(4, heads=2, window=3)
    expected = attention.relative_position_index.clone()
    state = attention.state_dict()
    state["relative_position_index"] = torch.zeros(9, 9, dtype=torch.int64)

    attention.load_state_dict(state)

    assert torch.equal(attention.relative_position_index, expected)
    assert int(state["relative_position_index"].abs().sum()) == 0


def test_attention_is_the_usual_one_with_a_bias() -> None:
    torch.manual_seed(0)
    attention, x = WindowAttention(8, heads=2, window=3), randn(2, 5, 9, 8)
    query, key, value = attention.qkv(x).view(2, 5, 9, 3, 2, 4).permute(3, 0, 1, 4, 2, 5)
    bias = attention.relative_position_bias_table[attention.relative_position_index]

    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.permute(2, 0, 1))

    expected = attention.proj(mixed.transpose(2, 3).flatten(3))
    torch.testing.assert_close(attention(x, None), expected)


def seen_by(windows: ShiftedWindows, row: int, column: int) -> set[tuple[int, int]]:
    """Places of an 8x8 map whose output depends on one place of the input."""
    x = randn(1, 8, 8, 4)
    other = x.clone()
    other[0, row, column] += 1
    differ = (windows(x) - windows(other)).abs().amax(dim=-1)[0] > 1e-6
    return {(int(r), int(c)) for r, c in differ.nonzero()}


@pytest.mark.parametrize(
    ("shift", "row", "column", "rows", "columns"),
    [
        (0, 0, 0, range(4), range(4)),
        (0, 3, 5, range(4), range(4, 8)),
        (2, 3, 5, range(2, 6), range(2, 6)),
        (2, 0, 0, range(2), range(2)),  # the roll brings it beside the other borders
        (2, 7, 3, range(6, 8), range(2, 6)),
        (2, 7, 7, range(6, 8), range(6, 8)),
    ],
)
def test_a_token_is_seen_in_its_own_window(
    shift: int, row: int, column: int, rows: range, columns: range
) -> None:
    torch.manual_seed(0)
    windows = ShiftedWindows(4, heads=1, window=4, shift=shift)

    seen = seen_by(windows, row, column)

    assert seen == {(r, c) for r in rows for c in columns}


def test_a_map_that_fits_no_window_is_filled_up_with_zeros() -> None:
    torch.manual_seed(0)
    windows, x = ShiftedWindows(4, heads=1, window=4, shift=2), randn(1, 5, 7, 4)

    found = windows(x)

    torch.testing.assert_close(found, windows(F.pad(x, (0, 0, 0, 1, 0, 3)))[:, :5, :7])


def test_neighbours_are_merged_in_the_order_of_unfold() -> None:
    merging, x = PatchMerging(3), randn(2, 5, 6, 3)
    padded = F.pad(x.permute(0, 3, 1, 2), (0, 0, 0, 1))
    patches = F.unfold(padded, 2, stride=2).transpose(1, 2)

    found = merging(x)

    expected = merging.reduction(merging.norm(patches)).view(2, 3, 3, 6)
    torch.testing.assert_close(found, expected)


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 3, 2)

    dropped = drop(x)

    assert sorted(set(dropped.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert (dropped == dropped[:, :1, :1]).all()
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert drop.eval()(x) is x


def test_drop_path_rises_with_depth() -> None:
    network = SwinPyramid(8, depths=(1, 2, 1, 1), heads=(1, 1, 1, 1), window=2, drop_path=0.4)

    rates = [part.rate for part in network.modules() if isinstance(part, DropPath)]

    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("layout", ["timm", "authors", "mmcv"])
def test_imagenet_weights_give_what_timm_s_network_gives(layout: str, tmp_path: Path) -> None:
    make_torchvision_importable()
    from timm.models.swin_transformer import SwinTransformer

    sizes: dict[str, Any] = {
        "depths": (2, 2, 1),
        "num_heads": (1, 2, 2),
    }  # timm shifts no small maps
    torch.manual_seed(0)
    source = SwinTransformer(
        img_size=64, window_size=4, embed_dim=8, num_classes=3, norm_layer=nn.LayerNorm, **sizes
    ).eval()
    pyramid = SwinPyramid(8, depths=(2, 2, 1), heads=(1, 2, 2), window=4).eval()
    with torch.no_grad():
        for parameter in source.layers.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # norms and biases too
    state = dict(source.state_dict())
    if layout == "authors":  # a stage ends with what merges its neighbours
        state = {
            re.sub(r"layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", name): value
            for name, value in state.items()
        }
    elif layout == "mmcv":
        state = {
            name: value
            for name, value in from_published(state, pyramid.state_dict()).items()
            if not name.startswith("norm")
        }
    torch.save({"model": state}, tmp_path / "swin.pth")
    image = randn(2, 3, 64, 64)

    load_encoder_weights(nn.ModuleDict({"swin": pyramid}), tmp_path / "swin.pth")

    expected = source.forward_features(image).permute(0, 3, 1, 2)
    torch.testing.assert_close(pyramid(image)[-1], expected, rtol=1e-4, atol=1e-5)
    other = SwinPyramid(12, depths=(2, 2, 1), heads=(1, 2, 2), window=4)
    with pytest.raises(CheckpointError, match=r"swin\.pth"):
        load_encoder_weights(other, tmp_path / "swin.pth")
