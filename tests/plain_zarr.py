"""Opening a store with zarr or xarray alone, which warn of what they can read all the same."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

EXPECTED = (
    "Numcodecs codecs are not in the Zarr",  # other libraries may lack pcodec and delta
    "Combining a `sharding_indexed` codec",  # a part of a map costs the whole map
)


@contextlib.contextmanager
def plain_zarr() -> Iterator[None]:
    """Lets these two warnings pass; any other one is an error."""
    with warnings.catch_warnings():
        for message in EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        yield
