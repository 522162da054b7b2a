"""Of a store whose root is lost, the arrays' own files say what its arrays were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.store.conftest import CODEC, NATIVE, info_of

from kdpipe.cards import DataCard, load_teacher_card
from kdpipe.codecs import Companded, LogBinomial
from kdpipe.store import layout
from kdpipe.store.consensus import read_remains, settle
from kdpipe.store.disk import as_json, read_json
from kdpipe.store.identity import identity_of
from kdpipe.store.metadata import StoreInfo, formats, read_info, write_info

BINS: dict[str, tuple[tuple[int, int], Companded | LogBinomial | None]] = {
    "depth alone": (NATIVE, None),
    "companded": (NATIVE, Companded()),
    "log-binomial": ((32, 64), LogBinomial(bins=8, attractors=(4, 2, 1, 1))),
}


def info_with(kind: str) -> StoreInfo:
    """A store's attributes with bins of a kind."""
    native, bins = BINS[kind]
    identity = identity_of(
        load_teacher_card("adabins-small"),
        DataCard(name="photos", family="folder", domain="any"),
        weights={"sha256": "0" * 64, "source": "fitted"},
        rule="bicubic-padded",
        codecs={"depth": CODEC} if bins is None else {"depth": CODEC, "bins": bins},
        shard_rows=4,
    )
    arrays = formats(native, 5 if isinstance(bins, Companded) else bins)
    return StoreInfo(identity=identity, rows=10, arrays=arrays)


@pytest.mark.parametrize("kind", BINS)
def test_arrays_rows_rule_and_codecs_are_found_without_the_root(kind: str, tmp_path: Path) -> None:
    info = info_with(kind)
    write_info(tmp_path, info)
    layout.metadata_path(tmp_path).unlink()

    found = read_remains(tmp_path)

    assert found is not None
    assert (found.rows, found.shard_rows, found.arrays) == (10, 4, info.arrays)
    assert (found.rule, found.codecs) == (info.rule, info.identity["codecs"])


def test_most_files_decide_and_in_doubt_the_root(tmp_path: Path) -> None:
    info = info_of()
    write_info(tmp_path, info)
    assert settle(tmp_path, read_info(tmp_path)) == info

    assert settle(tmp_path, replace(info, rows=11)) == info
    assert settle(tmp_path, replace(info, arrays=info.arrays[:2])) == info

    own = layout.metadata_path(tmp_path, layout.DEPTH)
    values = read_json(own)
    own.write_bytes(as_json({**values, "dimension_names": ["row", "up", "x"]}))
    assert settle(tmp_path, info) == info
    own.write_text("{")
    assert read_remains(tmp_path) is None
    assert settle(tmp_path, info) == info


def test_of_nothing_nothing_remains(tmp_path: Path) -> None:
    assert read_remains(tmp_path) is None
