"""One (data set, teacher) on disk: Zarr v3, readable without torch, kdpipe, or the teacher."""

from __future__ import annotations

from kdpipe.store.bins import StoredBins, StoredLogBinomial
from kdpipe.store.reader import Store, open_store

__all__ = ["Store", "StoredBins", "StoredLogBinomial", "open_store"]
