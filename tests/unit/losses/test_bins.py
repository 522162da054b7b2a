"""The teacher's bins moved and compared chunk by chunk; Chamfer distance without all pairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdpipe.errors import CardError
from kdpipe.losses import BINS_LOSSES, fused
from kdpipe.losses.bins import Where, bins_loss, chamfer, project
from kdpipe.students.base import BINS, StudentOutput

GENERATOR = torch.Generator().manual_seed(0)
CENTERS = torch.rand(3, 16, generator=GENERATOR) * 10
TRUTH = torch.rand(3, 9, 11, generator=GENERATOR) * 10
VALID = torch.rand(3, 9, 11, generator=GENERATOR) > 0.4


def test_value_and_gradient_are_those_of_all_pairs() -> None:
    centers = CENTERS.clone().requires_grad_()
    expected = torch.zeros(())
    for points, truth, valid in zip(centers, TRUTH, VALID, strict=True):
        pairs = (points[:, None] - truth[valid][None]).square()
        expected = expected + (pairs.min(1).values.mean() + pairs.min(0).values.mean()) / 3

    found = chamfer(centers, TRUTH, VALID)

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, centers), torch.autograd.grad(expected, centers)
    )


@pytest.mark.parametrize("count", [1, 2])
def test_few_points_on_either_side_are_enough(count: int) -> None:
    valid = torch.zeros_like(VALID[:1])
    valid[0, 0, :count] = True
    points = CENTERS[:1, :count]
    pairs = (points[0][:, None] - TRUTH[:1][valid][None]).square()

    found = chamfer(points, TRUTH[:1], valid)

    torch.testing.assert_close(found, pairs.min(1).values.mean() + pairs.min(0).values.mean())


def test_an_image_without_truth_adds_nothing() -> None:
    valid = VALID.clone()
    valid[1:] = False
    centers = CENTERS.clone().requires_grad_()

    loss = chamfer(centers, TRUTH, valid)
    torch.autograd.backward(loss)

    torch.testing.assert_close(loss, chamfer(CENTERS[:1], TRUTH[:1], VALID[:1]) / 3)
    assert centers.grad is not None
    assert (centers.grad[1:] == 0).all()
    assert chamfer(CENTERS, TRUTH, torch.zeros_like(VALID)).item() == 0


NYU = BINS["nyu"].centers()
N, K = 49, 12


class Cells:
    """A teacher's distributions, with centers an image or a cell, seen slightly turned."""

    turn = 0.1

    def __init__(self, *, own_centers: bool, cells: tuple[int, int], dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(1)
        self.masses = torch.rand(2, K, *cells, generator=generator).pow(4).to(dtype)
        shape = (2, K, *cells) if own_centers else (2, K)
        self.centers = (torch.rand(shape, generator=generator) * 13 - 1).to(dtype)
        self.count = K

    def places(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Rows and columns (B, h, w)."""
        r, c = (side - 1 for side in self.masses.shape[2:])
        y = torch.linspace(0, r, size[0], dtype=torch.float64)[None, :, None]
        x = torch.linspace(0, c, size[1], dtype=torch.float64)[None, None]
        turn = torch.tensor([0.0, self.turn], dtype=torch.float64)[:, None, None]
        return (y + turn * x).clamp(0, r), (x - turn * y).clamp(0, c)

    def cells(self, image: int, where: Where) -> tuple[Tensor, Tensor]:
        """Masses that are not normalised, and centers."""
        at = (slice(None), *where)
        own = self.centers.ndim > 2
        return self.masses[image][at], self.centers[image][at] if own else self.centers[image]


def plain(probabilities: Tensor, teacher: Cells, known: Tensor) -> Tensor:
    """The formula in one go, pixel by pixel and cell by cell, for autograd to differentiate."""
    b, n, h, w = probabilities.shape
    total = probabilities.new_zeros(())
    rows, columns = teacher.places((h, w))
    for image, y, x in ((i, j, k) for i in range(b) for j in range(h) for k in range(w)):
        if not known[image, y, x]:
            continue
        row, column = float(rows[image, y, x]), float(columns[image, y, x])
        q = probabilities.new_zeros(n)
        for r in {math.floor(row), math.ceil(row)}:
            for c in {math.floor(column), math.ceil(column)}:
                share = (1 - abs(r - row)) * (1 - abs(c - column))
                masses, theirs = teacher.cells(image, (torch.tensor(r), torch.tensor(c)))
                # A hat over each of the student's centers, flat beyond the outermost.
                hats = np.stack([np.interp(theirs, NYU, one) for one in np.eye(n)])
                q = q + share * torch.from_numpy(hats) @ masses / masses.sum()
        student = probabilities[image, :, y, x] + 1e-7
        total = total + (torch.xlogy(q, q) - q * student.log()).sum()
    return total / max(1, int(known.sum()))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-3, 14)), min_size=1, max_size=9),
    st.lists(st.floats(0.01, 2), min_size=1, max_size=9),
    st.booleans(),
)
def test_moved_mass_keeps_its_sum_and_inside_the_range_its_mean(
    given_bins: list[tuple[float, float]], steps: list[float], own_centers: bool
) -> None:
    mass, theirs = torch.tensor(given_bins, dtype=torch.float64).unbind(1)
    centers = 0.1 + torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)

    moved = project(mass[:, None], theirs[:, None] if own_centers else theirs, centers)[:, 0]

    assert float(moved.min()) >= 0
    assert float(moved.sum()) == pytest.approx(float(mass.sum()), abs=1e-9)
    inside = theirs.clamp(centers[0], centers[-1])
    assert float(moved @ centers) == pytest.approx(float(mass @ inside), abs=1e-9)


def test_a_mass_goes_to_its_two_neighbours_and_beyond_the_range_to_the_end() -> None:
    centers = torch.tensor([1.0, 2.0, 4.0])

    moved = project(torch.eye(4), torch.tensor([2.5, 2.0, 0.2, 9.0]), centers)

    expected = [[0, 0.75, 0.25], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    torch.testing.assert_close(moved, torch.tensor(expected).T)


@pytest.mark.parametrize("chunk", [1, 2**18], ids=["a-line", "all"])
@pytest.mark.parametrize("cells", [(4, 5), (19, 23)], ids=["coarse-cells", "fine-cells"])
@pytest.mark.parametrize("own_centers", [False, True], ids=["an-image's-centers", "a-cell's"])
def test_value_and_gradient_are_those_of_the_formula(
    own_centers: bool, cells: tuple[int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_CHUNK", chunk)
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(2, N, 5, 6, generator=generator)
    known = torch.rand(2, 5, 6, generator=generator) > 0.3
    single = torch.softmax(logits, 1).requires_grad_()
    double = torch.softmax(logits.double(), 1).requires_grad_()
    teacher = Cells(own_centers=own_centers, cells=cells, dtype=torch.float32)
    exact = Cells(own_centers=own_centers, cells=cells, dtype=torch.float64)

    loss = 3 * bins_loss(single, NYU, teacher, known)
    torch.autograd.backward(loss)
    expected = 3 * plain(double, exact, known)
    torch.autograd.backward(expected)

    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert single.grad is not None
    assert double.grad is not None
    torch.testing.assert_close(single.grad.double(), double.grad, rtol=1e-3, atol=1e-5)


class Straight(Cells):
    """Seen as it is."""

    turn = 0.0


def test_a_student_that_says_what_the_teacher_says_loses_nothing() -> None:
    teacher = Straight(own_centers=False, cells=(4, 5), dtype=torch.float32)
    masses = teacher.masses / teacher.masses.sum(1, keepdim=True)
    student = torch.stack(
        [project(m, c, NYU) for m, c in zip(masses, teacher.centers, strict=True)]
    )

    assert abs(float(bins_loss(student, NYU, teacher))) < 1e-5
    assert float(bins_loss(student.flip(1), NYU, teacher)) > 1


def test_nothing_known_costs_nothing() -> None:
    probabilities = torch.full((2, N, 5, 6), 1 / N, requires_grad=True)
    teacher = Cells(own_centers=False, cells=(4, 5), dtype=torch.float32)

    loss = bins_loss(probabilities, NYU, teacher, torch.zeros(2, 9, 12, dtype=torch.bool))
    torch.autograd.backward(loss)

    assert loss.item() == 0
    assert probabilities.grad is not None
    assert (probabilities.grad == 0).all()


def test_a_student_without_bins_is_one_line() -> None:
    student = StudentOutput(torch.ones(2, 5, 6), None, torch.empty(0))
    teacher = Cells(own_centers=False, cells=(4, 5), dtype=torch.float32)

    with pytest.raises(CardError, match="expected `head: dpm`"):
        BINS_LOSSES["bins"](student, teacher, torch.ones(2, 5, 6, dtype=torch.bool), {})


def test_a_smaller_student_is_judged_where_all_about_its_pixel_is_known() -> None:
    known = torch.ones(2, 9, 11, dtype=torch.bool)
    known[0, 4, 5] = known[1, 0, 2] = False  # on a pixel of the student, and half beside one
    probabilities = torch.full((2, N, 5, 5), 1 / N, requires_grad=True)
    teacher = Cells(own_centers=False, cells=(4, 5), dtype=torch.float32)

    torch.autograd.backward(bins_loss(probabilities, NYU, teacher, known))

    assert probabilities.grad is not None
    judged = (probabilities.grad != 0).any(1)
    assert (~judged).nonzero().tolist() == [[0, 2, 2], [1, 0, 1]]


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what each operation newly allocates."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: dict[int, int] = {}
        self.kept: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation, and holds its result so that no address is given twice."""
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, Tensor) and one.layout == torch.strided:
                self.kept.append(one)
                self.storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        return result


@pytest.mark.parametrize("own_centers", [False, True])
def test_beside_the_gradient_nothing_is_as_large_as_the_probabilities(
    own_centers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_CHUNK", 2**14)
    probabilities = torch.full((2, N, 80, 100), 1 / N, requires_grad=True)
    teacher = Cells(own_centers=own_centers, cells=(60, 75), dtype=torch.float32)
    whole = probabilities.nbytes

    with Largest() as seen:
        bins_loss(probabilities, NYU, teacher)

    given_ones = (probabilities, teacher.masses, teacher.centers)
    own = {one.untyped_storage().data_ptr() for one in given_ones}
    sizes = sorted(size for place, size in seen.storages.items() if place not in own)
    assert sizes[-1] == whole
    assert sizes[-2] <= whole / 8
