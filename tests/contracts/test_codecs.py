"""What every codec keeps; a new one in `codecs.CODECS` is tested by itself."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdpipe.codecs import CODECS, codec_of
from kdpipe.codecs.companded import Companded
from kdpipe.codecs.log16 import Log16
from kdpipe.errors import CardError, StoreError

EXAMPLES: dict[str, Log16 | Companded] = {
    "log16": Log16(near=0.1, far=10.0),
    "companded": Companded(levels=32),
}


@pytest.mark.parametrize("name", sorted(CODECS))
def test_a_codec_comes_back_from_a_stores_attributes(name: str) -> None:
    codec = EXAMPLES[name]

    text = json.dumps(codec.to_json())

    assert codec_of(json.loads(text), "a store") == codec


@pytest.mark.parametrize("name", sorted(CODECS))
def test_decoding_is_the_table_and_encoding_it_again_changes_nothing(name: str) -> None:
    codec = EXAMPLES[name]
    table = codec.table.astype(np.float32)[:, None, None]

    codes = codec.encode(table)
    again = codec.encode(codec.table[codes])

    assert np.array_equal(codes, again)
    assert codes.dtype == (np.uint16 if name == "log16" else np.uint8)


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(StoreError, match=r"'zfp'.*companded, log16"):
        codec_of({"codec": "zfp"}, "a store")


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(CardError, match="'nearest'"):
        codec_of({"codec": "log16", "nearest": 1.0}, "a store")
