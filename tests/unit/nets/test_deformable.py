"""Deformable attention against its formula, written out for one query at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdpipe.nets import deformable
from kdpipe.nets.deformable import DeformableAttention, pixel_centres, sine_positions

SIZES = [(3, 4), (2, 5)]
TOKENS = 3 * 4 + 2 * 5
WIDTH, HEADS, POINTS, QUERIES = 8, 2, 3, 7


def attention() -> DeformableAttention:
    """In float64, with large offsets, so that some points lie outside."""
    torch.manual_seed(0)
    network = DeformableAttention(WIDTH, heads=HEADS, levels=2, points=POINTS).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Query, values, references."""
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(batch, QUERIES, WIDTH, generator=generator, dtype=torch.float64)
    values = torch.randn(batch, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    references = torch.rand(batch, QUERIES, 2, generator=generator, dtype=torch.float64)
    return query, values, references


def read(values: Tensor, x: float, y: float) -> Tensor:
    """A map (h, w, C) at a place in pixels, centres at whole numbers; 0 beyond its pixels."""
    left, top = math.floor(x), math.floor(y)
    total = torch.zeros_like(values[0, 0])
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < values.shape[0] and 0 <= column < values.shape[1]:
            total += (1 - abs(x - column)) * (1 - abs(y - row)) * values[row, column]
    return total


def by_formula(
    network: DeformableAttention, query: Tensor, values: Tensor, reference: Tensor
) -> Tensor:
    """One query (C,), one image's values (S, C), one reference (2,) -> (C,)."""
    projected = network.value_proj(values).split([h * w for h, w in SIZES])
    offsets = network.sampling_offsets(query).view(HEADS, len(SIZES), POINTS, 2)
    weights = network.attention_weights(query).view(HEADS, -1).softmax(dim=-1)
    weights = weights.view(HEADS, len(SIZES), POINTS)
    heads = []
    for head in range(HEADS):
        channels = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        total = torch.zeros(WIDTH // HEADS, dtype=torch.float64)
        for level, (height, width) in enumerate(SIZES):
            image = projected[level].view(height, width, WIDTH)[:, :, channels]
            for point in range(POINTS):
                dx, dy = offsets[head, level, point].tolist()
                x = float(reference[0]) * width + dx - 0.5
                y = float(reference[1]) * height + dy - 0.5
                total = total + weights[head, level, point] * read(image, x, y)
        heads.append(total)
    out: Tensor = network.output_proj(torch.cat(heads))
    return out


def test_it_is_the_published_formula() -> None:
    network, (query, values, references) = attention(), inputs()

    with torch.no_grad():
        found = network(query, values, references, SIZES)
        expected = [
            [by_formula(network, query[b, q], values[b], references[b, q]) for q in range(QUERIES)]
            for b in range(2)
        ]

    torch.testing.assert_close(found, torch.stack([torch.stack(row) for row in expected]))


def test_one_image_of_references_serves_the_batch() -> None:
    network, (query, values, references) = attention(), inputs()

    found = network(query, values, references[:1], SIZES)

    expected = network(query, values, references[:1].repeat(2, 1, 1), SIZES)
    torch.testing.assert_close(found, expected)


def test_queries_in_parts_get_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    network, (query, values, references) = attention(), inputs()
    at_once = network(query, values, references, SIZES)

    monkeypatch.setattr(deformable, "_BUDGET", 3 * 2 * WIDTH * POINTS)  # three queries a part
    in_parts = network(query, values, references, SIZES)

    torch.testing.assert_close(in_parts, at_once)


def test_without_offsets_a_pixel_reads_itself() -> None:
    network = DeformableAttention(WIDTH, heads=HEADS, levels=1, points=POINTS).double()
    torch.nn.init.zeros_(network.sampling_offsets.bias)
    values = inputs()[1][:, :12]

    found = network(values, values, pixel_centres((3, 4), values)[None], [(3, 4)])

    torch.testing.assert_close(found, network.output_proj(network.value_proj(values)))


def test_a_fresh_head_looks_its_own_way() -> None:
    network = DeformableAttention(8, heads=4, levels=2, points=2)

    places = network.sampling_offsets(torch.randn(8)).view(4, 2, 2, 2)

    right, down, left, up = ([1, 0], [0, 1], [-1, 0], [0, -1])
    expected = torch.tensor([right, down, left, up])
    for level in range(2):
        torch.testing.assert_close(places[:, level, 0], expected.float(), atol=1e-6, rtol=0)
        torch.testing.assert_close(places[:, level, 1], 2.0 * expected, atol=1e-6, rtol=0)


def test_pixel_centres_divide_the_map_evenly() -> None:
    centres = pixel_centres((2, 4), torch.empty(0))

    assert centres[:4].tolist() == [[0.125, 0.25], [0.375, 0.25], [0.625, 0.25], [0.875, 0.25]]
    assert centres[4:].tolist() == [[0.125, 0.75], [0.375, 0.75], [0.625, 0.75], [0.875, 0.75]]


def test_sine_positions_count_rows_then_columns_from_one() -> None:
    codes = sine_positions((2, 3), 8, torch.empty(0, dtype=torch.float64)).view(2, 3, 8)

    for row in range(2):
        for column in range(3):
            y, x = row + 1, column + 1
            slow = 10000 ** (2 / 4)
            expected = [math.sin(y), math.cos(y), math.sin(y / slow), math.cos(y / slow)]
            expected += [math.sin(x), math.cos(x), math.sin(x / slow), math.cos(x / slow)]
            assert codes[row, column].tolist() == pytest.approx(expected)
