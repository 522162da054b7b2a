"""The rows of a data set that `index` listed."""

from __future__ import annotations

from pathlib import Path

from kdpipe.cards import card_names
from kdpipe.errors import DataError, UnknownNameError
from kdpipe.rows import Rows, read_rows
from kdpipe.store.layout import rows_path


def rows_of(data: str, manifests: Path | None = None) -> Rows:
    """Reads the rows of a data set.

    Args:
        data: name of a card, or what `index --name` called a copy of one.
        manifests: folder of the cards.

    Raises:
        UnknownNameError: neither rows nor a card have this name.
        DataError: it was not indexed yet.
    """
    check_known(data, manifests)
    return read_rows(rows_path(data))


def check_known(data: str, manifests: Path | None = None) -> None:
    """Refuses a name that is of no data set, indexed or not.

    Raises:
        UnknownNameError: neither rows nor a card have this name.
    """
    indexed = {path.stem for path in rows_path("any").parent.glob("*.parquet")}
    known = indexed | set(card_names("data", manifests))
    if data not in known:  # also keeps a name with a slash from leaving the folder
        raise UnknownNameError("manifests/data", data, known)


def rows_with_truth(rows: Rows, split: str) -> list[int]:
    """Numbers of a split's rows that have measured depth.

    Raises:
        DataError: there is none.
    """
    truths = rows.table["truth"].to_pylist()
    found = [number for number in rows.of_split(split) if truths[number] is not None]
    if not found:
        raise DataError(
            f"{rows.name}: no row of split {split!r} has measured depth: take a labelled split"
        )
    return found
