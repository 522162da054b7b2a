"""The codec of two-parameter distributions: its bounds, edges and bytes, and its torch twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kdpipe.codecs import LogBinomial
from kdpipe.codecs import replay as in_numpy
from kdpipe.errors import CardError
from kdpipe.nets import log_binomial as in_torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

FREE = LogBinomial(bins=64, attractors=(2, 1))
NORMED = LogBinomial(bins=3, attractors=(3, 2, 1, 1), span=(1e-3, 80.0))
COARSE = LogBinomial(bins=3, attractors=(2,), max_point_error=0.02, offset=0.5)
CODECS = pytest.mark.parametrize("codec", [FREE, NORMED, COARSE], ids=["free", "normed", "coarse"])

LOGIT = st.floats(-12, 12) | st.sampled_from([-100, -9.2103, -9.2102, 0, 9.2102, 9.2103, 100])
WARMTH = st.floats(0, 1)


def pairs(data: st.DataObject) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A map of p, also where it is steep, and one of T, also at its ends."""
    shape = data.draw(npst.array_shapes(min_dims=2, max_dims=2, max_side=5))
    logits = data.draw(npst.arrays(np.float64, shape, elements=LOGIT))
    warmth = data.draw(npst.arrays(np.float64, shape, elements=WARMTH))
    p: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
    temperature: NDArray[np.float64] = 0.0212 * (50 / 0.0212) ** warmth
    return p.astype(np.float32), temperature.astype(np.float32)


def odds(p: NDArray[np.float32]) -> NDArray[np.float64]:
    """ln(p / (1 - p)), as far as ZoeDepth reads it."""
    low, high = (np.log(np.clip(one, 1e-4, 1, dtype=np.float64)) for one in (p, 1 - p))
    difference: NDArray[np.float64] = low - high
    return difference


def truth(p: NDArray[Any], temperature: NDArray[Any]) -> NDArray[np.float64]:
    """The teacher's probabilities (64, h, w), without the noise of float32."""
    a, b = (torch.from_numpy(np.asarray(one, np.float64))[None] for one in (p, temperature))
    return np.asarray(in_torch.log_binomial(a, b, 64)[0])


def together(codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    return np.cumsum(codes, axis=-2, dtype=np.uint16)


def points(
    data: st.DataObject, codec: LogBinomial
) -> tuple[tuple[int, int], NDArray[np.float32], list[NDArray[np.float32]]]:
    """A small native size, seeds [m] and attractors; many lie where they draw steeply."""
    cell = 2 ** (len(codec.attractors) + 1)
    size = (cell * data.draw(st.integers(1, 2)), cell * data.draw(st.integers(1, 3)))
    near, far = codec.span or (0.0, 100.0)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    middle, reach = data.draw(st.floats(0, 1)), data.draw(st.sampled_from([1e-3, 0.1, 3.0]))
    maps = []
    for shape in codec.shapes(size):
        close = middle + reach * rng.normal(size=shape) * (1 if codec.span else 0.1)
        places = np.where(rng.random(shape) < 0.7, close, rng.random(shape) ** 3)
        maps.append(np.abs(places).astype(np.float32))
    unit = far - near if codec.span else 10.0
    seeds = (near + unit * np.clip(maps[0], 0, 1)).astype(np.float32)
    attractors = [one if codec.span else 10 * one for one in maps[1:]]
    return size, seeds, attractors


@settings(max_examples=50)
@given(data=st.data())
def test_logit_p_and_ln_t_stay_within_their_bounds(data: st.DataObject) -> None:
    p, temperature = pairs(data)

    codes = FREE.encode(p, temperature)
    decoded_p, decoded_t = FREE.decode(codes)

    assert codes.dtype == np.uint16
    logits, temperatures, _ = FREE.tables
    kept = logits[together(codes)[0]], temperatures[together(codes)[1]]
    assert np.abs(kept[0] - odds(p)).max() <= FREE.max_logit_error + 1e-9
    assert np.abs(np.log(kept[1] / temperature)).max() <= FREE.max_temperature_error + 1e-6
    steep = decoded_p * (1 - decoded_p)
    slack = np.expm1(FREE.max_logit_error) * steep + 2e-7
    assert (np.abs(decoded_p - np.clip(p, 1e-4, 1 - 1e-4)) <= slack).all()
    np.testing.assert_allclose(decoded_t, temperature, rtol=FREE.max_temperature_error * 1.01)


@settings(max_examples=50)
@given(data=st.data())
def test_a_distribution_is_as_near_as_stated(data: st.DataObject) -> None:
    p, temperature = pairs(data)
    expected = truth(p, temperature)

    found = FREE.probabilities(FREE.encode(p, temperature)).astype(np.float64)

    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    matters = expected > 1e-15
    ratio = np.where(matters, expected, 1) / np.where(matters, np.maximum(found, 1e-30), 1)
    nats = np.sum(expected * np.log(ratio), axis=0)
    assert (nats <= np.where(temperature < 0.08, 4e-4, 1e-4) + 1e-6).all()


def test_the_bound_of_logits_is_nearly_reached_so_no_code_is_wasted() -> None:
    logits = np.linspace(-9, 9, 100_001)
    p = (1 / (1 + np.exp(-logits))).astype(np.float32)[None]

    kept = FREE.tables[0][together(FREE.encode(p, np.ones_like(p)))[0]]

    worst = np.abs(kept - odds(p)).max()
    assert 0.98 * FREE.max_logit_error < worst <= FREE.max_logit_error + 1e-9


@CODECS
@settings(max_examples=50)
@given(data=st.data())
def test_points_and_centres_stay_within_their_bounds(
    codec: LogBinomial, data: st.DataObject
) -> None:
    size, seeds, attractors = points(data, codec)

    codes = codec.encode_points(seeds, attractors)
    decoded_seeds, decoded = codec.decode_points(codes, size)
    centers = codec.centers(codes, size)

    near, far = codec.span or (0.0, 1.0)
    assert codes.shape == (codec.points(size),)
    unit = (far - near) if codec.span else 1.0
    before = [(seeds - near) / unit, *attractors]
    after = [(decoded_seeds - near) / unit, *decoded]
    for one, other in zip(before, after, strict=True):
        slack = 1e-6 * (1 + one)
        bound = codec.max_point_error * (one + codec.point_offset) + slack
        assert (np.abs(other - one) <= bound).all()
    maps = [torch.from_numpy(one)[None] for one in (seeds, *attractors)]
    span = None if codec.span is None else in_torch.Span(*codec.span)
    coarse = in_torch.replay(maps[0], maps[1:], span)
    expected = torch.nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=True)
    relative, metres = codec.max_center_error
    error = np.abs(centers - expected[0].numpy())
    rounding = 1e-5 * (1 + (expected[0].numpy() if codec.span is None else np.float32(far)))
    assert (error <= relative * expected[0].numpy() + metres + rounding).all()


