"""The codec of depth: its bound, its edges, its bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kdpipe.codecs.log16 import Log16
from kdpipe.errors import CardError

INDOOR = Log16(near=0.125, far=10.0)
OUTDOOR = Log16(near=1.0, far=80.0, max_relative_error=5e-4)
FLOAT32_SLACK = 1e-6


@pytest.mark.parametrize("codec", [INDOOR, OUTDOOR], ids=["indoor", "outdoor"])
@given(data=st.data())
def test_round_trip_stays_within_the_stated_bound(codec: Log16, data: st.DataObject) -> None:
    inside = st.floats(codec.near, codec.far, width=32)
    shapes = npst.array_shapes(min_dims=2, max_dims=2)
    depth = data.draw(npst.arrays(np.float32, shapes, elements=inside))

    decoded = codec.decode(codec.encode(depth))

    np.testing.assert_allclose(decoded, depth, rtol=codec.max_relative_error + FLOAT32_SLACK)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "codec",
    [Log16(1.3, 1.3001, 1e-9), Log16(1e-3, 40), Log16(1.2e-38, 1e-36), Log16(1, 3.4e38, 2e-3)],
    ids=["narrow", "usual", "tiny", "wide"],
)
def test_the_ends_of_the_range_have_codes_in_any_precision(
    codec: Log16, dtype: type[np.floating[Any]]
) -> None:
    ends = np.array([[codec.near, codec.far]], dtype)
    depth = np.concatenate([ends, np.nextafter(ends, np.array([[0, np.inf]], dtype))])

    codes = codec.encode(depth)

    assert codes.min() >= 1
    decoded = codec.decode(codes).astype(np.float64)
    bound = codec.max_relative_error + FLOAT32_SLACK
    np.testing.assert_allclose(decoded, depth.astype(np.float64), rtol=bound)


def test_the_bound_is_nearly_reached_so_no_code_is_wasted() -> None:
    depth = np.geomspace(INDOOR.near, INDOOR.far, 100_000, dtype=np.float32)[None]

    worst = np.max(np.abs(INDOOR.decode(INDOOR.encode(depth)) - depth) / depth)

    assert 0.98 * INDOOR.max_relative_error < worst <= INDOOR.max_relative_error + FLOAT32_SLACK


@pytest.mark.parametrize(
    ("metres", "expected"),
    [
        pytest.param(0.0, 0.0, id="zero-is-unknown"),
        pytest.param(-1.0, 0.0, id="negative-is-unknown"),
        pytest.param(np.nan, 0.0, id="nan-is-unknown"),
        pytest.param(np.inf, 0.0, id="infinite-is-unknown"),
        pytest.param(0.01, INDOOR.near, id="nearer-clamps-to-near"),
        pytest.param(99.0, INDOOR.far, id="farther-clamps-to-far"),
        pytest.param(INDOOR.far, INDOOR.far, id="far-is-a-code"),
    ],
)
def test_edges(metres: float, expected: float) -> None:
    depth = np.full((1, 1), metres, np.float32)

    assert INDOOR.decode(INDOOR.encode(depth)).item() == pytest.approx(expected)


def test_codes_are_frozen() -> None:
    depth = np.array([[0.0, 0.125, 0.2, 1.0, 3.3, 9.99, 10.0]], np.float32)

    assert INDOOR.encode(depth).tolist() == [[0, 1, 236, 1042, 1639, 2193, 2194]]


def test_a_code_of_other_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="2194 is largest"):
        INDOOR.decode(np.array([[2195]], np.uint16))


@pytest.mark.parametrize(
    ("near", "far", "error"),
    [
        (0.0, 10.0, 1e-3),
        (2.0, 1.0, 1e-3),
        (1e-3, 100.0, 1e-5),
        (1e-3, np.inf, 1e-3),
        (1e-3, np.nan, 1e-3),
        (1e-3, 10.0, np.nan),
        (1e-44, 1e-40, 1e-2),
    ],
)
def test_impossible_parameters_are_refused(near: float, far: float, error: float) -> None:
    with pytest.raises(CardError, match="log16"):
        Log16(near, far, error)
