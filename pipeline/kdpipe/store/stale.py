"""Whether a store that is to be read is of the weights and rows that are here now: O(shards)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from kdpipe.errors import StaleStoreError, StoreError
from kdpipe.store import layout
from kdpipe.store.consolidated import read_lines
from kdpipe.store.disk import read_json
from kdpipe.store.identity import compare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kdpipe.rows import Rows
    from kdpipe.store.metadata import StoreInfo

FITTED_ON = "fitted_on"
"""Of a record's environment: the data set whose `fit` gave the weights; None: they were given.
Absent, as in the first stores: taken for the store's own, as it mostly was."""


def check_weights(path: Path, info: StoreInfo) -> None:
    """Refuses a store whose teacher was fitted again since, or found to be another file.

    Only what is known here is compared: a store that came from another machine without its
    weights passes, and so does one whose weights were given by hand.

    Args:
        path: of the store.
        info: of the store.

    Raises:
        StaleStoreError: names the field, with both digests.
    """
    if "imported" in info.identity:
        return
    noted = {line.environment.get(FITTED_ON, info.data) for line in read_lines(path)}
    here = _weights_here(info.teacher)
    found = cast("Mapping[str, object]", info.identity["weights"])["sha256"]
    if None in noted or found in here.values():
        return
    for data in sorted(here.keys() & noted):
        expected = {"weights": {"sha256": here[data]}}
        compare(path, {"weights": {"sha256": found}}, expected)


def check_rows(path: Path, rows: Rows) -> None:
    """Refuses a store of which rows were reordered or edited since; rows at the end may be new.

    Args:
        path: of the store.
        rows: of the data set, as they are now.

    Raises:
        StaleStoreError: names the rows of the first shard that differs.
    """
    for line in read_lines(path):
        if line.stop <= len(rows) and line.row_digest != rows.digest(line.start, line.stop):
            raise StaleStoreError(
                f"{path}: rows {line.start} to {line.stop - 1} are not those of {rows.name} now "
                "(order, images, frames or focal lengths differ): restore them, or remove the "
                "store and its manifest and teach again"
            )


def _weights_here(teacher: str) -> dict[str, object]:
    """Data set -> digest of the weights that its `fit` gave or found."""
    found: dict[str, object] = {}
    for path in sorted(Path().glob(str(layout.weights_path("*", teacher)))):
        try:
            found[path.parent.parent.name] = read_json(path).get("sha256")
        except (OSError, StoreError):
            continue  # a torn one says nothing; `fit` and `teach` name it
    return found