@CODECS
@settings(max_examples=50)
@given(data=st.data())
def test_torch_makes_the_same_of_what_is_stored(codec: LogBinomial, data: st.DataObject) -> None:
    size, seeds, attractors = points(data, codec)
    codes = codec.encode_points(seeds, attractors)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    p = (1 / (1 + np.exp(rng.normal(scale=4, size=size)))).astype(np.float32)
    temperature = np.geomspace(0.0212, 50, p.size, dtype=np.float32).reshape(size)
    pair = codec.encode(p, temperature)

    decoded_seeds, decoded = codec.decode_points(codes, size)
    both = [torch.from_numpy(one.astype(np.float64))[None] for one in codec.decode(pair)]
    bins = in_torch.LogBinomialBins(
        both[0],
        both[1],
        torch.from_numpy(decoded_seeds)[None],
        tuple(torch.from_numpy(one)[None] for one in decoded),
        None if codec.span is None else in_torch.Span(*codec.span),
    )

    unit = 1.0 if codec.span is None else codec.span[1] - codec.span[0]
    found = codec.centers(codes, size)
    np.testing.assert_allclose(found, bins.centers()[0], rtol=1e-5, atol=1e-5 * unit)
    # At p = 1 - 1e-4 a float32 keeps 1 - p to 6e-4, which the coldest T multiplies.
    moderate = (np.abs(odds(p)) < 3) & (temperature > 0.1)
    found = codec.probabilities(pair)
    expected = bins.probabilities()[0].numpy()
    np.testing.assert_allclose(found[:, moderate], expected[:, moderate], atol=1e-5)
    assert np.abs(found - expected).max() <= 5e-4


@settings(max_examples=50)
@given(data=st.data())
def test_probabilities_are_those_of_torch(data: st.DataObject) -> None:
    codes = FREE.encode(*pairs(data))
    logits, temperatures, _ = FREE.tables
    kept = logits[together(codes)[0]], temperatures[together(codes)[1]]

    found = FREE.probabilities(codes)

    np.testing.assert_allclose(found, truth(1 / (1 + np.exp(-kept[0])), kept[1]), atol=1e-5)


def test_the_twins_have_the_same_constants() -> None:
    assert in_numpy.ALPHA == in_torch.ALPHA
    maps = np.random.default_rng(0).random((2, 5, 4)).astype(np.float32)
    for size in ((9, 1), (5, 4), (1, 7), (10, 12)):
        resized = in_numpy.resize(maps, size)

        expected = torch.nn.functional.interpolate(
            torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=True
        )
        np.testing.assert_allclose(resized, expected[0], atol=1e-6)


def test_every_so_manieth_line_is_that_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.random(shape).astype(np.float32) for shape in NORMED.shapes((32, 64))]
    pair = NORMED.encode(rng.random((32, 64), np.float32), np.full((32, 64), 2, np.float32))
    codes = NORMED.encode_points(80 * maps[0], maps[1:])

    for step in (3, 7):
        whole = NORMED.probabilities(pair)[:, ::step, ::step]
        assert np.array_equal(NORMED.probabilities(pair, step), whole)
        whole = NORMED.centers(codes, (32, 64))[:, ::step, ::step]
        assert np.array_equal(NORMED.centers(codes, (32, 64), step), whole)


