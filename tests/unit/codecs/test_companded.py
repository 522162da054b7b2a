"""The codec of probabilities: its bound, its edges, its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kdpipe.codecs.companded import Companded
from kdpipe.errors import CardError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CODEC = Companded()
FLOAT32_SLACK = 1e-5


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponents = np.exp(logits - logits.max(axis=0, keepdims=True))
    result: NDArray[np.float32] = exponents / exponents.sum(axis=0, keepdims=True)
    return result


@pytest.mark.parametrize("codec", [CODEC, Companded(levels=256, floor=0.0)], ids=["64", "256"])
@given(data=st.data())
def test_round_trip_stays_within_the_stated_bound(codec: Companded, data: st.DataObject) -> None:
    shapes = st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4))
    logits = data.draw(npst.arrays(np.float32, shapes, elements=st.floats(-20, 20, width=32)))
    probabilities = softmax(logits)

    codes = codec.encode(probabilities)
    decoded = codec.decode(codes)

    undivided = np.sqrt(codec.table[codes])
    assert np.max(np.abs(undivided - np.sqrt(probabilities))) <= (
        codec.max_root_error + FLOAT32_SLACK
    )
    np.testing.assert_allclose(decoded.sum(axis=0), 1, rtol=FLOAT32_SLACK)
    bound = 2 * np.sqrt(len(logits)) * codec.max_root_error + FLOAT32_SLACK
    assert np.max(np.linalg.norm(np.sqrt(decoded) - np.sqrt(probabilities), axis=0)) <= bound
    assert np.max(np.abs(decoded - probabilities).sum(axis=0)) / 2 <= bound


def test_every_decoded_probability_has_a_logarithm() -> None:
    one_hot = np.zeros((256, 1, 1), np.float32)
    one_hot[7] = 1

    decoded = CODEC.decode(CODEC.encode(one_hot))

    assert np.isfinite(np.log(decoded)).all()
    assert decoded[7, 0, 0] == pytest.approx(1, abs=256 * CODEC.floor)


def test_codes_are_frozen() -> None:
    probabilities = np.array([0, 1e-5, 1e-4, 0.01, 0.25, 1, np.nan, 1e300])

    codes = CODEC.encode(probabilities[:, None, None])

    assert codes.ravel().tolist() == [0, 0, 1, 6, 32, 63, 0, 63]


@pytest.mark.parametrize("said", [0.004, np.nan, -1e300, 5e-324])
def test_where_all_codes_are_0_the_distribution_is_even(said: float) -> None:
    codec = Companded(levels=3, floor=0.0)

    decoded = codec.decode(codec.encode(np.full((256, 1, 1), said)))

    np.testing.assert_allclose(decoded, 1 / 256, rtol=1e-5)


def test_a_code_of_other_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="64 levels exist"):
        CODEC.decode(np.array([[[64]]], np.uint8))


@pytest.mark.parametrize(("levels", "floor"), [(1, 0.0), (257, 0.0), (64, 1e-2), (64, -1.0)])
def test_impossible_parameters_are_refused(levels: int, floor: float) -> None:
    with pytest.raises(CardError, match="companded"):
        Companded(levels, floor)
