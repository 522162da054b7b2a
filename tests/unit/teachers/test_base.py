"""Images in, native depth out, and the way to the frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdpipe.cards import TeacherCard
from kdpipe.errors import DataError
from kdpipe.teachers.base import Bins, Teacher, TeacherOutput, to_rgb


class Red(Teacher):
    """Says that the depth is the red channel, at the size it sees."""

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        scale = 1 if focal is None else focal.float()[:, None, None]
        return TeacherOutput(rgb[:, 0] * scale)


def teacher(input_size: tuple[int, int] | None = None, *, mirror: bool = False) -> Red:
    card = TeacherCard(name="red", family="red", input_size=input_size, mirror=mirror)
    return Red(card, nn.Identity(), "cpu")


def ramp(height: int, width: int) -> Tensor:
    """Column numbers (1, height, width)."""
    return torch.arange(width, dtype=torch.float32).expand(1, height, width)


def test_bytes_and_floats_of_one_image_are_the_same() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    floats = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255

    for images in (pixels, torch.from_numpy(pixels), floats, floats.numpy(), pixels[:, ::1]):
        assert torch.equal(to_rgb(images), floats)


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(torch.zeros(4, 6, 3, dtype=torch.uint8), id="no-batch"),
        pytest.param(torch.zeros(1, 3, 4, 6, dtype=torch.uint8), id="bytes-channels-first"),
        pytest.param(torch.zeros(1, 4, 6, 3), id="floats-channels-last"),
        pytest.param(torch.zeros(1, 3, 4, 6, dtype=torch.float64), id="double"),
        pytest.param(torch.zeros(0, 3, 4, 6), id="empty"),
        pytest.param(torch.zeros(1, 4, 6, 4, dtype=torch.uint8), id="alpha"),
    ],
)
def test_other_types_and_shapes_are_refused(images: Tensor) -> None:
    with pytest.raises(DataError, match="expected RGB as uint8"):
        teacher().predict(images)


def test_a_ramp_comes_to_the_frame_with_aligned_corners() -> None:
    out = TeacherOutput(ramp(3, 5))

    frame = out.depth_in_frame(9, 17)

    expected = torch.linspace(0, 4, 17).expand(1, 9, 17)
    torch.testing.assert_close(frame, expected)


def test_the_input_is_shrunk_without_aliasing_where_the_card_says_so() -> None:
    stripes = (torch.arange(128) % 2).float().expand(1, 3, 64, 128)

    depth = teacher((32, 32)).predict(stripes).depth

    assert depth.shape == (1, 32, 32)
    torch.testing.assert_close(depth, torch.full_like(depth, 0.5), rtol=0, atol=0.05)


def test_a_mirror_averages_depth() -> None:
    rgb = torch.zeros(1, 3, 1, 3)
    rgb[0, 0, 0] = torch.tensor([0.0, 0.5, 1.0])

    plain, mirrored = teacher().predict(rgb), teacher(mirror=True).predict(rgb)

    assert plain.depth.flatten().tolist() == [0.0, 0.5, 1.0]
    assert mirrored.depth.flatten().tolist() == [0.0, 0.5, 1.0]  # red follows the image around


def test_the_focal_length_reaches_the_family() -> None:
    depth = teacher().predict(torch.ones(2, 3, 1, 1), focal=np.array([2.0, 3.0])).depth

    assert depth.flatten().tolist() == [2.0, 3.0]


def test_a_prediction_has_no_gradient() -> None:
    depth = teacher().predict(torch.rand(1, 3, 2, 2).requires_grad_()).depth

    assert not depth.requires_grad


def test_centres_are_mid_points() -> None:
    bins = Bins(torch.tensor([[0.0, 1.0, 3.0]]), torch.zeros(1, 2, 1, 1))

    assert bins.centers().tolist() == [[0.5, 2.0]]