@pytest.mark.parametrize(
    ("p", "temperature", "expected"),
    [
        pytest.param(0.0, 1.0, (1e-4, 1.0), id="p-0-is-the-least-that-is-read"),
        pytest.param(1.0, 1.0, (1 - 1e-4, 1.0), id="p-1-is-the-most"),
        pytest.param(np.nan, 1.0, (0.5, 1.0), id="no-p-is-the-middle"),
        pytest.param(0.5, np.nan, (0.5, 50.0), id="no-t-is-the-hottest"),
        pytest.param(0.5, 0.01, (0.5, 0.0212), id="colder-clamps"),
        pytest.param(0.5, np.inf, (0.5, 50.0), id="hotter-clamps"),
    ],
)
def test_edges_of_pairs(p: float, temperature: float, expected: tuple[float, float]) -> None:
    maps = (np.full((2, 1), value, np.float32) for value in (p, temperature))

    decoded = [float(one[1, 0]) for one in FREE.decode(FREE.encode(*maps))]

    assert decoded == pytest.approx(expected, rel=FREE.max_temperature_error)


def test_edges_of_points() -> None:
    values = np.array([-1.0, 0.0, np.nan, np.inf], np.float32)
    codec = LogBinomial(bins=4, attractors=(1,))
    seeds = values[:, None, None]

    codes = codec.encode_points(seeds, [np.zeros((1, 2, 2), np.float32)])

    decoded, _ = codec.decode_points(codes, (4, 4))
    assert decoded.ravel()[:3].tolist() == [0, 0, 0]
    assert decoded[3, 0, 0] == pytest.approx(1e6, rel=codec.max_point_error)
    assert np.isfinite(codec.centers(codes, (4, 4))).all()


def test_codes_of_zero_decode_to_no_number_anywhere() -> None:
    pair, none = np.zeros((2, 8, 8), np.uint16), np.zeros(FREE.points((8, 8)), np.uint16)

    assert FREE.probabilities(pair).shape == (64, 8, 8)
    assert [float(one.mean()) for one in FREE.decode(pair)] == [0.5, 50.0]
    assert not FREE.centers(none, (8, 8)).any()


def test_codes_are_frozen() -> None:
    p = np.array([[0, 1e-4, 0.25], [0.5, 0.9, 1]], np.float32)
    temperature = np.array([[0.0212, 0.1, 1], [2, 10, 50]], np.float32)
    codec = LogBinomial(bins=2, attractors=(1,))
    seeds = np.array([0.25, 3.5], np.float32).reshape(2, 1, 1)
    attractors = np.array([[0, 0.1], [1, 9.75]], np.float32)[None]
    normed = LogBinomial(bins=2, attractors=(1,), span=(1.0, 81.0))

    pair = codec.encode(p, temperature)

    assert together(pair)[0].tolist() == [[1, 1, 4058], [4607, 5706, 9213]]
    assert together(pair)[1].tolist() == [[1, 389, 965], [1138, 1541, 1943]]
    assert pair[:, 1].tolist() == [[4606, 5705, 5155], [1137, 1152, 978]]
    assert codec.encode_points(seeds, [attractors]).tolist() == [628, 1794, 1, 348, 1200, 1949]
    assert normed.encode_points(2 + seeds, [attractors]).tolist() == [
        1303,
        1916,
        1,
        2199,
        3345,
        2285,
    ]


def test_a_code_of_other_parameters_is_refused() -> None:
    largest = FREE.largest_codes
    pair = np.ones((2, 1, 1), np.uint16)
    pair[1] = largest[1] + 1
    with pytest.raises(ValueError, match=rf"code {largest[1] + 1} found, {largest[1]} is largest"):
        FREE.decode(pair)
    none = np.zeros(FREE.points((8, 8)), np.uint16)
    none[0] = largest[2] + 1
    with pytest.raises(ValueError, match=f"{largest[2]} is largest"):
        FREE.centers(none, (8, 8))
    with pytest.raises(ValueError, match=r"\(64,\) found, 88 needed"):
        FREE.centers(none[:64], (8, 8))


def test_maps_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"map of \(8, 12\) found, multiples of 8 expected"):
        FREE.points((8, 12))
    seeds, level = np.ones((64, 1, 1), np.float32), np.ones((2, 2, 2), np.float32)
    with pytest.raises(ValueError, match=r"\(3, 4, 4\)\] found, .*\(1, 4, 4\)\] expected"):
        FREE.encode_points(seeds, [level, np.ones((3, 4, 4), np.float32)])


@pytest.mark.parametrize(
    "changes",
    [
        {"bins": 1},
        {"attractors": ()},
        {"attractors": (4, 0)},
        {"span": (3.0, 2.0)},
        {"max_logit_error": 0.0},
        {"max_point_error": 0.2},
        {"coldest": 60.0},
        {"offset": 0.0},
        {"max_logit_error": 1e-4},
        {"offset": np.nan},
        {"hottest": np.inf},
        {"span": (0.0, np.inf)},
    ],
)
def test_impossible_parameters_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CardError, match="log-binomial"):
        LogBinomial(**{"bins": 64, "attractors": (16, 8, 4, 1), **changes})
