"""A small store on S3, shard by shard: the rows of tests/unit/store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.s3_server import place
from tests.unit.store.conftest import ROWS, info_of
from tests.unit.store.conftest import write_shard as write

from kdpipe.store.claims import Owner

if TYPE_CHECKING:
    import pytest

    from kdpipe.store.ledger import Record

STORE = place("stores/photos/adabins-small.zarr")


def write_shard(shard: int, *, rows: int = ROWS, note: float = 0.0) -> Record:
    """As a worker does."""
    return write(STORE, info_of(rows), shard, note=note)


def be_alone(patch: pytest.MonkeyPatch) -> None:
    """Every other owner of a claim is dead from now on."""
    patch.setattr(Owner, "is_gone", property(lambda _: True))
