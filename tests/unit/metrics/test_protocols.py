from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from kdpipe.errors import DataError, UnknownNameError
from kdpipe.metrics import PROTOCOLS, depth_errors, errors_of_image, find_protocol, resize_bilinear

if TYPE_CHECKING:
    from kdpipe.types import Depth


def _ramp(height: int, width: int) -> Depth:
    row = np.linspace(1, 4, width, dtype=np.float32)
    return np.broadcast_to(row, (height, width)) + np.linspace(
        0, 2, height, dtype=np.float32
    ).reshape(-1, 1)


def test_an_unknown_protocol_is_answered_with_the_list() -> None:
    with pytest.raises(UnknownNameError, match=r"'nyu'.*kitti-garg.*nyu-eigen"):
        depth_errors(_ramp(4, 4), _ramp(4, 4), "nyu")


def test_a_smaller_prediction_of_a_plane_is_enlarged_exactly() -> None:
    np.testing.assert_allclose(resize_bilinear(_ramp(9, 13), 33, 77), _ramp(33, 77), rtol=1e-6)


def test_a_single_row_or_column_can_be_enlarged() -> None:
    one = np.full((1, 1), 3, np.float32)

    np.testing.assert_array_equal(resize_bilinear(one, 4, 5), np.full((4, 5), 3, np.float32))


@pytest.mark.parametrize("edge", [1e-3, 10.0, 0.0, np.nan, -1.0, 11.0])
def test_truth_at_or_beyond_the_edge_of_the_range_does_not_count(edge: float) -> None:
    truth = np.full((2, 2), 4, np.float32)
    truth[0, 0] = edge
    pred = np.full((2, 2), 4, np.float32)
    pred[0, 0] = 8  # a great error, if it counted

    assert depth_errors(pred, truth)["abs_rel"] == 0


def test_the_range_is_the_data_cards_where_the_protocol_names_none() -> None:
    truth = np.array([[2.0, 6.0]], np.float32)
    pred = np.array([[2.0, 3.0]], np.float32)

    assert depth_errors(pred, truth)["abs_rel"] == pytest.approx(0.25)
    assert depth_errors(pred, truth, max_depth=5.0)["abs_rel"] == 0
    assert find_protocol("nyu-eigen").within(0.5, 5.0).high == 10.0


@pytest.mark.parametrize(
    ("value", "counts_as"),
    [(np.inf, 10.0), (np.nan, 1e-3), (-5.0, 1e-3), (0.0, 1e-3), (99.0, 10.0)],
)
def test_a_prediction_out_of_range_is_clipped(value: float, counts_as: float) -> None:
    truth = np.full((1, 1), 4, np.float32)

    errors = depth_errors(np.full((1, 1), value, np.float32), truth)

    assert errors["rmse"] == pytest.approx(abs(counts_as - 4), rel=1e-6)


def test_the_order_of_clip_and_resize_matters() -> None:
    pred = np.array([[2.0, 40.0]], np.float32)
    truth = np.full((1, 3), 5, np.float32)

    assert depth_errors(pred, truth, "none")["rmse"] != pytest.approx(
        depth_errors(pred, truth, "none-zoe")["rmse"]
    )


@pytest.mark.parametrize(
    ("protocol", "shape", "window"),
    [
        pytest.param("nyu-eigen", (480, 640), (45, 471, 41, 601), id="nyu"),
        pytest.param("kitti-garg", (352, 1216), (143, 349, 43, 1172), id="garg-crop"),
        pytest.param("kitti-garg-full", (375, 1242), (153, 371, 44, 1197), id="garg-0926"),
        pytest.param("kitti-garg-full", (376, 1241), (153, 372, 44, 1196), id="garg-1003"),
        pytest.param("kitti-garg-full", (370, 1226), (151, 366, 44, 1181), id="garg-0930"),
        pytest.param("kitti-eigen", (352, 1216), (117, 321, 43, 1172), id="eigen-crop"),
        pytest.param("kitti-eigen-full", (375, 1242), (124, 342, 44, 1197), id="eigen-0926"),
    ],
)
def test_the_windows_are_the_published_ones(
    protocol: str, shape: tuple[int, int], window: tuple[int, int, int, int]
) -> None:
    assert PROTOCOLS[protocol].window(*shape) == window


@pytest.mark.parametrize("corner", [(45, 41), (470, 600), (44, 41), (45, 40), (471, 600)])
def test_only_the_window_counts(corner: tuple[int, int]) -> None:
    truth = np.zeros((480, 640), np.float32)
    truth[corner] = 3
    inside = corner in [(45, 41), (470, 600)]

    found = errors_of_image(truth, truth, find_protocol("nyu-eigen"))

    assert (found is not None) == inside


def test_kitti_truth_is_cut_to_the_crop_the_prediction_covers() -> None:
    whole = _ramp(375, 1242) + 3
    crop = whole[23:, 13 : 13 + 1216]

    same = [
        depth_errors(crop, whole, "kitti-garg"),
        depth_errors(whole, whole, "kitti-garg"),
        depth_errors(crop, crop, "kitti-garg"),
        depth_errors(whole, whole, "kitti-garg-full"),
        depth_errors(crop, whole, "kitti-garg-full"),
    ]

    assert all(errors["rmse"] == 0 for errors in same)


def test_bts_counts_pixels_that_the_crop_leaves_out_as_nearest() -> None:
    whole = np.full((375, 1242), 5, np.float32)
    crop = np.full((352, 1216), 5, np.float32)

    assert depth_errors(crop, whole, "kitti-none-full")["abs_rel"] > 0.05
    assert depth_errors(crop, whole, "kitti-none")["abs_rel"] == 0


def test_hu_takes_the_centre_of_half_the_frame() -> None:
    truth = np.full((480, 640), 3, np.float32)
    truth[:12] = 50  # outside the centre: rows 6.. of 240 are rows 12.. of 480
    pred = np.full((228, 304), 3, np.float32)

    assert depth_errors(pred, truth, "nyu-hu")["rmse"] == 0
    assert depth_errors(np.where(truth == 50, 3, truth), truth, "nyu-hu")["abs_rel"] < 0.01


@pytest.mark.parametrize(("protocol", "shape"), [("nyu-eigen", (240, 320)), ("kitti-garg", (9, 9))])
def test_a_truth_too_small_for_its_protocol_is_refused(
    protocol: str, shape: tuple[int, int]
) -> None:
    with pytest.raises(DataError, match="only"):
        depth_errors(_ramp(*shape), _ramp(*shape), protocol)


def test_an_image_without_truth_is_refused_in_words() -> None:
    with pytest.raises(DataError, match="no pixel of the truth counts"):
        depth_errors(_ramp(4, 4), np.zeros((4, 4), np.float32))
