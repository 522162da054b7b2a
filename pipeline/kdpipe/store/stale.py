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
    from kdpipe.store.ledger import Line
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


def check_rows(path: Path, rows: Rows) -> list[Line]:
    """Refuses a store of which rows were reordered or edited since; rows at the end may be new.

    Args:
        path: of the store.
        rows: of the data set, as they are now.

    Returns:
        What the finished shards of these rows hold, in order; those beyond them are left out.

    Raises:
        StaleStoreError: names the rows of the first shard that differs, or that cannot be compared
            because the data set ends within it.
    """
    lines = [line for line in read_lines(path) if line.start < len(rows)]
    for line in lines:
        is_cut = line.stop > len(rows)
        if is_cut or line.row_digest != rows.digest(line.start, line.stop):
            differ = "order, images, frames or focal lengths differ"
            why = f"there are only {len(rows)}" if is_cut else differ
            raise StaleStoreError(
                f"{path}: rows {line.start} to {line.stop - 1} are not those of {rows.name} now "
                f"({why}): restore them, or `kdpipe store rm {path}` and teach again"
            )
    return lines


def _weights_here(teacher: str) -> dict[str, object]:
    """Data set -> digest of the weights that its `fit` gave or found."""
    found: dict[str, object] = {}
    for path in sorted(Path().glob(str(layout.weights_path("*", teacher)))):
        try:
            found[path.parent.parent.name] = read_json(path).get("sha256")
        except (OSError, StoreError):
            continue  # a torn one says nothing; `fit` and `teach` name it
    return found
