"""What every codec keeps; a new one in `codecs.CODECS` is tested by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from kdpipe.codecs import CODECS, Codec, Companded, Log16, LogBinomial, codec_of
from kdpipe.errors import CardError, StoreError

EXAMPLES: dict[str, Codec] = {
    "log16": Log16(near=0.1, far=10.0),
    "companded": Companded(levels=32),
    "log-binomial": LogBinomial(bins=3, attractors=(2, 1), span=(0.1, 9.0)),
}


def again(codec: Codec) -> Iterator[tuple[Any, Any]]:
    """Codes, and what decoding and encoding makes of them; of every code there is."""
    if isinstance(codec, LogBinomial):
        logits, temperature, _ = codec.tables
        p = np.resize(1 / (1 + np.exp(-logits)), (100, 100)).astype(np.float32)
        pair = codec.encode(p, np.resize(temperature, (100, 100)).astype(np.float32))
        yield pair, codec.encode(*codec.decode(pair))
        rng = np.random.default_rng(0)
        seeds, *attractors = (rng.random(one, np.float32) for one in codec.shapes((64, 64)))
        points = codec.encode_points(9 * seeds, attractors)
        yield points, codec.encode_points(*codec.decode_points(points, (64, 64)))
    else:
        codes = codec.encode(codec.table.astype(np.float32)[:, None, None])
        yield codes, codec.encode(codec.table[codes])


@pytest.mark.parametrize("name", sorted(CODECS))
def test_a_codec_comes_back_from_a_stores_attributes(name: str) -> None:
    codec = EXAMPLES[name]

    text = json.dumps(codec.to_json())

    assert codec_of(json.loads(text), "a store") == codec


@pytest.mark.parametrize("name", sorted(CODECS))
def test_encoding_what_was_decoded_changes_nothing(name: str) -> None:
    for codes, others in again(EXAMPLES[name]):
        assert np.array_equal(codes, others)
        assert codes.dtype == (np.uint8 if name == "companded" else np.uint16)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_parameter_is_in_a_stores_attributes(name: str) -> None:
    codec = EXAMPLES[name]

    assert codec.to_json().keys() == {"codec", *(one.name for one in fields(codec))}
    assert codec.to_json()["codec"] == name


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(StoreError, match=r"'zfp'.*companded, log-binomial, log16"):
        codec_of({"codec": "zfp"}, "a store")


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(CardError, match="'nearest'"):
        codec_of({"codec": "log16", "nearest": 1.0}, "a store")
