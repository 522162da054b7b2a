"""Both SSIMs: equal to their formula, and different where TIE-KD's is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdpipe.losses.ssim import known_ssim, ssim

GENERATOR = torch.Generator().manual_seed(0)
FIRST = torch.rand(2, 20, 24, generator=GENERATOR) * 5 + 1
SECOND = torch.rand(2, 20, 24, generator=GENERATOR) * 5 + 1
EVERYWHERE = torch.ones_like(FIRST, dtype=torch.bool)


def means_at(row: int, column: int, known: Tensor, *maps: Tensor) -> list[float]:
    """Gaussian means over the known pixels of one 11x11 window, pixel by pixel in float64."""
    total, sums = 0.0, [0.0] * len(maps)
    for y in range(max(0, row - 5), min(known.shape[0], row + 6)):
        for x in range(max(0, column - 5), min(known.shape[1], column + 6)):
            if known[y, x]:
                offset = torch.tensor((y - row) ** 2 + (x - column) ** 2, dtype=torch.float64)
                weight = float(torch.exp(-offset / 4.5))
                total += weight
                sums = [s + weight * float(m[y, x]) for s, m in zip(sums, maps, strict=True)]
    return [s / total for s in sums]


def test_known_ssim_is_the_textbook_formula_over_known_pixels() -> None:
    known = torch.rand(1, 14, 15, generator=GENERATOR) > 0.3
    x, y = FIRST[0, :14, :15].double(), SECOND[0, :14, :15].double()
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for row, column in known[0].nonzero().tolist():
        mx, my, xx, yy, xy = means_at(row, column, known[0], x, y, x * x, y * y, x * y)
        values.append(
            (2 * mx * my + c1)
            * (2 * (xy - mx * my) + c2)
            / ((mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2))
        )

    found = known_ssim(x[None].float(), y[None].float(), known)

    assert found.item() == pytest.approx(sum(values) / len(values), abs=1e-5)


@pytest.mark.parametrize("depth", [1.0, 79.0])
def test_equal_maps_are_alike(depth: float) -> None:
    same = FIRST / 6 * depth

    torch.testing.assert_close(ssim(same, same), torch.ones(2))
    torch.testing.assert_close(known_ssim(same, same, EVERYWHERE), torch.tensor(1.0))


def test_only_the_corrected_one_minds_a_relief_the_wrong_way_round() -> None:
    wrong_way = 7 - FIRST

    assert known_ssim(FIRST, wrong_way, EVERYWHERE) < -0.3
    assert ssim(FIRST, wrong_way).min() > 0.3


def test_what_unknown_pixels_hold_does_not_matter() -> None:
    known = EVERYWHERE.clone()
    known[:, 4:9, 5:12] = False
    other = torch.where(known, SECOND, 1000.0)

    found = known_ssim(FIRST, other, known)

    torch.testing.assert_close(found, known_ssim(FIRST, SECOND, known))


def test_nothing_known_is_alike_without_a_gradient() -> None:
    depth = FIRST.clone().requires_grad_()

    similarity = known_ssim(depth, SECOND, ~EVERYWHERE)
    torch.autograd.backward(similarity)

    assert similarity.item() == 1
    assert depth.grad is not None
    assert (depth.grad == 0).all()


@pytest.mark.parametrize("corrected", [False, True])
def test_the_gradient_is_that_of_finite_differences(corrected: bool) -> None:
    known = torch.rand(2, 20, 24, generator=GENERATOR) > 0.2

    def similarity(depth: Tensor) -> Tensor:
        if corrected:
            return known_ssim(depth, SECOND, known)
        return ssim(depth, SECOND).mean()

    depth = FIRST.clone().requires_grad_()
    direction = torch.rand(FIRST.shape, generator=GENERATOR) - 0.5
    (gradient,) = torch.autograd.grad(similarity(depth), depth)

    with torch.no_grad():
        ahead, behind = (similarity(depth + step * direction) for step in (3e-3, -3e-3))
    torch.testing.assert_close(
        (gradient * direction).sum(), (ahead - behind) / 6e-3, rtol=2e-2, atol=1e-4
    )
