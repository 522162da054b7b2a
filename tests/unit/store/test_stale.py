"""A store of other weights or rows than those here now is refused; what is not known is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kdpipe import distill, evaluate
from kdpipe.errors import StaleStoreError
from kdpipe.params import Params, TrainParams
from kdpipe.rows import make_rows, read_rows, write_rows
from kdpipe.store import layout, ledger
from kdpipe.store.disk import as_json, write_atomically
from kdpipe.store.stale import FITTED_ON, check_rows, check_weights

if TYPE_CHECKING:
    from tests.conftest import MakeRows, MakeStore

    from kdpipe.store import Store

TEACHER, STUDENT = "adabins-small", "mobilenetv2-small"
ONE_STEP = TrainParams(height=32, width=48, batch_size=2, steps=1, validate_every=1)
PARAMS = Params(distill={STUDENT: ONE_STEP})
SAME, OTHER = "0" * 64, "1" * 64


@pytest.fixture
def store(make_tiny: MakeRows, make_tiny_store: MakeStore) -> Store:
    """Over eight rows, of weights SAME."""
    return make_tiny_store(make_tiny())


def fit(data: str, sha256: str) -> None:
    write_atomically(layout.weights_path(data, TEACHER), as_json({"sha256": sha256}))


def note(path: Path, fitted_on: str | None) -> None:
    record = ledger.read_record(path, 0)
    assert record is not None
    layout.record_path(path, 0).unlink()
    for shard in ledger.finished(path):
        layout.record_path(path, shard).unlink()
    ledger.write_record(path, replace(record, environment={FITTED_ON: fitted_on}))


@pytest.mark.parametrize(
    ("here", "fitted_on", "is_stale"),
    [
        pytest.param({}, "tiny", False, id="from-another-machine"),
        pytest.param({"tiny": SAME}, "tiny", False, id="the-same"),
        pytest.param({"tiny": OTHER}, "tiny", True, id="fitted-again"),
        pytest.param({"tiny": OTHER, "first": SAME}, "first", False, id="fitted-on-another"),
        pytest.param({"first": OTHER}, "first", True, id="another-was-fitted-again"),
        pytest.param({"first": OTHER}, "tiny", False, id="of-another-data-set-only"),
        pytest.param({"tiny": OTHER}, None, False, id="given-by-hand"),
    ],
)
def test_weights_are_compared_where_they_are_known(
    here: dict[str, str], fitted_on: str | None, is_stale: bool, store: Store
) -> None:
    note(store.path, fitted_on)
    for data, sha256 in here.items():
        fit(data, sha256)

    if is_stale:
        with pytest.raises(StaleStoreError, match=r"weights\.sha256 is '00.* expected '11"):
            check_weights(store.path, store.info)
    else:
        check_weights(store.path, store.info)


def test_stores_that_do_not_say_where_their_weights_are_from_are_of_their_own_data_set(
    store: Store,
) -> None:
    fit("tiny", OTHER)

    for use in (
        lambda: distill.run(STUDENT, "tiny", teacher=TEACHER, method="tie-kd", params=PARAMS),
        lambda: evaluate.run(teacher=TEACHER, data="tiny", split="val"),
    ):
        with pytest.raises(StaleStoreError, match=r"tiny/adabins-small\.zarr: weights\.sha256"):
            use()

    fit("other", SAME)
    assert evaluate.run(teacher=TEACHER, data="tiny", split="val").summary.images == 2


def test_rows_that_were_edited_are_refused_and_new_ones_are_not(store: Store) -> None:
    rows = read_rows(layout.rows_path("tiny"))
    listed = rows[:]
    check_rows(store.path, make_rows(rows.card, rows.root, [*listed, replace(listed[0], id="9")]))
    fewer = make_rows(rows.card, rows.root, listed[:6])
    assert [one.shard for one in check_rows(store.path, fewer)] == [0, 1, 2]
    with pytest.raises(StaleStoreError, match=r"rows 6 to 7 are not .* \(there are only 7\)"):
        check_rows(store.path, make_rows(rows.card, rows.root, listed[:7]))

    listed[5] = replace(listed[5], image_digest="f" * 16)
    write_rows(layout.rows_path("tiny"), make_rows(rows.card, rows.root, listed))

    with pytest.raises(StaleStoreError, match=r"rows 4 to 5 are not those of tiny now"):
        evaluate.run(teacher=TEACHER, data="tiny", split="val")
